//! [`ServerMessage`]: what a server says, from text and to text.

use std::{borrow::Cow, fmt};

use bytes::Bytes;

use super::{
    ExecId, Extra, ParseError, SandboxId, SandboxToken, Status, StdStream, Version,
    client_message::{Encoded, read_bytes},
    excerpt,
    json::{Json, RawMessage, Text, write},
    names,
    quick::{self, Received},
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
    /// Input was taken (v2).
    StdinAck {
        /// By which exec.
        exec: ExecId,
        /// How many bytes in all.
        offset: u64,
    },
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
    /// Which exec it is about, and what more is known of it (v2).
    pub exec: Option<Box<ExecUpdate>>,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// What a status says about a named exec (v2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecUpdate {
    /// The exec.
    pub exec: ExecId,
    /// Bytes of input that the server has taken, with `SANDBOX_EXECUTION_RUNNING`.
    pub stdin: Option<u64>,
    /// Bytes of output that the server sends unacknowledged, with `SANDBOX_EXECUTION_RUNNING`.
    pub window: Option<u64>,
    /// How it ended, with `SANDBOX_EXECUTION_EXITED` and `SANDBOX_EXECUTION_DONE`.
    pub end: Option<ExecEnd>,
}

/// How a named exec ended (v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEnd {
    /// Why.
    pub reason: EndReason,
    /// The exit code of the main process.
    pub exit_code: Option<i32>,
    /// The signal that ended the main process.
    pub signal: Option<i32>,
    /// How many bytes there are of stdout and stderr. `None`: that is not known, or not yet.
    pub lengths: Option<[u64; 2]>,
    /// Whether a process still held stdout or stderr when the server stopped reading them.
    pub output_cut: bool,
}

impl ExecEnd {
    /// The end of an exec that ended with its sandbox, or that the server does not know.
    pub fn lost() -> Self {
        Self {
            reason: EndReason::SandboxLost,
            exit_code: None,
            signal: None,
            lengths: None,
            output_cut: false,
        }
    }
}

/// Why a named exec ended (v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// By itself.
    Exited,
    /// Somebody asked for that.
    Killed,
    /// It ran longer than it, or the server, allows.
    TimedOut,
    /// It ended with its sandbox, or the server does not know it.
    SandboxLost,
    /// For a reason that this version does not know.
    Unknown,
}

