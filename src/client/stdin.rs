//! [`ProcessStdin`]: the stdin of a process as tokio's [`AsyncWrite`].

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::AsyncWrite;

use super::Process;
use crate::{
    Error,
    actor::write_taken,
    machine::Failure,
    protocol::{Version, utf8_boundary},
};

const WRITE: &str = "write to stdin";

/// The most bytes that one write takes.
const MAX_WRITE: usize = 64 * 1024;

type Request = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + Sync>>;

/// Writes to the stdin of a process, as tokio's [`AsyncWrite`]: for `tokio::io::copy` and the like.
/// It needs no tokio runtime. Prefer [`Process::write_to_stdin`] for `Bytes`.
///
/// - A write takes at most 64 KiB, and waits until the write before it was accepted into the
///   [budget](crate::SandboxBuilder::stdin_budget). So a process that doesn't read holds its
///   writer back. Each handle may hold one more write, of at most 64 KiB, beyond
///   the budget.
/// - A flush waits until the process's pipe has taken everything (protocol v2), or the connection
///   (v1).
/// - A shutdown closes stdin after everything that was written, and then flushes. Dropping the
///   handle does not close stdin, because other handles may write.
///
/// Protocol v1 carries only UTF-8. There, the first bytes of a code point wait in the handle for
/// the rest of it, also during a flush. They are lost if the rest never comes.
///
/// # Errors
///
/// An error of a write is returned by the next write, flush or shutdown. [`io::Error::downcast`]
/// gives the [`Error`] that it holds. Its [`kind`](io::ErrorKind) is
///
/// - `BrokenPipe`: the process has ended, or its stdin is closed. A flush or shutdown returns it if
///   the process did not read everything, which is normal for a program like `head`.
/// - `Unsupported`: protocol v1 can't close stdin, and carries only UTF-8.
/// - `ConnectionAborted`: an actor of the sandbox is gone.
///
/// It counts as a handle of its [`Process`].
///
/// **Cancel safety.** If a write returned `Ready`, its bytes are sent, even if the handle is dropped
/// before a flush: as long as the process runs and a handle to its [`Sandbox`](crate::Sandbox) is
/// left. A write that never returned `Ready` sent nothing.
pub struct ProcessStdin {
    process: Process,
    /// The write, flush or shutdown that is not answered yet.
    pending: Option<(Step, Request)>,
    /// The beginning of a code point (v1).
    tail: BytesMut,
    /// A shutdown closed stdin.
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Write,
    Flush,
    Close,
}

impl ProcessStdin {
    pub(super) fn new(process: Process) -> Self {
        Self {
            process,
            pending: None,
            tail: BytesMut::new(),
            closed: false,
        }
    }

    fn write(&self, data: Bytes) -> Request {
        let answer = write_taken(self.process.addr(), data);
        Box::pin(answer.map(|answer| answer.unwrap_or_else(|_| Err(Error::actor_gone(WRITE)))))
    }

    /// Waits for the answer to the step.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some((step, request)) = &mut self.pending else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(request.as_mut().poll(cx));
        self.closed |= *step == Step::Close && result.is_ok();
        self.pending = None;
        Poll::Ready(result)
    }

    /// Waits for the write that is not answered. A flush without a waiting caller is abandoned.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some((Step::Flush, _)) = self.pending {
            self.pending = None;
        }
        self.poll_pending(cx)
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, step: Step) -> Poll<io::Result<()>> {
        if !matches!(&self.pending, Some((pending, _)) if *pending == step) {
            ready!(self.poll_written(cx))?;
            let process = self.process.clone();
            let request = async move {
                match step {
                    Step::Close => process.close_stdin().await,
                    Step::Write | Step::Flush => process.flush_stdin().await,
                }
            };
            self.pending = Some((step, Box::pin(request)));
        }
        Poll::Ready(Ok(ready!(self.poll_pending(cx))?))
    }
}

impl Process {
    /// The stdin of the process, for `tokio::io::copy` and the like.
    /// Prefer [`write_to_stdin`](Self::write_to_stdin) for `Bytes`.
    pub fn stdin(&self) -> ProcessStdin {
        ProcessStdin::new(self.clone())
    }
}

impl AsyncWrite for ProcessStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        if self.closed {
            let closed = Failure::StdinClosed { what: WRITE };
            return Poll::Ready(Err(Error::from(closed).into()));
        }
        if self.process.try_wait()?.is_some() {
            let ended = Failure::ProcessEnded { what: WRITE };
            return Poll::Ready(Err(Error::from(ended).into()));
        }
        let mut taken = buf.len().min(MAX_WRITE);
        let mut data = std::mem::take(&mut self.tail);
        data.extend_from_slice(&buf[..taken]);
        let whole = utf8_boundary(&data);
        if self.process.sandbox().protocol_version() == Version::V1 {
            self.tail = data.split_off(whole);
        } else if taken < buf.len() {
            // Text is sent more cheaply if no code point is split.
            data.truncate(whole);
            taken = whole;
        }
        if !data.is_empty() {
            self.pending = Some((Step::Write, self.write(data.freeze())));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_step(cx, Step::Flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(self.poll_step(cx, Step::Close))?;
        }
        self.poll_step(cx, Step::Flush)
    }
}

impl fmt::Debug for ProcessStdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessStdin")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
