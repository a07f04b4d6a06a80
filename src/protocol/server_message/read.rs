//! The general reader of a server's messages: any keys in any order.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use super::{
    super::{
        BuiltinError, ExecId, MAX_RESULT_BYTES, ParseError, SandboxId, SandboxToken, Status,
        StdStream, Version,
        data::{into_bytes, read_data},
        excerpt,
        json::{Raw, parse_object},
    },
    EndReason, ErrorMessage, ExecEnd, ExecUpdate, Identity, Outcome, OutputPiece, OutputPlace,
    ServerMessage, StatusUpdate, UnknownMessage,
};

/// Maximum length of the list of features, in bytes. A longer list counts as absent.
const MAX_FEATURES_BYTES: usize = 4_096;

/// Every key that a message of a server can have.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Keys<'a> {
    event: Option<Raw<'a>>,
    status: Option<Raw<'a>>,
    message: Option<Raw<'a>>,
    sandbox_id: Option<Raw<'a>>,
    sandbox_token: Option<Raw<'a>>,
    exec: Option<Raw<'a>>,
    offset: Option<Raw<'a>>,
    data: Option<Raw<'a>>,
    data_b64: Option<Raw<'a>>,
    stdin: Option<Raw<'a>>,
    window: Option<Raw<'a>>,
    exit_code: Option<Raw<'a>>,
    signal: Option<Raw<'a>>,
    stdout: Option<Raw<'a>>,
    stderr: Option<Raw<'a>>,
    output_cut: Option<Raw<'a>>,
    reason: Option<Raw<'a>>,
    stdin_window: Option<Raw<'a>>,
    result: Option<Raw<'a>>,
    error: Option<Raw<'a>>,
    features: Option<Raw<'a>>,
    eof: Option<Raw<'a>>,
}

/// Reads a message of a server.
pub(super) fn message(frame: &Bytes, version: Version) -> Result<ServerMessage, ParseError> {
    let keys: Keys<'_> = parse_object(frame)?;
    let exec = match version {
        Version::V1 => None,
        Version::V2 | Version::Lifted => keys.exec.and_then(Raw::text).map(ExecId::new),
    };
    let event = keys.event.and_then(Raw::text);
    let missing = |event, key, expected| ParseError::MissingValue {
        event,
        key,
        expected,
        excerpt: excerpt(frame),
    };
    let text = |value: Option<Raw<'_>>, event, key| match value.and_then(Raw::text) {
        Some(text) => Ok(text.into_owned()),
        None => Err(missing(event, key, "text")),
    };
    let offset = |event| match keys.offset.and_then(Raw::number) {
        Some(offset) => Ok(offset),
        None => Err(missing(event, "offset", "number of bytes")),
    };
    let output = |stream: StdStream, exec| {
        let event = stream.as_str();
        let (place, data) = match exec {
            Some(exec) => {
                let offset = offset(event)?;
                let data = read_data(keys.data, keys.data_b64);
                (Some(OutputPlace { exec, offset }), data)
            }
            None => (None, keys.data.and_then(Raw::text).map(into_bytes)),
        };
        let data = match data {
            Some(Cow::Borrowed(data)) => frame.slice_ref(data),
            Some(Cow::Owned(data)) => data.into(),
            None => return Err(missing(event, "data", "text")),
        };
        Ok(ServerMessage::Output(OutputPiece {
            stream,
            data,
            eof: place.is_some() && keys.eof.and_then(Raw::flag).unwrap_or(false),
            place,
        }))
    };

    match (event.as_deref(), exec) {
        (Some("stdout"), exec) => output(StdStream::Stdout, exec),
        (Some("stderr"), exec) => output(StdStream::Stderr, exec),
        (Some("status_update"), exec) => match keys.status.and_then(Raw::text) {
            Some(status) => Ok(ServerMessage::Status(StatusUpdate {
                status: Status::from_wire(&status),
                message: keys.message.and_then(Raw::text).map(Cow::into_owned),
                features: keys.features(version),
                exec: exec.map(|exec| Box::new(keys.exec_update(exec))),
            })),
            None => Err(missing("status_update", "status", "text")),
        },
        (Some("sandbox_id"), _) => Ok(ServerMessage::Identity(Identity {
            sandbox_id: SandboxId::new(text(keys.sandbox_id, "sandbox_id", "sandbox_id")?),
            sandbox_token: SandboxToken::new(text(
                keys.sandbox_token,
                "sandbox_id",
                "sandbox_token",
            )?),
        })),
        (Some("error"), _) => Ok(ServerMessage::Error(ErrorMessage {
            message: text(keys.message, "error", "message")?,
        })),
        (Some("stdin_ack"), Some(exec)) => Ok(ServerMessage::StdinAck {
            exec,
            offset: offset("stdin_ack")?,
        }),
        _ => Ok(ServerMessage::Unknown(UnknownMessage {
            event: event.map(Cow::into_owned),
        })),
    }
}

impl Keys<'_> {
    /// Reads the outcome of a builtin. If the outcome is too long or can't be read, returns an
    /// error of the kind `other` as the outcome.
    fn outcome(&self) -> Option<Outcome> {
        let is_short = |raw: Raw<'_>| raw.json().len() <= MAX_RESULT_BYTES;
        let unreadable = || BuiltinError::other("the server's report of the outcome can't be read");
        match (self.result, self.error) {
            (Some(result), None) if is_short(result) && result.json().starts_with('{') => {
                Some(Outcome::Result(result.json().to_owned()))
            }
            (None, Some(error)) if is_short(error) => {
                let error = serde_json::from_str(error.json());
                Some(Outcome::Error(error.unwrap_or_else(|_| unreadable())))
            }
            (None, None) => None,
            _ => Some(Outcome::Error(unreadable())),
        }
    }

    fn features(&self, version: Version) -> Option<Vec<String>> {
        let features = self.features.filter(|_| version.is_v2())?;
        let is_short = features.json().len() <= MAX_FEATURES_BYTES;
        is_short.then(|| features.read())?
    }

    fn exec_update(&self, exec: ExecId) -> ExecUpdate {
        let reason = self.reason.and_then(Raw::text);
        let stdout = self.stdout.and_then(Raw::number);
        let stderr = self.stderr.and_then(Raw::number);
        let end = ExecEnd {
            exit_code: self.exit_code.and_then(Raw::number),
            signal: self.signal.and_then(Raw::number),
            lengths: stdout.zip(stderr).map(Into::into),
            output_cut: self.output_cut.and_then(Raw::flag).unwrap_or(false),
            reason: EndReason::from_wire(reason.as_deref().unwrap_or_default()),
            outcome: self.outcome().map(Box::new),
        };
        // An end without a reason is an end, too.
        let ended =
            (end.exit_code, end.signal, end.lengths) != (None, None, None) || end.outcome.is_some();
        ExecUpdate {
            exec,
            stdin: self.stdin.and_then(Raw::number),
            window: self.window.and_then(Raw::number),
            stdin_window: self.stdin_window.and_then(Raw::number),
            end: (reason.is_some() || ended).then_some(end),
        }
    }
}
