//! [`FileReader`]: a file as tokio's [`AsyncRead`].

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::result;
use crate::{OutputStream, Process, protocol::Transferred};

/// A file that is read from a sandbox. [`Files::open`](super::Files::open) returns it.
///
/// The end of the content is reported only if all of it has arrived. Otherwise the last read fails.
/// Dropping the reader stops the transfer.
pub struct FileReader {
    process: Process,
    content: OutputStream,
}

impl FileReader {
    pub(super) fn new(process: Process) -> Self {
        Self {
            content: process.stdout(),
            process,
        }
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.content).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            // The end of the output comes after the end of the operation.
            if let Some(end) = self.process.try_wait()? {
                result::<Transferred>(end)?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
