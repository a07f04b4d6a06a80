//! The traits that each backend implements.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::job::Job;
use crate::{protocol::SandboxId, server::store::archive::layout::Trees};

/// The server's end of a process's stdout or stderr.
pub(crate) type Pipe = Box<dyn AsyncRead + Send + Unpin>;

/// The server's end of a process's stdin.
pub(crate) type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// Creates sandboxes.
pub(crate) trait Backend: Send + Sync + 'static {
    /// The name by which users choose this backend.
    fn name(&self) -> &'static str;

    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>>;

    /// Shuts the backend down. Call it after every sandbox was deleted.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// How a main process ended. Both fields are `None` if that is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
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

/// Code that was started.
pub(crate) struct Started {
    pub(crate) stdin: Input,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
    pub(crate) process: Box<dyn Process>,
}

/// The processes of one exec.
pub(crate) trait Process: Send {
    /// Resolves when the main process has ended. May be called again. Cancel safe.
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>>;

    /// Ends the main process and all its children. Resolves when none is left. The error is the
    /// reason to report to the client.
    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>>;
}
