//! [`StoredExec`]: the stored form of an exec that is done.

use bytes::{Bytes, BytesMut};

use super::{STREAMS, ServedExec};
use crate::{
    machine::stream::{Chunk, SendStreams},
    protocol::{ExecEnd, ExecId, StdStream, limits::MIN_WINDOW},
};

/// The stored form of an exec that is done: its end and its unacknowledged output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredExec {
    /// The id.
    pub exec: ExecId,
    /// The number of bytes of output that may be sent past the last acknowledgement.
    pub window: u64,
    /// How the exec ended.
    pub end: ExecEnd,
    /// The message, if the end needs one.
    pub message: Option<String>,
    /// Stream, offset and bytes, in the order in which they were printed.
    pub output: Vec<(StdStream, u64, Bytes)>,
}

impl ServedExec {
    /// Restores an exec, which no client has requested yet. If the stored form is inconsistent, the
    /// exec is lost.
    pub fn restored(stored: StoredExec) -> Self {
        let window = stored.window.max(MIN_WINDOW);
        let chunks = stored.output.iter().map(|(stream, offset, data)| Chunk {
            stream: *stream as usize,
            offset: *offset,
            data: BytesMut::from(&**data),
        });
        let lengths = stored.end.lengths.unwrap_or_default();
        let output = SendStreams::restored(window, lengths, chunks.collect());
        let end = match &output {
            Some(_) => (stored.end, stored.message),
            None => {
                let why = "What was stored of the execution cannot be read.";
                (ExecEnd::lost(), Some(why.to_owned()))
            }
        };
        let new = Self::new(stored.exec, window);
        Self {
            output: output.unwrap_or(new.output),
            attached: false,
            started: true,
            stdin_closed: true,
            end: Some(end),
            done: true,
            ..new
        }
    }

    /// Returns the stored form of an exec, or `None` if it is not done.
    pub fn store(&self) -> Option<StoredExec> {
        let (end, message) = self.end.clone().filter(|_| self.done)?;
        let output = self.output.unacked();
        Some(StoredExec {
            exec: self.exec.clone(),
            window: self.output.window(),
            end,
            message,
            output: output
                .map(|(stream, offset, data)| (STREAMS[stream], offset, data))
                .collect(),
        })
    }
}