impl EndReason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => names::REASON_EXITED,
            Self::Killed => names::REASON_KILLED,
            Self::TimedOut => names::REASON_TIMED_OUT,
            Self::SandboxLost => names::REASON_SANDBOX_LOST,
            Self::Unknown => "",
        }
    }

    /// The reason of this name.
    pub fn from_wire(name: &str) -> Self {
        [
            Self::Exited,
            Self::Killed,
            Self::TimedOut,
            Self::SandboxLost,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == name)
        .unwrap_or(Self::Unknown)
    }
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
    /// The piece, a slice of the frame where nothing needed unescaping. In v1 it is UTF-8.
    pub data: Bytes,
    /// Whose output it is, and where it belongs (v2).
    pub place: Option<OutputPlace>,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// Where a piece of output belongs (v2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlace {
    /// The exec.
    pub exec: ExecId,
    /// Bytes of this stream before the piece.
    pub offset: u64,
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
    /// Reads a text frame of a link of this version.
    ///
    /// # Errors
    ///
    /// Fails if the frame is not UTF-8, not JSON or not an object, or if a known event lacks a key
    /// that it needs. Unknown events, statuses and keys are not errors.
    pub fn parse_as(frame: &Bytes, version: Version) -> Result<Self, ParseError> {
        Ok(match Self::read(frame, version)? {
            Received::Output(output) => Self::Output(output.into_piece(frame)),
            Received::Message(message) => message,
        })
    }

    /// The same, and leaves output in its frame.
    ///
    /// # Errors
    ///
    /// As [`parse_as`](Self::parse_as).
    pub fn read(frame: &Bytes, version: Version) -> Result<Received<'_>, ParseError> {
        match quick::read(frame, version) {
            Some(received) => Ok(received),
            None => Self::read_any(frame, version).map(Received::Message),
        }
    }

    /// Reads a message in any form.
    pub(super) fn read_any(frame: &Bytes, version: Version) -> Result<Self, ParseError> {
        let mut raw = RawMessage::parse(frame)?;
        let exec = match version {
            Version::V2 => text(&mut raw.exec).map(ExecId::new),
            Version::V1 => None,
        };
        let event = raw.event.take().and_then(Text::into_str);
        let missing = |event, key| ParseError::MissingText {
            event,
            key,
            excerpt: excerpt(frame),
        };

        match event.as_deref() {
            Some(names::EVENT_STDOUT) => output(frame, StdStream::Stdout, exec, raw),
            Some(names::EVENT_STDERR) => output(frame, StdStream::Stderr, exec, raw),
            Some(names::EVENT_STATUS_UPDATE) => {
                let status = text(&mut raw.status)
                    .ok_or_else(|| missing(names::EVENT_STATUS_UPDATE, names::KEY_STATUS))?;
                Ok(Self::Status(StatusUpdate {
                    status: Status::from_wire(&status),
                    message: text(&mut raw.message).map(Cow::into_owned),
                    exec: exec.map(|exec| Box::new(ExecUpdate::read(exec, &mut raw))),
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
            Some(names::EVENT_STDIN_ACK) if exec.is_some() => {
                let exec = exec.unwrap_or_else(|| ExecId::new(""));
                let offset = number(&mut raw.offset)
                    .ok_or_else(|| missing(names::EVENT_STDIN_ACK, names::KEY_OFFSET))?;
                Ok(Self::StdinAck { exec, offset })
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
                let exec = update.exec.as_deref();
                let end = exec.and_then(|exec| exec.end);
                let number = |number: Option<u64>| number.map(Json::Number);
                let signed = |number: Option<i32>| number.map(|it| Json::Signed(it.into()));
                let length = |stream: usize| {
                    let lengths = end.and_then(|end| end.lengths);
                    number(lengths.map(|lengths| lengths[stream]))
                };
                let mut entries = vec![
                    (
                        names::KEY_EVENT,
                        Some(Json::Text(names::EVENT_STATUS_UPDATE)),
                    ),
                    (names::KEY_STATUS, Some(Json::Text(update.status.as_str()))),
                    (
                        names::KEY_MESSAGE,
                        update.message.as_deref().map(Json::Text),
                    ),
                ];
                if let Some(exec) = exec {
                    entries.extend([
                        (names::KEY_EXEC, Some(Json::Text(exec.exec.as_str()))),
                        (names::KEY_STDIN, number(exec.stdin)),
                        (names::KEY_WINDOW, number(exec.window)),
                        (
                            names::KEY_EXIT_CODE,
                            signed(end.and_then(|end| end.exit_code)),
                        ),
                        (names::KEY_SIGNAL, signed(end.and_then(|end| end.signal))),
                        (names::KEY_STDOUT, length(0)),
                        (names::KEY_STDERR, length(1)),
                        (
                            names::KEY_OUTPUT_CUT,
                            end.and_then(|end| end.output_cut.then_some(Json::Flag(true))),
                        ),
                        (
                            names::KEY_REASON,
                            end.map(|end| Json::Text(end.reason.as_str())),
                        ),
                    ]);
                }
                write(entries)
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
            Self::Output(OutputPiece {
                stream,
                data,
                place: None,
                ..
            }) => object(
                stream.as_str(),
                &[(names::KEY_DATA, &String::from_utf8_lossy(data))],
            ),
            Self::Output(OutputPiece {
                stream,
                data,
                place: Some(place),
                ..
            }) => {
                let data = Encoded::new(data);
                let [text, base64] = data.entries();
                write([
                    (names::KEY_EVENT, Some(Json::Text(stream.as_str()))),
                    (names::KEY_EXEC, Some(Json::Text(place.exec.as_str()))),
                    (names::KEY_OFFSET, Some(Json::Number(place.offset))),
                    text,
                    base64,
                ])
            }
            Self::StdinAck { exec, offset } => write([
                (names::KEY_EVENT, Some(Json::Text(names::EVENT_STDIN_ACK))),
                (names::KEY_EXEC, Some(Json::Text(exec.as_str()))),
                (names::KEY_OFFSET, Some(Json::Number(*offset))),
            ]),
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
            exec: None,
            extra: Extra::default(),
        })
    }

    /// A status with its reason in itself.
    pub fn status_because(status: Status, reason: String) -> Self {
        Self::Status(StatusUpdate {
            status,
            message: Some(reason),
            exec: None,
            extra: Extra::default(),
        })
    }

    /// A status of a named exec (v2), with the reason of an error.
    pub fn exec_status(status: Status, exec: ExecUpdate, message: Option<String>) -> Self {
        Self::Status(StatusUpdate {
            status,
            message,
            exec: Some(Box::new(exec)),
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
            place: None,
            extra: Extra::default(),
        })
    }

    /// A piece of output of a named exec (v2); any bytes.
    pub fn output_at(stream: StdStream, data: impl Into<Bytes>, place: OutputPlace) -> Self {
        Self::Output(OutputPiece {
            stream,
            data: data.into(),
            place: Some(place),
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

fn number(field: &mut Option<Text<'_>>) -> Option<u64> {
    let number = field.as_ref()?.as_u64()?;
    *field = None;
    Some(number)
}

fn flag(field: &mut Option<Text<'_>>) -> bool {
    let flag = field.as_ref().and_then(|value| value.other()?.as_bool());
    if flag.is_some() {
        *field = None;
    }
    flag.unwrap_or(false)
}

impl ExecUpdate {
    /// Nothing but whom it is about.
    pub fn new(exec: ExecId) -> Self {
        Self {
            exec,
            stdin: None,
            window: None,
            end: None,
        }
    }

    fn read(exec: ExecId, raw: &mut RawMessage<'_>) -> Self {
        let signed = |field: &mut Option<Text<'_>>| {
            let number = field.as_ref()?.other()?.as_i64()?;
            *field = None;
            i32::try_from(number).ok()
        };
        let reason = text(&mut raw.reason);
        let end = ExecEnd {
            reason: EndReason::from_wire(reason.as_deref().unwrap_or_default()),
            exit_code: signed(&mut raw.exit_code),
            signal: signed(&mut raw.signal),
            lengths: number(&mut raw.stdout)
                .zip(number(&mut raw.stderr))
                .map(Into::into),
            output_cut: flag(&mut raw.output_cut),
        };
        // An end without a reason is one, too.
        let known = (end.exit_code, end.signal, end.lengths) != (None, None, None);
        let end = (reason.is_some() || known).then_some(end);
        Self {
            exec,
            stdin: number(&mut raw.stdin),
            window: number(&mut raw.window),
            end,
        }
    }
}

fn output(
    frame: &Bytes,
    stream: StdStream,
    exec: Option<ExecId>,
    mut raw: RawMessage<'_>,
) -> Result<ServerMessage, ParseError> {
    let missing = |key| ParseError::MissingText {
        event: stream.as_str(),
        key,
        excerpt: excerpt(frame),
    };
    let place = match exec {
        Some(exec) => Some(OutputPlace {
            exec,
            offset: number(&mut raw.offset).ok_or_else(|| missing(names::KEY_OFFSET))?,
        }),
        None => None,
    };
    let bytes = match &place {
        Some(_) => read_bytes(&mut raw),
        None => text(&mut raw.data).map(|text| match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }),
    };
    let data = match bytes {
        Some(Cow::Borrowed(data)) => frame.slice_ref(data),
        Some(Cow::Owned(data)) => Bytes::from(data),
        None => return Err(missing(names::KEY_DATA)),
    };
    Ok(ServerMessage::Output(OutputPiece {
        stream,
        data,
        place,
        extra: raw.into_extra(),
    }))
}

fn object(event: &str, entries: &[(&str, &str)]) -> String {
    let entries = entries.iter().copied();
    let entries = std::iter::once((names::KEY_EVENT, event)).chain(entries);
    write(entries.map(|(key, text)| (key, Some(Json::Text(text)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(frame: &str) -> Result<ServerMessage, ParseError> {
        ServerMessage::parse_as(&Bytes::copy_from_slice(frame.as_bytes()), Version::V1)
    }

    #[test]
    fn output_that_needs_no_unescaping_is_a_slice_of_its_frame() {
        let frame = Bytes::from_static(br#"{"event":"stdout","data":"plain text"}"#);
        let Ok(ServerMessage::Output(piece)) = ServerMessage::parse_as(&frame, Version::V1) else {
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
        let error =
            ServerMessage::parse_as(&Bytes::from_static(b"{\"event\":\"\xff\"}"), Version::V1)
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

    #[test]
    fn what_names_an_exec_is_parsed_back_in_v2() {
        let end = |reason, exit_code, signal, lengths| ExecUpdate {
            exec: "7f3a-1".into(),
            stdin: None,
            window: None,
            end: Some(ExecEnd {
                reason,
                exit_code,
                signal,
                lengths,
                output_cut: false,
            }),
        };
        let cut = |mut update: ExecUpdate| {
            update.end.as_mut().unwrap().output_cut = true;
            update
        };
        let place = || OutputPlace {
            exec: "7f3a-1".into(),
            offset: u64::MAX,
        };
        let done = Status::ExecutionDone;
        for message in [
            ServerMessage::exec_status(
                Status::ExecutionRunning,
                ExecUpdate {
                    exec: "7f3a-1".into(),
                    stdin: Some(0),
                    window: Some(1),
                    end: None,
                },
                None,
            ),
            ServerMessage::exec_status(
                done.clone(),
                end(EndReason::Exited, Some(-1), None, Some([1, u64::MAX])),
                None,
            ),
            ServerMessage::exec_status(
                done.clone(),
                end(EndReason::Killed, None, Some(9), Some([0, 0])),
                None,
            ),
            ServerMessage::exec_status(
                Status::ExecutionExited,
                end(EndReason::Exited, Some(3), None, None),
                None,
            ),
            ServerMessage::exec_status(
                done.clone(),
                cut(end(EndReason::Exited, Some(3), None, Some([7, 0]))),
                None,
            ),
            ServerMessage::exec_status(
                done,
                end(EndReason::SandboxLost, None, None, None),
                Some("why".to_owned()),
            ),
            ServerMessage::output_at(StdStream::Stdout, "é", place()),
            ServerMessage::output_at(StdStream::Stderr, &b"\xff\0"[..], place()),
            ServerMessage::StdinAck {
                exec: "7f3a-1".into(),
                offset: 7,
            },
        ] {
            let frame = Bytes::from(message.encode());
            let parsed = ServerMessage::parse_as(&frame, Version::V2);
            assert_eq!(parsed, Ok(message), "{frame:?}");
        }
        // In v1 the keys are just some that nobody knows.
        let frame = r#"{"event":"stdout","exec":"e","offset":3,"data":"x"}"#;
        let Ok(ServerMessage::Output(piece)) = parse(frame) else {
            panic!()
        };
        assert_eq!((piece.place, piece.extra.iter().count()), (None, 2));
    }

    #[test]
    fn output_of_an_exec_without_its_place_or_data_is_no_message() {
        for frame in [
            r#"{"event":"stdout","exec":"e","data":"x"}"#,
            r#"{"event":"stdout","exec":"e","offset":-1,"data":"x"}"#,
            r#"{"event":"stdout","exec":"e","offset":0,"data_b64":"?"}"#,
            r#"{"event":"stdin_ack","exec":"e"}"#,
        ] {
            let parsed =
                ServerMessage::parse_as(&Bytes::from_static(frame.as_bytes()), Version::V2);
            assert!(parsed.is_err(), "{frame}: {parsed:?}");
        }
    }
}
