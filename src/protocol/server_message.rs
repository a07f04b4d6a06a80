//! [`ServerMessage`]: what a server says, from text and to text.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::ser::{SerializeMap, Serializer};

use super::{
    Extra, ParseError, SandboxId, SandboxToken, Status, StdStream, excerpt,
    json::{RawMessage, Text},
    names,
};

/// A message from the server to the client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServerMessage {
    /// A status changed.
    Status(StatusUpdate),
    /// The sandbox that was created.
    Identity(Identity),
    /// A piece of output.
    Output(OutputPiece),
    /// The reason of the error status before it.
    Error(ErrorMessage),
    /// An event that this version does not know. It is kept and never fatal.
    Unknown(UnknownMessage),
}

/// `status_update`: a status, with the reason where the server put it into the same message.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusUpdate {
    /// The status.
    pub status: Status,
    /// The reason, in the status itself. A v1 server sends it separately instead.
    pub message: Option<String>,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// `sandbox_id`: the id and the token of a created sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The id.
    pub sandbox_id: SandboxId,
    /// The token.
    pub sandbox_token: SandboxToken,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// `stdout` or `stderr`: a piece of output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPiece {
    /// Which stream.
    pub stream: StdStream,
    /// The piece: UTF-8, a slice of the frame where nothing needed unescaping.
    pub data: Bytes,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// `error`: a human-readable reason.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorMessage {
    /// The reason.
    pub message: String,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// A message that this version does not know.
#[derive(Clone, PartialEq)]
pub struct UnknownMessage {
    /// Its `event`, where it has one.
    pub event: Option<String>,
    /// All its keys but `event`.
    pub extra: Extra,
}

impl fmt::Debug for UnknownMessage {
    /// Shows the names of the keys, not their values: nobody knows what they hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnknownMessage")
            .field("event", &self.event)
            .field(
                "keys",
                &self.extra.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            )
            .finish()
    }
}

impl ServerMessage {
    /// Reads a text frame.
    ///
    /// # Errors
    ///
    /// A frame that is not UTF-8, not JSON, not an object, or a known event without the keys that
    /// it needs. Unknown events, statuses and keys are no error.
    pub fn parse(frame: &Bytes) -> Result<Self, ParseError> {
        let mut raw = RawMessage::parse(frame)?;
        let event = raw.event.take().and_then(Text::into_str);
        let missing = |event, key| ParseError::MissingText {
            event,
            key,
            excerpt: excerpt(frame),
        };

        match event.as_deref() {
            Some(names::EVENT_STDOUT) => output(frame, StdStream::Stdout, raw),
            Some(names::EVENT_STDERR) => output(frame, StdStream::Stderr, raw),
            Some(names::EVENT_STATUS_UPDATE) => {
                let status = text(&mut raw.status)
                    .ok_or_else(|| missing(names::EVENT_STATUS_UPDATE, names::KEY_STATUS))?;
                Ok(Self::Status(StatusUpdate {
                    status: Status::from_wire(&status),
                    message: text(&mut raw.message).map(Cow::into_owned),
                    extra: raw.into_extra(),
                }))
            }
            Some(names::EVENT_SANDBOX_ID) => {
                let id = text(&mut raw.sandbox_id)
                    .ok_or_else(|| missing(names::EVENT_SANDBOX_ID, names::KEY_SANDBOX_ID))?;
                let token = text(&mut raw.sandbox_token)
                    .ok_or_else(|| missing(names::EVENT_SANDBOX_ID, names::KEY_SANDBOX_TOKEN))?;
                Ok(Self::Identity(Identity {
                    sandbox_id: SandboxId::new(id),
                    sandbox_token: SandboxToken::new(token),
                    extra: raw.into_extra(),
                }))
            }
            Some(names::EVENT_ERROR) => {
                let message = text(&mut raw.message)
                    .ok_or_else(|| missing(names::EVENT_ERROR, names::KEY_MESSAGE))?;
                Ok(Self::Error(ErrorMessage {
                    message: message.into_owned(),
                    extra: raw.into_extra(),
                }))
            }
            _ => Ok(Self::Unknown(UnknownMessage {
                event: event.map(Cow::into_owned),
                extra: raw.into_extra(),
            })),
        }
    }

