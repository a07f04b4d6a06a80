//! The traits that each backend implements.

use std::{io, sync::Arc};

use futures::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::job::Job;
use crate::{
    inside::process::Started,
    protocol::{MetricsLimits, ProcessUsage, SandboxId, SandboxLimits},
    server::{confinement::Confinement, store::archive::layout::Trees},
};

/// Creates sandboxes.
pub(crate) trait Backend: Send + Sync + 'static {
    /// The name by which users choose this backend.
    fn name(&self) -> &'static str;

    /// The limits of each sandbox, which a client may lower for its own. A limit that this backend
    /// can't apply is `None`.
    fn limits(&self) -> SandboxLimits {
        SandboxLimits::default()
    }

    /// What this backend enforces on each sandbox.
    fn confinement(&self) -> Confinement {
        Confinement::none()
    }

    /// Creates a sandbox. `limits` are at most those of the backend.
    fn create(
        &self,
        id: &SandboxId,
        limits: SandboxLimits,
    ) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>>;

    /// Creates a sandbox before a client asks for one. The sandbox has no id yet, so `directory` is
    /// the name of its directory.
    ///
    /// Returns `None` if this backend has no agents.
    fn create_warm(
        &self,
        directory: &str,
    ) -> Option<BoxFuture<'_, io::Result<Box<dyn WarmSandbox>>>> {
        let _ = directory;
        None
    }

    /// Shuts the backend down. Call it after every sandbox was deleted.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// One sandbox.
pub(crate) trait BackendSandbox: Send + Sync + 'static {
    /// Starts code. The error is the reason to report to the client.
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>>;

    /// Ends every process of the sandbox before a checkpoint, so that its files no longer change. A
    /// backend that can store memory first saves it beside the files. The processes then continue
    /// when the checkpoint is restored or when code is next started. The error is the reason to
    /// report to the client.
    fn freeze(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Continues the processes that [`freeze`](Self::freeze) has stored, because the checkpoint
    /// failed. The error is the reason for the log.
    fn thaw(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Measures the processes of the sandbox from outside. `None`: the builtin `metrics` measures
    /// them inside the sandbox. Keeps `turn` until the measurement ends, even if the future is
    /// dropped. The error is the reason to report to the client.
    fn usage(
        &self,
        _turn: Arc<OwnedSemaphorePermit>,
    ) -> Option<BoxFuture<'static, Result<ProcessUsage, String>>> {
        None
    }

    /// The limits of the sandbox.
    fn limits(&self) -> MetricsLimits {
        MetricsLimits::default()
    }

    /// The directories that archives of this sandbox hold. The server trusts no file in them.
    fn trees(&self) -> Trees;

    /// Called after the trees were filled from an archive and before any code runs in the sandbox.
    /// The error is the reason to report to the client.
    fn unpacked(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Ends every process of the sandbox and removes its files. The error is the reason to report
    /// to the client.
    fn delete(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// A sandbox from [`Backend::create_warm`]: no code of a client has run in it.
pub(crate) trait WarmSandbox: BackendSandbox {
    /// Starts the agent. The error is the reason for the log.
    fn start_agent(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Whether its agent runs, so that code can start in the sandbox.
    fn is_alive(&mut self) -> bool;

    /// Gives the sandbox its id. Code that is started from now on sees this id.
    fn adopt(self: Box<Self>, id: &SandboxId) -> Arc<dyn BackendSandbox>;
}
