//! [`ServerMessage`]: the messages of a server. The `Serialize` of a struct is its form on the
//! wire.

mod exec;
mod fast;
mod output;
mod read;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{
    Encoded, ExecId, ParseError, Piece, SandboxId, SandboxToken, Status, StdStream, Version,
    json::print, names::FEATURES,
};

pub use exec::{EndReason, ExecEnd, ExecUpdate, Outcome};
pub use output::{OutputPiece, OutputPlace, OutputView, Received};

/// A message from the server to the client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServerMessage {
    /// A status changed.
    Status(StatusUpdate),
    /// The id and the token of the created sandbox.
    Identity(Identity),
    /// A piece of output.
    Output(OutputPiece),
    /// A piece of output to send in a binary frame (v2). A received piece is [`Self::Output`].
    BinaryOutput(OutputPiece),
    /// The reason of the error status before it.
    Error(ErrorMessage),
    /// The process has taken input (v2).
    StdinAck {
        /// The exec.
        exec: ExecId,
        /// The total number of bytes that the process has taken.
        offset: u64,
    },
    /// An event that this version doesn't know. It is never fatal.
    Unknown(UnknownMessage),
}

/// `status_update`: a status, and the reason if the server puts it into the same message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename = "status_update")]
pub struct StatusUpdate {
    /// The status.
    pub status: Status,
    /// The reason. A v1 server sends it in a separate message instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// With `SANDBOX_RUNNING`: what the server supports beyond the first release of v2. See
    /// [`FEATURES`](super::names::FEATURES).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// The exec that the status is about, and its state (v2).
    #[serde(flatten)]
    pub exec: Option<Box<ExecUpdate>>,
}

/// `sandbox_id`: the id and the token of a created sandbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename = "sandbox_id")]
pub struct Identity {
    /// The id.
    pub sandbox_id: SandboxId,
    /// The token.
    #[serde(serialize_with = "expose")]
    pub sandbox_token: SandboxToken,
}

fn expose<S: Serializer>(token: &SandboxToken, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(token.expose_secret())
}

/// `error`: a human-readable reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename = "error")]
pub struct ErrorMessage {
    /// The reason.
    pub message: String,
}

/// A message that this version doesn't know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnknownMessage {
    /// Its `event`, if that is text.
    pub event: Option<String>,
}

impl ServerMessage {
    /// Reads a text frame of a v1 link.
    ///
    /// # Errors
    ///
    /// Fails if the frame is not a JSON object, if a known key occurs twice, or if a required key
    /// of a known event is missing or has a value of the wrong type. Ignores unknown keys. Unknown
    /// events and statuses are not errors.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn parse(frame: &Bytes) -> Result<Self, ParseError> {
        Self::parse_as(frame, Version::V1)
    }

    /// Reads a text frame of a link of this version.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    #[cfg(any(test, feature = "test-util", feature = "unstable-internals"))]
    pub fn parse_as(frame: &Bytes, version: Version) -> Result<Self, ParseError> {
        match Self::read_output(frame, version) {
            Some(output) => Ok(Self::Output(output.into_piece(frame))),
            None => Self::read(frame, version).map(Received::into_message),
        }
    }

    /// Reads a frame with output in the usual form, or a binary frame. Returns `None` for every
    /// other frame, which [`read`](Self::read) reads. A separate function, because the larger
    /// result of `read` would be moved several times for each piece.
    pub fn read_output(frame: &Bytes, version: Version) -> Option<OutputView<'_>> {
        let piece = Piece::read(frame).filter(|_| version.is_v2());
        match piece {
            Some(piece) => Some(OutputView {
                stream: piece.stream?,
                place: Some((piece.exec, piece.offset)),
                data: Cow::Borrowed(piece.data),
                eof: piece.eof,
            }),
            None => fast::output(frame, version),
        }
    }

    /// Reads a text frame like [`parse_as`](Self::parse_as), if [`read_output`](Self::read_output)
    /// did not.
    /// Frequent messages borrow from the frame.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn read(frame: &Bytes, version: Version) -> Result<Received<'_>, ParseError> {
        match fast::read(frame, version) {
            Some(received) => Ok(received),
            None => read::message(frame, version).map(Received::Message),
        }
    }

    /// The message as the text of a frame.
    pub fn encode(&self) -> String {
        #[derive(Serialize)]
        #[serde(tag = "event", rename = "stdin_ack")]
        struct StdinAck<'a> {
            exec: &'a ExecId,
            offset: u64,
        }
        match self {
            Self::Status(update) => print(update),
            Self::Identity(identity) => print(identity),
            Self::Output(piece) | Self::BinaryOutput(piece) => piece.encode(),
            Self::Error(error) => print(error),
            Self::StdinAck { exec, offset } => print(&StdinAck {
                exec,
                offset: *offset,
            }),
            Self::Unknown(unknown) => print(unknown),
        }
    }

    /// The message as the payload of a frame.
    pub fn to_frame(&self) -> Encoded {
        match self {
            Self::BinaryOutput(OutputPiece {
                stream,
                data,
                place: Some(place),
                eof,
            }) => Piece {
                stream: Some(*stream),
                exec: place.exec.as_str(),
                offset: place.offset,
                data,
                eof: *eof,
            }
            .encode(),
            _ => Encoded::Text(self.encode()),
        }
    }

    /// A status without a reason.
    pub fn status(status: Status) -> Self {
        Self::update(status, None, None)
    }

    /// A status with its reason.
    pub fn status_because(status: Status, reason: String) -> Self {
        Self::update(status, Some(reason), None)
    }

    /// A status of a named exec (v2), with the reason of an error.
    pub fn exec_status(status: Status, exec: ExecUpdate, message: Option<String>) -> Self {
        Self::update(status, message, Some(Box::new(exec)))
    }

    fn update(status: Status, message: Option<String>, exec: Option<Box<ExecUpdate>>) -> Self {
        Self::Status(StatusUpdate {
            status,
            message,
            features: None,
            exec,
        })
    }

    /// `SANDBOX_RUNNING` of this server on a v2 link.
    pub fn running() -> Self {
        Self::Status(StatusUpdate {
            status: Status::SandboxRunning,
            message: None,
            features: Some(FEATURES.map(str::to_owned).to_vec()),
            exec: None,
        })
    }

    /// The id and the token of a created sandbox.
    pub fn identity(sandbox_id: SandboxId, sandbox_token: SandboxToken) -> Self {
        Self::Identity(Identity {
            sandbox_id,
            sandbox_token,
        })
    }

    /// A piece of output. Bytes that are not UTF-8 are replaced when the message is encoded.
    pub fn output(stream: StdStream, data: impl Into<Bytes>) -> Self {
        Self::Output(OutputPiece {
            stream,
            data: data.into(),
            place: None,
            eof: false,
        })
    }

    /// A piece of output of a named exec (v2), of any bytes.
    pub fn output_at(stream: StdStream, data: impl Into<Bytes>, place: OutputPlace) -> Self {
        Self::Output(OutputPiece {
            stream,
            data: data.into(),
            place: Some(place),
            eof: false,
        })
    }

    /// The reason of the error status before it.
    pub fn error(message: impl Into<String>) -> Self {
        Self::Error(ErrorMessage {
            message: message.into(),
        })
    }
}

#[cfg(test)]
mod tests;
