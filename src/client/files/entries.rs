//! [`FileEntries`]: the entries of a directory as a stream. [`JsonLines`] reads the output of an
//! operation.

use std::{
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt, TryStreamExt};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::client::operation::{Ending, result};
use crate::{
    Error, LineStream, Process,
    protocol::{BuiltinError, FileEntry, excerpt},
};

/// The entries of a directory. [`Files::entries`](super::Files::entries) returns this stream.
///
/// If the operation fails, the last item is the error.
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct FileEntries(JsonLines<FileEntry>);

impl FileEntries {
    pub(super) fn new(process: Process) -> Self {
        Self(JsonLines::new(process))
    }

    pub(super) async fn collect_all(self) -> Result<Vec<FileEntry>, Error> {
        self.0.try_collect().await
    }
}

impl Stream for FileEntries {
    type Item = Result<FileEntry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

/// The output of an operation: one JSON value on each line. If the operation fails, the last item
/// is the error.
#[derive(Debug)]
pub(super) struct JsonLines<T> {
    process: Process,
    lines: LineStream,
    ending: Ending,
    has_ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T> JsonLines<T> {
    pub(super) fn new(process: Process) -> Self {
        Self {
            lines: process.stdout().lines(),
            process,
            ending: Ending::default(),
            has_ended: false,
            value: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Stream for JsonLines<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let item = match ready!(self.lines.poll_next_unpin(cx)) {
            Some(Ok(line)) => {
                let value = serde_json::from_str(&line).map_err(|error| {
                    let line = excerpt(line.as_bytes());
                    let message = format!("the server's output can't be read ({error}): {line}");
                    BuiltinError::other(message).into()
                });
                self.has_ended = value.is_err();
                return Poll::Ready(Some(value));
            }
            Some(Err(error)) => Some(Err(error)),
            // The operation may have failed after the last line.
            None => {
                let Self {
                    process, ending, ..
                } = &mut *self;
                let end = ready!(ending.poll(process, cx));
                end.and_then(result::<IgnoredAny>).err().map(Err)
            }
        };
        self.has_ended = true;
        Poll::Ready(item)
    }
}
