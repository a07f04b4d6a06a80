//! Starts the backend that the user chose, or the best one that works on this machine.

use std::{path::PathBuf, sync::Arc};

use super::{
    api::Backend, context::ServerContext, host::HostBackend, server_directory::Root, warm,
};
#[cfg(target_os = "linux")]
use super::{
    gvisor::sandbox::{GvisorBackend, runsc},
    namespace::sandbox::{NamespaceBackend, bubblewrap},
};
use crate::server::{
    choice::{self, GvisorOptions, NamespaceOptions},
    error::ServerError,
};

/// Environment variable that names the backend if the builder does not.
const VARIABLE: &str = "ACTIX_SANDBOX_BACKEND";

/// Starts a backend that keeps its sandboxes in `root`. `state` is the state directory of the
/// server. `agent` is the program of the agents, if the user chose one. `warm` is the size of the
/// warm pool; fails if it is not 0 and the user chose `host`. Must be called on a tokio runtime.
pub(crate) async fn start(
    chosen: Option<&choice::Backend>,
    root: Root,
    state: Option<PathBuf>,
    agent: Option<PathBuf>,
    server: String,
    warm: usize,
) -> Result<Arc<dyn Backend>, ServerError> {
    let chosen = match chosen {
        Some(chosen) => chosen.clone(),
        None => named()?,
    };
    chosen.check()?;
    warm::check(warm, &chosen)?;
    let context = ServerContext::start(root, state, agent, server)
        .map_err(|source| ServerError::Watchdog { source })?;
    context.begin_to_clear_abandoned();
    let begun = begin(&chosen, &context).await;
    if begun.is_err() {
        context.clear().await;
    }
    begun
}

impl choice::Backend {
    /// Returns the path of the program that runs the sandboxes of this backend: `bwrap` for
    /// [`Namespace`](Self::Namespace), `runsc` for [`Gvisor`](Self::Gvisor). Returns `None` for other
    /// backends, or if the program is not found. Searches at each call, where a starting server
    /// searches.
    pub fn program(&self) -> Option<PathBuf> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Namespace(_) => bubblewrap(),
            #[cfg(target_os = "linux")]
            Self::Gvisor(options) => runsc(&options.binary),
            _ => None,
        }
    }
}

/// The backend that the environment names.
fn named() -> Result<choice::Backend, ServerError> {
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
        return Ok(choice::Backend::default());
    };
    let name = name.to_string_lossy();
    name.parse().map_err(|reason| ServerError::UnknownBackend {
        variable: VARIABLE,
        reason,
    })
}

async fn begin(
    chosen: &choice::Backend,
    context: &Arc<ServerContext>,
) -> Result<Arc<dyn Backend>, ServerError> {
    match chosen {
        choice::Backend::Host => host(context),
        choice::Backend::Namespace(options) => namespace(options, context)
            .await
            .map_err(unusable("namespace")),
        choice::Backend::Gvisor(options) => {
            gvisor(options, context).await.map_err(unusable("gvisor"))
        }
        choice::Backend::Confined => {
            let confined = confined(context).await;
            confined.map_err(|reason| ServerError::NotConfined { reason })
        }
        choice::Backend::Auto => match confined(context).await {
            Ok(backend) => Ok(backend),
            Err(reason) => {
                tracing::warn!(
                    backend = "host",
                    reason,
                    "sandboxes run as this user, unconfined"
                );
                host(context)
            }
        },
    }
}

/// The best confined backend that works here. The error says why each of them does not.
async fn confined(context: &Arc<ServerContext>) -> Result<Arc<dyn Backend>, String> {
    let no_gvisor = match gvisor(&GvisorOptions::default(), context).await {
        Ok(backend) => {
            tracing::info!(backend = "gvisor", "sandboxes run in gVisor");
            return Ok(backend);
        }
        Err(reason) => reason,
    };
    match namespace(&NamespaceOptions::default(), context).await {
        Ok(backend) => {
            tracing::info!(
                backend = "namespace",
                no_gvisor,
                "sandboxes run in namespaces"
            );
            Ok(backend)
        }
        Err(no_namespace) => Err(format!(
            "`gvisor`: {no_gvisor}; `namespace`: {no_namespace}"
        )),
    }
}

fn host(context: &Arc<ServerContext>) -> Result<Arc<dyn Backend>, ServerError> {
    let backend = HostBackend::start(context.clone()).map_err(unusable("host"))?;
    Ok(Arc::new(backend))
}

fn unusable(backend: &'static str) -> impl FnOnce(String) -> ServerError {
    move |reason| ServerError::Backend { backend, reason }
}

#[cfg(target_os = "linux")]
async fn namespace(
    options: &NamespaceOptions,
    context: &Arc<ServerContext>,
) -> Result<Arc<dyn Backend>, String> {
    let backend = NamespaceBackend::start(options.clone(), context.clone()).await?;
    Ok(Arc::new(backend))
}

#[cfg(target_os = "linux")]
async fn gvisor(
    options: &GvisorOptions,
    context: &Arc<ServerContext>,
) -> Result<Arc<dyn Backend>, String> {
    let backend = GvisorBackend::start(options.clone(), context.clone()).await?;
    Ok(Arc::new(backend))
}

#[cfg(not(target_os = "linux"))]
async fn namespace(
    _: &NamespaceOptions,
    _: &Arc<ServerContext>,
) -> Result<Arc<dyn Backend>, String> {
    Err("it needs Linux".to_owned())
}

#[cfg(not(target_os = "linux"))]
async fn gvisor(_: &GvisorOptions, _: &Arc<ServerContext>) -> Result<Arc<dyn Backend>, String> {
    Err("it needs Linux".to_owned())
}
