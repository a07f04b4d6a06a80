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

/// The maximum number of bytes that one write takes.
const MAX_WRITE: usize = 64 * 1024;

type Request = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + Sync>>;

/// The stdin of a process as tokio's [`AsyncWrite`], for `tokio::io::copy` and the like. It needs
/// no tokio runtime. To send `Bytes`, prefer [`Process::write_to_stdin`].
///
/// - A write takes at most 64 KiB. It waits until the previous write was accepted into the
///   [budget](crate::SandboxBuilder::stdin_budget), so a process that doesn't read blocks its
///   writer. Each handle may hold one more write, of at most 64 KiB, beyond the budget.
/// - A flush waits until everything was written to the process's pipe (protocol v2) or to the
///   connection (v1).
/// - A shutdown closes stdin after everything that was written, and then flushes. Dropping the
///   handle doesn't close stdin, because other handles may still write.
///
/// Protocol v1 carries only UTF-8. There, the handle keeps the first bytes of an incomplete code
/// point until the rest is written, even during a flush. If the rest is never written, these bytes
/// are lost.
///
/// It counts as a handle of its [`Process`].
///
/// # Errors
///
/// The next write, flush or shutdown returns the error of a write. [`io::Error::downcast`] recovers
/// the [`Error`] of this crate. The [`kind`](io::ErrorKind) of the [`io::Error`] is
///
/// - `BrokenPipe`: the process has ended, or its stdin is closed. A flush or shutdown also returns
///   it if the process did not read everything, which is normal for a program like `head`.
/// - `Unsupported`: the server speaks protocol v1, which can't close stdin and carries only UTF-8.
/// - `ConnectionAborted`: an actor of the sandbox is gone.
///
/// # Cancel safety
///
/// If a write returned `Ready`, its bytes are sent, even if the handle is dropped before a flush.
/// This requires that the process runs and that a handle to its [`Sandbox`](crate::Sandbox) is
/// left. A write that never returned `Ready` sent nothing.
pub struct ProcessStdin {
    process: Process,
    /// The write, flush or shutdown that waits for its answer.
    pending: Option<(Step, Request)>,
    /// The first bytes of an incomplete code point (v1).
    tail: BytesMut,
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

    /// Waits for the answer to the pending step.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some((step, request)) = &mut self.pending else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(request.as_mut().poll(cx));
        self.closed |= *step == Step::Close && result.is_ok();
        self.pending = None;
        Poll::Ready(result)
    }

    /// Waits for the answer to the pending write. Abandons a pending flush, because its caller
    /// stopped polling it.
    pub(super) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some((Step::Flush, _)) = self.pending {
            self.pending = None;
        }
        self.poll_pending(cx)
    }

    /// Whether a shutdown has closed stdin.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Closes stdin. Doesn't wait until the process has read the written bytes.
    pub(super) fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self.closed {
            true => Poll::Ready(Ok(())),
            false => self.poll_step(cx, Step::Close),
        }
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
    /// The stdin of the process as tokio's `AsyncWrite`, for `tokio::io::copy` and the like. To
    /// send `Bytes`, prefer [`write_to_stdin`](Self::write_to_stdin).
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
            // Text is cheaper to send than base64, so no code point is split.
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
        ready!(self.as_mut().poll_close(cx))?;
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
