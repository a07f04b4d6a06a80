//! [`FileEvents`]: changes of files as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt};

use crate::{
    Error, Process,
    client::json_lines::JsonLines,
    protocol::{BuiltinError, FileEvent},
};

/// Changes of files. [`Files::watch`](super::Files::watch) returns this stream.
///
/// Each change is reported once and in order, even across reconnects. If changes come faster than
/// the stream is read, some are lost, and [`FileEvent::Overflow`] takes their place. The stream
/// ends when the watched file or directory is removed or moved; the last event is then
/// [`FileEvent::Removed`] with an empty path. If the watch fails, the last item is the error. A
/// checkpoint of the sandbox ends the watch with an error.
///
/// A file that [`write`](super::Files::write), [`copy`](super::Files::copy) or an upload replaces
/// is reported as [`FileEvent::Created`] when it is complete. The watch hides the unfinished file,
/// whose name is `.actix-sandbox-` and 16 hexadecimal digits.
///
/// Dropping the stream ends the watch. A watch neither keeps the sandbox from becoming idle nor
/// prevents a checkpoint.
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct FileEvents(JsonLines<FileEvent>);

impl FileEvents {
    /// Waits until the watch is ready.
    pub(super) async fn ready(process: Process) -> Result<Self, Error> {
        let mut events = JsonLines::new(process);
        match events.next().await {
            Some(Ok(FileEvent::Ready)) => Ok(Self(events)),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => {
                let message = "the server reported a change before the watch was ready";
                Err(BuiltinError::other(message).into())
            }
            None => Err(BuiltinError::other("the watch ended before it was ready").into()),
        }
    }
}

impl Stream for FileEvents {
    type Item = Result<FileEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}
