//! [`ClientMessage`]: what a client says after the configuration, from text and to text.

use std::borrow::Cow;

use super::{
    Extra, ParseError,
    json::{RawMessage, Text},
    names,
    server_message::to_json,
};

/// A message from the client to the server.
///
/// Parsing is as lenient as deployed servers are: only a frame that is no JSON object is an error.
/// What is missing or of another type is `None`, so that a server can say so in its own words.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientMessage<'a> {
    /// Run code.
    Exec(ExecRequest<'a>),
    /// Data for standard input.
    Stdin {
        /// The data.
        data: Option<Cow<'a, str>>,
    },
    /// Kill the running process.
    KillProcess,
    /// Kill the sandbox.
    KillSandbox,
    /// Store the sandbox's files under a name.
    SnapshotFilesystem {
        /// The name.
        name: Option<Cow<'a, str>>,
    },
    /// Store the whole sandbox and end it.
    Checkpoint,
    /// Go on with the output of the exec after a new attach.
    Reconnect,
    /// A message that this version does not know: neither a language nor a known event or action.
    Unknown {
        /// All its keys.
        extra: Extra,
    },
}

/// A request to run code.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecRequest<'a> {
    /// The language; a value that is not text is given as its JSON.
    pub language: Option<Cow<'a, str>>,
    /// The code.
    pub code: Option<Cow<'a, str>>,
}

impl<'a> ClientMessage<'a> {
    /// Reads a text frame.
    ///
    /// # Errors
    ///
    /// A frame that is not UTF-8, not JSON, or not an object.
    pub fn parse(frame: &'a [u8]) -> Result<Self, ParseError> {
        let raw = RawMessage::parse(frame)?;
        let is = |field: &Option<Text<'_>>, name: &str| matches!(field, Some(Text::Str(text)) if text == name);
        let text = |field: Option<Text<'a>>| field.and_then(Text::into_str);

        Ok(if is(&raw.event, names::EVENT_STDIN) {
            Self::Stdin {
                data: text(raw.data),
            }
        } else if is(&raw.action, names::ACTION_KILL_PROCESS) {
            Self::KillProcess
        } else if is(&raw.action, names::ACTION_KILL_SANDBOX) {
            Self::KillSandbox
        } else if is(&raw.action, names::ACTION_SNAPSHOT_FILESYSTEM) {
            Self::SnapshotFilesystem {
                name: text(raw.name),
            }
        } else if is(&raw.action, names::ACTION_CHECKPOINT) {
            Self::Checkpoint
        } else if is(&raw.action, names::ACTION_RECONNECT) {
            Self::Reconnect
        } else if raw.language.is_some() || raw.code.is_some() {
            let language = raw.language.map(|language| match language {
                Text::Str(text) => text,
                Text::Other(value) => Cow::Owned(value.to_string()),
            });
            Self::Exec(ExecRequest {
                language,
                code: text(raw.code),
            })
        } else {
            Self::Unknown {
                extra: raw.into_extra(),
            }
        })
    }

    /// The message as the text of a frame.
    pub fn encode(&self) -> String {
        fn some<'b>(
            key: &'static str,
            value: &'b Option<Cow<'_, str>>,
        ) -> Option<(&'static str, &'b str)> {
            value.as_deref().map(|value| (key, value))
        }
        let action = |name| to_json([(names::KEY_ACTION, name)].into_iter());
        match self {
            Self::Exec(ExecRequest { language, code }) => to_json(
                [
                    some(names::KEY_LANGUAGE, language),
                    some(names::KEY_CODE, code),
                ]
                .into_iter()
                .flatten(),
            ),
            Self::Stdin { data } => to_json(
                [
                    Some((names::KEY_EVENT, names::EVENT_STDIN)),
                    some(names::KEY_DATA, data),
                ]
                .into_iter()
                .flatten(),
            ),
            Self::KillProcess => action(names::ACTION_KILL_PROCESS),
            Self::KillSandbox => action(names::ACTION_KILL_SANDBOX),
            Self::SnapshotFilesystem { name } => to_json(
                [
                    Some((names::KEY_ACTION, names::ACTION_SNAPSHOT_FILESYSTEM)),
                    some(names::KEY_NAME, name),
                ]
                .into_iter()
                .flatten(),
            ),
            Self::Checkpoint => action(names::ACTION_CHECKPOINT),
            Self::Reconnect => action(names::ACTION_RECONNECT),
            Self::Unknown { .. } => "{}".to_owned(),
        }
    }

    /// A request to run code.
    pub fn exec(language: impl Into<Cow<'a, str>>, code: impl Into<Cow<'a, str>>) -> Self {
        Self::Exec(ExecRequest {
            language: Some(language.into()),
            code: Some(code.into()),
        })
    }

    /// Data for standard input.
    pub fn stdin(data: impl Into<Cow<'a, str>>) -> Self {
        Self::Stdin {
            data: Some(data.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_parsed_back() {
        for message in [
            ClientMessage::exec("python", "print(\"é\\n\")"),
            ClientMessage::stdin("line\n"),
            ClientMessage::KillProcess,
            ClientMessage::KillSandbox,
            ClientMessage::SnapshotFilesystem {
                name: Some("snap".into()),
            },
            ClientMessage::Checkpoint,
            ClientMessage::Reconnect,
        ] {
            let text = message.encode();
            assert_eq!(ClientMessage::parse(text.as_bytes()), Ok(message));
        }
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_left_to_the_server() {
        let parse = |text: &'static str| ClientMessage::parse(text.as_bytes()).expect(text);
        assert_eq!(
            parse(r#"{"code":"print(1)"}"#),
            ClientMessage::Exec(ExecRequest {
                language: None,
                code: Some("print(1)".into())
            })
        );
        assert_eq!(
            parse(r#"{"language":7,"code":{}}"#),
            ClientMessage::Exec(ExecRequest {
                language: Some("7".into()),
                code: None
            })
        );
        assert_eq!(
            parse(r#"{"event":"stdin","data":7}"#),
            ClientMessage::Stdin { data: None }
        );
        assert!(matches!(
            parse(r#"{"action":"no_such_action"}"#),
            ClientMessage::Unknown { .. }
        ));
        assert!(ClientMessage::parse(b"[1,2,3]").is_err());
        assert!(ClientMessage::parse(b"this is not json").is_err());
    }
}
