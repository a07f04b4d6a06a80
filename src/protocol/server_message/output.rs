//! Output: [`OutputPiece`], and [`OutputView`], which is borrowed from its frame.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    super::{ExecId, Status, StdStream, data::print_piece},
    ExecUpdate, ServerMessage,
};

/// `stdout` or `stderr`: a piece of output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPiece {
    /// Which stream.
    pub stream: StdStream,
    /// The bytes, a slice of the frame if they had no escapes. In v1 they are UTF-8.
    pub data: Bytes,
    /// The exec and the offset (v2).
    pub place: Option<OutputPlace>,
    /// Whether the stream ends after these bytes (v2).
    pub eof: bool,
}

/// The place of a piece of output (v2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlace {
    /// The exec.
    pub exec: ExecId,
    /// Bytes of this stream before the piece.
    pub offset: u64,
}

impl OutputPiece {
    /// The stream and the offset of its end, if it ends after this piece (v2).
    pub fn end(&self) -> Option<(StdStream, u64)> {
        let offset = self.place.as_ref().map(|place| place.offset);
        end(self.stream, offset?, &self.data, self.eof)
    }

    pub(super) fn encode(&self) -> String {
        let event = self.stream.as_str();
        match &self.place {
            Some(place) => {
                let place = Some((place.exec.as_str(), place.offset));
                print_piece(event, place, &self.data, self.eof)
            }
            None => {
                let text = String::from_utf8_lossy(&self.data);
                print_piece(event, None, text.as_bytes(), false)
            }
        }
    }
}

/// A message of a server that is no output.
#[derive(Debug)]
pub enum Received<'a> {
    /// A status of an exec without a reason (v2).
    ExecStatus(Status, ExecUpdate<&'a str>),
    /// Any other message, or one of these in an unusual form.
    Message(ServerMessage),
}

impl Received<'_> {
    /// The message without the frame that it was read from.
    pub fn into_message(self) -> ServerMessage {
        match self {
            Self::ExecStatus(status, update) => {
                ServerMessage::exec_status(status, update.map(ExecId::new), None)
            }
            Self::Message(message) => message,
        }
    }
}

/// A piece of output, borrowed from its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputView<'a> {
    /// Which stream.
    pub stream: StdStream,
    /// The exec, and the bytes of the stream before the piece (v2).
    pub place: Option<(&'a str, u64)>,
    /// The bytes, borrowed if they had no escapes.
    pub data: Cow<'a, [u8]>,
    /// Whether the stream ends after these bytes (v2).
    pub eof: bool,
}

impl OutputView<'_> {
    /// The stream and the offset of its end, if it ends after this piece (v2).
    pub fn end(&self) -> Option<(StdStream, u64)> {
        let (_, offset) = self.place?;
        end(self.stream, offset, &self.data, self.eof)
    }

    /// The bytes without the view: a slice of the frame that they were read from, or their own.
    pub fn into_data(self, frame: &Bytes) -> Bytes {
        match self.data {
            Cow::Borrowed(data) => frame.slice_ref(data),
            Cow::Owned(data) => data.into(),
        }
    }

    /// The piece without the view.
    #[cfg(any(test, feature = "test-util", feature = "unstable-internals"))]
    pub fn into_piece(self, frame: &Bytes) -> OutputPiece {
        let place = self.place.map(|(exec, offset)| OutputPlace {
            exec: ExecId::new(exec),
            offset,
        });
        OutputPiece {
            stream: self.stream,
            place,
            eof: self.eof,
            data: self.into_data(frame),
        }
    }
}

fn end(stream: StdStream, offset: u64, data: &[u8], eof: bool) -> Option<(StdStream, u64)> {
    eof.then(|| (stream, offset.saturating_add(data.len() as u64)))
}