    /// The message as the text of a frame, without the unknown keys.
    pub fn encode(&self) -> String {
        match self {
            Self::Status(update) => {
                let status = (names::KEY_STATUS, update.status.as_str());
                match &update.message {
                    Some(message) => object(
                        names::EVENT_STATUS_UPDATE,
                        &[status, (names::KEY_MESSAGE, message)],
                    ),
                    None => object(names::EVENT_STATUS_UPDATE, &[status]),
                }
            }
            Self::Identity(identity) => object(
                names::EVENT_SANDBOX_ID,
                &[
                    (names::KEY_SANDBOX_ID, identity.sandbox_id.as_str()),
                    (
                        names::KEY_SANDBOX_TOKEN,
                        identity.sandbox_token.expose_secret(),
                    ),
                ],
            ),
            Self::Output(piece) => object(
                piece.stream.as_str(),
                &[(names::KEY_DATA, &String::from_utf8_lossy(&piece.data))],
            ),
            Self::Error(error) => {
                object(names::EVENT_ERROR, &[(names::KEY_MESSAGE, &error.message)])
            }
            Self::Unknown(unknown) => object(unknown.event.as_deref().unwrap_or_default(), &[]),
        }
    }

    /// A status without a reason.
    pub fn status(status: Status) -> Self {
        Self::Status(StatusUpdate {
            status,
            message: None,
            extra: Extra::default(),
        })
    }

    /// The id and the token of a created sandbox.
    pub fn identity(sandbox_id: SandboxId, sandbox_token: SandboxToken) -> Self {
        Self::Identity(Identity {
            sandbox_id,
            sandbox_token,
            extra: Extra::default(),
        })
    }

    /// A piece of output; it must be UTF-8 (what is not is replaced when the message is encoded).
    pub fn output(stream: StdStream, data: impl Into<Bytes>) -> Self {
        Self::Output(OutputPiece {
            stream,
            data: data.into(),
            extra: Extra::default(),
        })
    }

    /// The reason of the error status before it.
    pub fn error(message: impl Into<String>) -> Self {
        Self::Error(ErrorMessage {
            message: message.into(),
            extra: Extra::default(),
        })
    }
}

fn text<'a>(field: &mut Option<Text<'a>>) -> Option<Cow<'a, str>> {
    // A value of another type stays where it is and is carried among the extra keys.
    match field.take()? {
        Text::Str(text) => Some(text),
        other => {
            *field = Some(other);
            None
        }
    }
}

fn output(
    frame: &Bytes,
    stream: StdStream,
    mut raw: RawMessage<'_>,
) -> Result<ServerMessage, ParseError> {
    let data = match text(&mut raw.data) {
        Some(Cow::Borrowed(data)) => frame.slice_ref(data.as_bytes()),
        Some(Cow::Owned(data)) => Bytes::from(data),
        None => {
            return Err(ParseError::MissingText {
                event: stream.as_str(),
                key: names::KEY_DATA,
                excerpt: excerpt(frame),
            });
        }
    };
    Ok(ServerMessage::Output(OutputPiece {
        stream,
        data,
        extra: raw.into_extra(),
    }))
}

fn object(event: &str, entries: &[(&str, &str)]) -> String {
    to_json(std::iter::once((names::KEY_EVENT, event)).chain(entries.iter().copied()))
}

