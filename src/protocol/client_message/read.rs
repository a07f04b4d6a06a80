//! The reader of a client's messages.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    super::{
        ExecId, ParseError, Version,
        data::read_data,
        json::{Raw, not_json, parse_object},
    },
    ClientMessage, ExecOptions, ExecRequest, NamedMessage,
};

/// Every key that a message of a client can have.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(super) struct Keys<'a> {
    event: Option<Raw<'a>>,
    action: Option<Raw<'a>>,
    language: Option<Raw<'a>>,
    code: Option<Raw<'a>>,
    name: Option<Raw<'a>>,
    data: Option<Raw<'a>>,
    data_b64: Option<Raw<'a>>,
    exec: Option<Raw<'a>>,
    offset: Option<Raw<'a>>,
    eof: Option<Raw<'a>>,
    stdout: Option<Raw<'a>>,
    stderr: Option<Raw<'a>>,
    done: Option<Raw<'a>>,
    pub(super) args: Option<Raw<'a>>,
    pub(super) env: Option<Raw<'a>>,
    pub(super) cwd: Option<Raw<'a>>,
    pub(super) timeout_ms: Option<Raw<'a>>,
    pub(super) output_grace_ms: Option<Raw<'a>>,
    pub(super) window: Option<Raw<'a>>,
}

impl<'a> ClientMessage<'a> {
    /// Reads a text frame of a v1 link.
    ///
    /// # Errors
    ///
    /// Fails if the frame is not a JSON object, or if a known key occurs twice. `null` counts as an
    /// absent key.
    pub fn parse(frame: &'a [u8]) -> Result<Self, ParseError> {
        Self::parse_as(frame, Version::V1)
    }

    /// Reads a text frame of a link of this version.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_as(frame: &'a [u8], version: Version) -> Result<Self, ParseError> {
        let keys: Keys<'a> = parse_object(frame)?;
        if version == Version::V2
            && let Some(exec) = keys.exec
        {
            match exec.text() {
                Some(exec) => return Ok(Self::Named(ExecId::new(exec), keys.named())),
                // The message must not reach the exec without a name.
                None if exec.json().starts_with('"') => return Err(not_json(frame, "bad escape")),
                None => {}
            }
        }
        let event = keys.event.and_then(Raw::text);
        let action = keys.action.and_then(Raw::text);
        Ok(match (event.as_deref(), action.as_deref()) {
            (Some("stdin"), _) => Self::Stdin {
                data: keys.data.and_then(Raw::text),
            },
            (_, Some("kill_process")) => Self::KillProcess,
            (_, Some("kill_sandbox")) => Self::KillSandbox,
            (_, Some("snapshot_filesystem")) => Self::SnapshotFilesystem {
                name: keys.name.and_then(Raw::text),
            },
            (_, Some("checkpoint")) => Self::Checkpoint,
            (_, Some("reconnect")) => Self::Reconnect,
            _ if keys.is_exec() => Self::Exec(keys.request()),
            _ => Self::Unknown,
        })
    }
}

impl<'a> Keys<'a> {
    fn is_exec(&self) -> bool {
        self.language.is_some() || self.code.is_some()
    }

    fn request(&self) -> ExecRequest<'a> {
        let language = self.language;
        ExecRequest {
            language: language.map(|it| it.text().unwrap_or(Cow::Borrowed(it.json()))),
            code: self.code.and_then(Raw::text),
        }
    }

    /// Reads a message about a named exec.
    fn named(&self) -> NamedMessage<'a> {
        let event = self.event.and_then(Raw::text);
        let action = self.action.and_then(Raw::text);
        let flag = |value: Option<Raw<'_>>| value.and_then(Raw::flag).unwrap_or(false);
        let offsets = || [self.stdout, self.stderr].map(|it| it.and_then(Raw::number).unwrap_or(0));
        match (event.as_deref(), action.as_deref()) {
            (Some("stdin"), _) => self.stdin(flag(self.eof)),
            (Some("ack"), _) => NamedMessage::Ack {
                offsets: offsets(),
                done: flag(self.done),
            },
            (_, Some("kill_process")) => NamedMessage::Kill,
            (_, Some("reconnect")) => NamedMessage::Reconnect { offsets: offsets() },
            _ if self.is_exec() => match ExecOptions::read(self) {
                Ok(options) => NamedMessage::Exec(self.request(), options),
                Err(why) => NamedMessage::Malformed(why),
            },
            _ => NamedMessage::Unknown,
        }
    }

    fn stdin(&self, eof: bool) -> NamedMessage<'a> {
        let offset = self.offset.and_then(Raw::number);
        match (offset, read_data(self.data, self.data_b64)) {
            (Some(offset), Some(data)) => NamedMessage::Stdin { offset, data, eof },
            (None, _) => {
                NamedMessage::MalformedStdin(wrong("offset", "given: a whole number, not negative"))
            }
            (_, None) => NamedMessage::MalformedStdin(
                "'data' must be text, or 'data_b64' base64, and not both.".to_owned(),
            ),
        }
    }
}

/// Why a value is refused.
pub(super) fn wrong(key: &str, expected: &str) -> String {
    format!("'{key}' must be {expected}.")
}
