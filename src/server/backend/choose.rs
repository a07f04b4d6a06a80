//! Starts the backend that was chosen, or the best one that works here.

use std::{path::PathBuf, sync::Arc};

#[cfg(target_os = "linux")]
use super::namespace::NamespaceBackend;
use super::{Backend, host::HostBackend, launch::Ground};
use crate::server::{ServerError, choice, choice::NamespaceOptions};

/// Names the backend where the builder does not.
const VARIABLE: &str = "ACTIX_SANDBOX_BACKEND";

/// Starts a backend that keeps its sandboxes in `root`. Must be called on a tokio runtime.
pub(in crate::server) async fn start(
    chosen: Option<&choice::Backend>,
    root: PathBuf,
    server: String,
) -> Result<Arc<dyn Backend>, ServerError> {
    let chosen = match chosen {
        Some(chosen) => chosen.clone(),
        None => named()?,
    };
    let ground = Ground::start(root, server).map_err(|source| ServerError::Watchdog { source })?;
    let begun = begin(&chosen, &ground).await;
    if begun.is_err() {
        ground.clear().await;
    }
    begun
}

/// The backend that the environment names.
fn named() -> Result<choice::Backend, ServerError> {
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
        return Ok(choice::Backend::default());
    };
    let name = name.to_string_lossy();
    name.parse().map_err(|reason| ServerError::Backend {
        backend: VARIABLE,
        reason,
    })
}

async fn begin(
    chosen: &choice::Backend,
    ground: &Arc<Ground>,
) -> Result<Arc<dyn Backend>, ServerError> {
    match chosen {
        choice::Backend::Host => Ok(host(ground)),
        choice::Backend::Namespace(options) => namespace(options, ground).await,
        choice::Backend::Auto => match namespace(&NamespaceOptions::default(), ground).await {
            Ok(backend) => {
                tracing::info!(backend = "namespace", "sandboxes run in namespaces");
                Ok(backend)
            }
            Err(error) => {
                tracing::info!(backend = "host", %error, "sandboxes run as this user, unconfined");
                Ok(host(ground))
            }
        },
    }
}

fn host(ground: &Arc<Ground>) -> Arc<dyn Backend> {
    Arc::new(HostBackend::new(ground.clone()))
}

#[cfg(target_os = "linux")]
async fn namespace(
    options: &NamespaceOptions,
    ground: &Arc<Ground>,
) -> Result<Arc<dyn Backend>, ServerError> {
    let unusable = |reason| ServerError::Backend {
        backend: "namespace",
        reason,
    };
    let backend = NamespaceBackend::start(options.clone(), ground.clone())
        .await
        .map_err(unusable)?;
    Ok(Arc::new(backend))
}

#[cfg(not(target_os = "linux"))]
async fn namespace(_: &NamespaceOptions, _: &Arc<Ground>) -> Result<Arc<dyn Backend>, ServerError> {
    Err(ServerError::Backend {
        backend: "namespace",
        reason: "it needs Linux".to_owned(),
    })
}