/// One JSON object with text values, in the order given.
pub(super) fn to_json<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = Vec::with_capacity(128);
    let mut serializer = serde_json::Serializer::new(&mut out);
    let written = serializer.serialize_map(None).and_then(|mut map| {
        for (key, value) in entries {
            map.serialize_entry(key, value)?;
        }
        map.end()
    });
    debug_assert!(written.is_ok(), "text to memory cannot fail");
    // serde_json writes UTF-8 only.
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(frame: &str) -> Result<ServerMessage, ParseError> {
        ServerMessage::parse(&Bytes::copy_from_slice(frame.as_bytes()))
    }

    #[test]
    fn output_that_needs_no_unescaping_is_a_slice_of_its_frame() {
        let frame = Bytes::from_static(br#"{"event":"stdout","data":"plain text"}"#);
        let Ok(ServerMessage::Output(piece)) = ServerMessage::parse(&frame) else {
            panic!()
        };
        assert_eq!(piece.data, "plain text");
        let range = frame.as_ptr_range();
        assert!(range.contains(&piece.data.as_ptr()), "the data was copied");
    }

    #[test]
    fn escaped_output_is_unescaped() {
        let Ok(ServerMessage::Output(piece)) =
            parse(r#"{"event":"stderr","data":"a\n\u00e9\ud83d\ude00"}"#)
        else {
            panic!()
        };
        assert_eq!(piece.stream, StdStream::Stderr);
        assert_eq!(piece.data, "a\né😀");
    }

    #[test]
    fn unknown_keys_events_and_statuses_are_carried() {
        let Ok(ServerMessage::Status(update)) =
            parse(r#"{"event":"status_update","status":"SANDBOX_RUNNING","region":"eu","n":[1]}"#)
        else {
            panic!()
        };
        assert_eq!(update.extra.get("region"), Some(&"eu".into()));
        assert_eq!(update.extra.get("n"), Some(&serde_json::json!([1])));

        let Ok(ServerMessage::Unknown(unknown)) = parse(r#"{"event":"weather","data":{"t":3}}"#)
        else {
            panic!()
        };
        assert_eq!(unknown.event.as_deref(), Some("weather"));
        assert_eq!(
            unknown.extra.get("data"),
            Some(&serde_json::json!({"t": 3}))
        );

        assert!(matches!(
            parse(r#"{"hello":1}"#),
            Ok(ServerMessage::Unknown(UnknownMessage { event: None, .. }))
        ));
    }

    #[test]
    fn frames_that_are_no_message_say_what_is_wrong() {
        for (frame, part) in [
            ("this is not json", "is not JSON"),
            ("", "is not JSON"),
            ("{\"event\":\"stdout\",\"data\":\"cut", "is not JSON"),
            ("[1,2,3]", "is not a JSON object"),
            ("42", "is not a JSON object"),
            ("\"stdout\"", "is not a JSON object"),
            ("null", "is not a JSON object"),
            (r#"{"event":"stdout"}"#, "no text under the key `data`"),
            (
                r#"{"event":"stdout","data":5}"#,
                "no text under the key `data`",
            ),
            (
                r#"{"event":"status_update","status":null}"#,
                "no text under the key `status`",
            ),
            (
                r#"{"event":"sandbox_id","sandbox_id":"a"}"#,
                "no text under the key `sandbox_token`",
            ),
            (r#"{"event":"error"}"#, "no text under the key `message`"),
        ] {
            let error = parse(frame).expect_err(frame).to_string();
            assert!(error.contains(part), "{frame}: {error}");
        }
        let error = ServerMessage::parse(&Bytes::from_static(b"{\"event\":\"\xff\"}"))
            .expect_err("not UTF-8");
        assert!(matches!(error, ParseError::NotUtf8 { .. }));
    }

    #[test]
    fn what_is_encoded_is_parsed_back() {
        for message in [
            ServerMessage::status(Status::ExecutionDone),
            ServerMessage::identity("sandbox-1".into(), "t".into()),
            ServerMessage::output(
                StdStream::Stdout,
                "quote \" backslash \\ newline \n é 😀 \u{0}",
            ),
            ServerMessage::error("No process is running in the sandbox."),
        ] {
            assert_eq!(parse(&message.encode()), Ok(message));
        }
        assert_eq!(
            ServerMessage::status(Status::SandboxRunning).encode(),
            r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#
        );
    }
}
