//! [`FileReader`]: a file as tokio's [`AsyncRead`].

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::client::operation::{Ending, result};
use crate::{OutputStream, Process, protocol::Transferred};

/// Reads a file of a sandbox. [`Files::open`](super::Files::open) returns this reader.
///
/// The reader reports the end of the file only after all content has arrived. If the operation
/// fails, the last read returns the error. Dropping the reader stops the operation.
pub struct FileReader {
    process: Process,
    content: OutputStream,
    ending: Ending,
}

impl FileReader {
    pub(super) fn new(process: Process) -> Self {
        Self {
            content: process.stdout(),
            process,
            ending: Ending::default(),
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
            // The operation may have failed after the last bytes.
            let Self {
                process, ending, ..
            } = &mut *self;
            result::<Transferred>(ready!(ending.poll(process, cx))?)?;
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
