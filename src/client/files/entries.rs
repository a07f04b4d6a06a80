//! [`FileEntries`]: the entries of a directory as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, TryStreamExt};

use crate::{Error, Process, client::json_lines::JsonLines, protocol::FileEntry};

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
