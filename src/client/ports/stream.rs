//! [`PortStream`]: a connection to a port of a sandbox as tokio's [`AsyncRead`] and [`AsyncWrite`].

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    Error, OutputStream, Process, ProcessStdin,
    client::operation::{Ending, outcome, result},
    protocol::{BuiltinError, ConnectEvent, excerpt},
};

/// The first line of the output is shorter than this.
const MAX_LINE: usize = 1024;

/// A TCP connection to a port of a sandbox. [`Sandbox::connect`](crate::Sandbox::connect) returns
/// it.
///
/// It needs no tokio runtime. Every byte arrives once and in order, even if the connection to the
/// server is lost in between and the client [reconnects](crate::SandboxBuilder::auto_reconnect). If
/// the connection is reset or lost, the last read returns an error, so a truncated stream never
/// looks complete.
///
/// - A write waits until the bytes are accepted into the
///   [budget](crate::SandboxBuilder::stdin_budget) for input. So a program that doesn't read blocks
///   its writer.
/// - A flush waits until the budget has accepted all written bytes. The program may not have read
///   them.
/// - A shutdown ends the direction to the program, which then reads the end of its input. The other
///   direction stays open until the program ends it.
/// - **Dropping** the stream is safe after a shutdown and a read that returned the end. Then the
///   program still receives every byte that was written, as long as a handle of the sandbox is
///   left. To wait for that, and to learn of a late reset, await [`closed`](Self::closed). Dropping
///   the stream earlier ends the connection at once: the program gets a reset, and bytes that were
///   written may be lost.
///
/// An open connection neither keeps the sandbox from becoming idle nor prevents a checkpoint. Bytes
/// that are sent or received restart the idle timeout. A checkpoint ends the connection with an
/// error. The stream counts as a handle of the sandbox.
///
/// # Errors
///
/// [`io::Error::downcast`] recovers the [`Error`] of this crate. The kind of the [`io::Error`] is
/// `ConnectionReset` if the program reset the connection, or if the sandbox has ended.
///
/// # Cancel safety
///
/// A read that is dropped loses no bytes. A write that never returned `Ready` sent nothing.
pub struct PortStream {
    process: Process,
    output: OutputStream,
    /// The bytes of the connection that arrived with the first line.
    rest: Bytes,
    /// Whether a read has returned the end.
    is_read: bool,
    input: ProcessStdin,
    /// Why a write failed.
    ending: Ending,
}

impl PortStream {
    /// Waits until the connection is open.
    pub(super) async fn connected(process: Process) -> Result<Self, Error> {
        let mut output = process.stdout();
        let mut line = BytesMut::new();
        let end = loop {
            if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                break end;
            }
            match output.next().await {
                Some(piece) if line.len() < MAX_LINE => line.extend_from_slice(&piece?),
                Some(_) => return Err(unexpected(&line)),
                None => {
                    outcome::<IgnoredAny>(&process).await?;
                    return Err(unexpected(&line));
                }
            }
        };
        let rest = line.split_off(end + 1).freeze();
        match serde_json::from_slice(&line) {
            Ok(ConnectEvent::Connected) => Ok(Self {
                input: process.stdin(),
                output,
                rest,
                is_read: false,
                ending: Ending::default(),
                process,
            }),
            _ => Err(unexpected(&line)),
        }
    }

    /// Waits until both directions have ended and the kernel of the sandbox has every byte that was
    /// written.
    ///
    /// Call it after a shutdown and a read that returned the end. Before that, it waits for the
    /// program, and after 10 seconds without a read it may drop bytes that were not read. The
    /// program may read its last bytes later.
    ///
    /// # Errors
    ///
    /// - [`BuiltinErrorKind::ConnectionReset`](crate::BuiltinErrorKind::ConnectionReset): the
    ///   program closed the connection before it had read everything.
    /// - [`ErrorKind::SandboxEnded`](crate::ErrorKind::SandboxEnded): the sandbox has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call returns the same result.
    pub async fn closed(&mut self) -> Result<(), Error> {
        outcome::<IgnoredAny>(&self.process).await.map(drop)
    }

    /// Replaces an error of a write with the reason why the connection failed.
    fn poll_reason(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
        let end = ready!(self.ending.poll(&self.process, cx));
        let reason = end.and_then(result::<IgnoredAny>).err();
        Poll::Ready(reason.map_or(error, io::Error::from))
    }
}

fn unexpected(line: &[u8]) -> Error {
    let line = excerpt(line.trim_ascii_end());
    let message =
        format!("the server sent '{line}' instead of the report that the connection is open");
    BuiltinError::other(message).into()
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.has_remaining() {
            let bytes = self.rest.len().min(buffer.remaining());
            buffer.put_slice(&self.rest.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.output).poll_read(cx, buffer))?;
        let is_end = buffer.filled().len() == before && buffer.remaining() > 0;
        // While the operation runs, the program has ended this direction. A failed operation ends
        // it only after the client knows of the failure.
        if is_end {
            if let Some(end) = self.process.try_wait()? {
                result::<IgnoredAny>(end)?;
            }
            self.is_read = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.input).poll_write(cx, bytes)) {
            Ok(written) => Poll::Ready(Ok(written)),
            // The caller has shut this direction down.
            Err(error) if self.input.is_closed() => Poll::Ready(Err(error)),
            Err(error) => Poll::Ready(Err(ready!(self.poll_reason(cx, error)))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.input.poll_written(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(ready!(self.poll_reason(cx, error.into())))),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.input).poll_close(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(ready!(self.poll_reason(cx, error)))),
        }
    }
}

impl Drop for PortStream {
    fn drop(&mut self) {
        // The last bytes may still be on their way to the program.
        if self.is_read && self.input.is_closed() {
            self.process.leave_on_drop();
        }
    }
}

impl fmt::Debug for PortStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortStream")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
