//! [`Process`]: what the server asks of an exec, wherever its processes run.

use std::io;

use futures::future::BoxFuture;
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::protocol::TerminalSize;

/// The server's end of a process's stdout or stderr.
pub(crate) type Pipe = Box<dyn AsyncRead + Send + Unpin>;

/// The server's end of a process's stdin.
pub(crate) type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// How a main process ended. Both fields are `None` if that is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
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
    /// Resolves when the main process has ended. May be called again. Cancel safe. Fails with the
    /// reason if the sandbox was lost. It is unknown then whether the process has ended.
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>>;

    /// Ends the main process and all its children. Resolves when none is left. The error is the
    /// reason to report to the client.
    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>>;

    /// Sends a signal to the main process, or to its process group. Fails with ESRCH if the main
    /// process has ended. Cancel safe: the signal may be sent all the same.
    fn signal(&mut self, signal: i32, group: bool) -> BoxFuture<'_, io::Result<()>> {
        let _ = (signal, group);
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    /// Changes the size of the terminal. Fails with ENOTTY if there is none.
    fn resize(&mut self, size: TerminalSize) -> BoxFuture<'_, io::Result<()>> {
        let _ = size;
        Box::pin(async { Err(Errno::ENOTTY.into()) })
    }
}
