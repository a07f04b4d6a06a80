//! [`Subject`]: the service that a benchmark measures.

use std::time::Duration;

use actix_sandbox::{
    LocalServer, NewSandbox, Sandbox, SandboxBuilder,
    server::{Backend, ServerError},
};
use serde::Serialize;

use super::plan::{Plan, Target};
use crate::cli::{failure::Failure, shared};

/// A service, and the local server in this process if it is one.
pub(super) struct Subject {
    /// How reports name the service.
    pub(super) name: String,
    /// Creates a sandbox on the service.
    pub(super) builder: SandboxBuilder<NewSandbox>,
    pub(super) local: Option<LocalReport>,
    server: Option<LocalServer>,
}

/// The local server of a benchmark.
#[derive(Clone, Serialize)]
pub(super) struct LocalReport {
    pub(super) backend: &'static str,
    /// The size of the warm pool.
    pub(super) warm: usize,
}

/// Interval between two looks at the warm pool, until it is full.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Subject {
    /// Returns the service of the plan. Starts the local server and waits until its warm pool is
    /// full.
    pub(super) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let (backend, warm) = match &plan.target {
            Target::Service(service) => {
                return Ok(Self {
                    name: service.shown(),
                    builder: service.configure(Sandbox::create(&service.url))?,
                    local: None,
                    server: None,
                });
            }
            Target::Local(backend, warm) => (backend, *warm),
        };
        let server = start(plan, backend, warm).await.map_err(|error| {
            let reason = shared::local_not_started(&error);
            format!("cannot start a local server: {reason}")
        })?;
        let full = tokio::time::timeout(plan.timeout, fill(&server, warm));
        full.await.map_err(|_elapsed| {
            format!(
                "{} of {warm} warm sandboxes were ready after {:?}: raise `--timeout`, or lower \
                 `--warm`",
                server.warm_count().unwrap_or(0),
                plan.timeout
            )
        })?;
        let backend = server.backend();
        Ok(Self {
            name: format!("a local server (backend {backend})"),
            builder: Sandbox::create(server.url()),
            local: Some(LocalReport { backend, warm }),
            server: Some(server),
        })
    }

    /// Stops the local server.
    pub(super) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }
}

async fn start(plan: &Plan, backend: &Backend, warm: usize) -> Result<LocalServer, ServerError> {
    let concurrency = plan.pace.concurrency;
    LocalServer::builder()
        .backend(backend.clone())
        .warm(warm)
        .max_sandboxes(concurrency.saturating_mul(2).max(1_000))
        .max_connections(concurrency.saturating_mul(2).max(25_000))
        .start()
        .await
}

async fn fill(server: &LocalServer, warm: usize) {
    while server.warm_count().is_some_and(|ready| ready < warm) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
