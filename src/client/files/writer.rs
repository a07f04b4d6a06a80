//! [`FileWriter`]: a file as tokio's [`AsyncWrite`].

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::client::operation::{Ending, result};
use crate::{Error, Process, ProcessStdin, protocol::Transferred};

/// Writes a file of a sandbox. [`Files::create`](super::Files::create) and
/// [`Files::writer`](super::Files::writer) return this writer.
///
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) completes the file and reports whether that
/// succeeded. Dropping the writer before that stops the operation. Then a file that would have been
/// replaced stays unchanged. With [`Append`](crate::WriteMode::Append) and
/// [`At`](crate::WriteMode::At), the part that was written stays.
pub struct FileWriter {
    process: Process,
    content: ProcessStdin,
    ending: Ending,
    /// Whether to close stdin no more: it is closed, or the operation accepts no more content.
    is_ending: bool,
}

impl FileWriter {
    pub(super) fn new(process: Process) -> Self {
        Self {
            content: process.stdin(),
            process,
            ending: Ending::default(),
            is_ending: false,
        }
    }

    /// Waits for the outcome.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.is_ending = true;
        let end = ready!(self.ending.poll(&self.process, cx));
        Poll::Ready(end.and_then(result::<Transferred>).map(drop))
    }

    /// Replaces an error of stdin with the reason why the operation failed.
    fn poll_reason(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
        let reason = ready!(self.poll_ended(cx)).err();
        Poll::Ready(reason.map_or(error, io::Error::from))
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.content).poll_write(cx, bytes)) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(error) => Poll::Ready(Err(ready!(self.poll_reason(cx, error)))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.content).poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(ready!(self.poll_reason(cx, error)))),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_ending {
            // If this fails, the outcome says why.
            let _ = ready!(Pin::new(&mut self.content).poll_close(cx));
        }
        Poll::Ready(Ok(ready!(self.poll_ended(cx))?))
    }
}

impl fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWriter")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
