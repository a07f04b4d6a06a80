//! [`ProcessStdin`]: the stdin of a process as tokio's [`AsyncWrite`].

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::Process;
use crate::{Error, protocol::utf8_boundary};

/// The most bytes that one write takes.
const MAX_WRITE: usize = 64 * 1024;

type Request = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + Sync>>;

/// Writes to the stdin of a process, as tokio's [`AsyncWrite`]: for `tokio::io::copy` and the like.
/// It needs no tokio runtime. [`Process::write_to_stdin`] writes without a copy.
///
/// - A write takes at most 64 KiB, and waits until the write before it was accepted into the
///   [budget](crate::SandboxBuilder::stdin_budget). So a process that doesn't read holds its
///   writer back.
/// - A flush waits until the process's pipe has taken everything (protocol v2), or the connection
///   (v1).
/// - A shutdown closes stdin after everything that was written. Dropping the handle does not close
///   it, because other handles may write.
///
/// # Errors
///
/// An error of a write is returned by the next write, flush or shutdown. [`io::Error::downcast`]
/// gives the [`Error`] that it holds. Its [`kind`](io::ErrorKind) is
///
/// - `BrokenPipe`: the process has ended, or its stdin is closed.
/// - `Unsupported`: protocol v1 can't close stdin, and carries only UTF-8. A write may end inside a
///   code point, so under v1 write whole lines with [`Process::write_to_stdin`] if they may hold
///   other characters than ASCII.
/// - `ConnectionAborted`: an actor of the sandbox is gone.
///
/// It counts as a handle of its [`Process`].
///
/// **Cancel safety.** A dropped write was accepted if it was polled to `Ready`, and otherwise had
/// no effect. A handle that is dropped before a flush may lose its last write.
pub struct ProcessStdin {
    process: Process,
    /// The write, flush or shutdown that is not answered yet.
    pending: Option<(Step, Request)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Write,
    Flush,
    Close,
}

impl ProcessStdin {
    fn start(&mut self, step: Step, data: Bytes) -> &mut Request {
        let process = self.process.clone();
        let request = async move {
            match step {
                Step::Write => process.write_to_stdin(data).await,
                Step::Flush => process.flush_stdin().await,
                Step::Close => process.close_stdin().await,
            }
        };
        &mut self.pending.insert((step, Box::pin(request))).1
    }

    /// Waits for the write that is not answered. A flush that nobody waits for is given up.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some((step, request)) = &mut self.pending else {
            return Poll::Ready(Ok(()));
        };
        let result = match step {
            Step::Flush => Ok(()),
            Step::Write | Step::Close => ready!(request.as_mut().poll(cx)),
        };
        self.pending = None;
        Poll::Ready(result)
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, step: Step) -> Poll<io::Result<()>> {
        if !matches!(&self.pending, Some((pending, _)) if *pending == step) {
            ready!(self.poll_written(cx))?;
            self.start(step, Bytes::new());
        }
        let Some((_, request)) = &mut self.pending else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(request.as_mut().poll(cx));
        self.pending = None;
        Poll::Ready(Ok(result?))
    }
}

impl Process {
    /// The stdin of the process, for `tokio::io::copy` and the like.
    /// [`write_to_stdin`](Self::write_to_stdin) does the same without a copy.
    pub fn stdin(&self) -> ProcessStdin {
        ProcessStdin {
            process: self.clone(),
            pending: None,
        }
    }
}

impl AsyncWrite for ProcessStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = match buf.get(..MAX_WRITE) {
            // Protocol v1 carries no half of a code point.
            Some(most) => &most[..utf8_boundary(most).max(1)],
            None => buf,
        };
        let request = self.start(Step::Write, Bytes::copy_from_slice(taken));
        // Polled once, so that it is sent: what is taken is on its way.
        if let Poll::Ready(result) = request.as_mut().poll(cx) {
            self.pending = None;
            result?;
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_step(cx, Step::Flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_step(cx, Step::Close)
    }
}

impl fmt::Debug for ProcessStdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessStdin")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
