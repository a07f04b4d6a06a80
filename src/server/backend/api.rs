//! What runs the code: the traits that a sandbox needs of a backend, and the backends.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::job::Job;
use crate::{protocol::SandboxId, server::store::archive::layout::Trees};

/// A pipe that carries output.
pub(crate) type Pipe = Box<dyn AsyncRead + Send + Unpin>;

/// A pipe that takes input.
pub(crate) type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// Makes sandboxes.
pub(crate) trait Backend: Send + Sync + 'static {
    /// Its name, as it is chosen by.
    fn name(&self) -> &'static str;

    /// Makes a sandbox.
    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>>;

    /// Ends the backend, once every sandbox is deleted.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// How a main process ended, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// One sandbox.
pub(crate) trait BackendSandbox: Send + Sync + 'static {
    /// Starts code. The error is the reason for the client.
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>>;

    /// Ends every process of the sandbox before a checkpoint, so that its files stay as they are. A backend that can store
    /// memory puts that beside the files first; the processes go on when the files are unpacked, or when code is next
    /// started. The error is the reason for the client.
    fn freeze(&self) -> BoxFuture<'_, Result<(), String>>;

    /// The checkpoint failed: what [`freeze`](Self::freeze) has stored goes on. The error is the reason for the log.
    fn thaw(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// The directories that its archives hold. Nothing that the server trusts is in them.
    fn trees(&self) -> Trees;

    /// Its trees were filled from an archive, before anything has run in it. The error is the reason for
    /// the client.
    fn unpacked(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Ends every process of the sandbox and removes its files. The error is the reason for the client.
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
    /// Resolves when the main process ended. May be called again, and may be dropped.
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>>;

    /// Ends the main process and all its children; resolves when none is left. The error is the
    /// reason for the client.
    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>>;
}
