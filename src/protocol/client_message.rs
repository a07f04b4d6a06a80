//! [`ClientMessage`]: what a client says after the configuration, from text and to text.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{
    ExecId, Extra, ParseError, Version,
    json::{Json, RawMessage, Text, write},
    names,
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
    /// Something about a named exec (v2).
    Named(ExecId, NamedMessage<'a>),
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

/// What a client says about a named exec (v2).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NamedMessage<'a> {
    /// Run code under this name, once.
    Exec(ExecRequest<'a>, ExecOptions),
    /// An exec request whose options cannot be read, and why.
    Malformed(String),
    /// Input that cannot be read, and why.
    MalformedStdin(String),
    /// What this version does not know.
    Unknown,
    /// Bytes for standard input.
    Stdin {
        /// Bytes before these.
        offset: u64,
        /// The bytes.
        data: Cow<'a, [u8]>,
        /// The input ends after them.
        eof: bool,
    },
    /// Output was taken: everything before these offsets, in stdout and stderr.
    Ack {
        /// The offsets.
        offsets: [u64; 2],
        /// The end was taken, too.
        done: bool,
    },
    /// Kill it.
    Kill,
    /// Send on from these offsets, in stdout and stderr.
    Reconnect {
        /// The offsets.
        offsets: [u64; 2],
    },
}

/// The options of a named exec (v2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The arguments of the code.
    pub args: Vec<String>,
    /// Additions to the environment.
    pub env: Vec<(String, String)>,
    /// The working directory, from the usual one.
    pub cwd: Option<String>,
    /// Milliseconds after which it is killed.
    pub timeout_ms: Option<u64>,
    /// Milliseconds for which output is read after the main process has ended, while another
    /// process holds it.
    pub output_grace_ms: Option<u64>,
    /// Bytes of output that may be unacknowledged.
    pub window: Option<u64>,
    /// Whether its input is to end, which v1 cannot say. Not part of the message: the input says it.
    pub input_ends: bool,
}

impl ExecOptions {
    /// Most arguments and environment variables together.
    pub const MAX_VALUES: usize = 1_000;

    fn read(raw: &RawMessage<'_>) -> Result<Self, String> {
        let too_many = || {
            format!(
                "There are more than {} arguments and environment variables.",
                Self::MAX_VALUES
            )
        };
        if raw.truncated {
            return Err(too_many());
        }
        let number = |key, field: &Option<Text<'_>>| {
            let Some(value) = field else { return Ok(None) };
            match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(key, "a whole number, not negative")),
            }
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let args = match &raw.args {
            None => Vec::new(),
            Some(value) => value
                .other()
                .and_then(Value::as_array)
                .and_then(|list| list.iter().map(text).collect())
                .ok_or_else(|| wrong(names::KEY_ARGS, "a list of text"))?,
        };
        let env = match &raw.env {
            None => Vec::new(),
            Some(value) => value
                .other()
                .and_then(Value::as_object)
                .and_then(|map| {
                    map.iter()
                        .map(|(key, value)| Some((key.clone(), text(value)?)))
                        .collect()
                })
                .ok_or_else(|| wrong(names::KEY_ENV, "an object of text"))?,
        };
        if args.len() + env.len() > Self::MAX_VALUES {
            return Err(too_many());
        }
        let cwd = match &raw.cwd {
            None => None,
            Some(Text::Str(cwd)) => Some(cwd.clone().into_owned()),
            Some(Text::Other(_)) => return Err(wrong(names::KEY_CWD, "text")),
        };
        Ok(Self {
            args,
            env,
            cwd,
            timeout_ms: number(names::KEY_TIMEOUT_MS, &raw.timeout_ms)?,
            output_grace_ms: number(names::KEY_OUTPUT_GRACE_MS, &raw.output_grace_ms)?,
            window: number(names::KEY_WINDOW, &raw.window)?,
            input_ends: false,
        })
    }
}

impl<'a> ClientMessage<'a> {
    /// Reads a text frame of a link of this version.
    ///
    /// # Errors
    ///
    /// Fails if the frame is not UTF-8, not JSON, or not an object.
    pub fn parse_as(frame: &'a [u8], version: Version) -> Result<Self, ParseError> {
        let mut raw = RawMessage::parse(frame)?;
        if version == Version::V2
            && let Some(Text::Str(exec)) = &raw.exec
        {
            let exec = ExecId::new(exec);
            return Ok(Self::Named(exec, NamedMessage::read(&mut raw)));
        }
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
            Self::Exec(ExecRequest::read(&mut raw))
        } else {
            Self::Unknown {
                extra: raw.into_extra(),
            }
        })
    }

    /// The message as the text of a frame.
    pub fn encode(&self) -> String {
        let action = |name| write([(names::KEY_ACTION, Some(Json::Text(name)))]);
        match self {
            Self::Exec(request) => write(request.entries()),
            Self::Stdin { data } => write([
                (names::KEY_EVENT, Some(Json::Text(names::EVENT_STDIN))),
                (names::KEY_DATA, data.as_deref().map(Json::Text)),
            ]),
            Self::KillProcess => action(names::ACTION_KILL_PROCESS),
            Self::KillSandbox => action(names::ACTION_KILL_SANDBOX),
            Self::SnapshotFilesystem { name } => write([
                (
                    names::KEY_ACTION,
                    Some(Json::Text(names::ACTION_SNAPSHOT_FILESYSTEM)),
                ),
                (names::KEY_NAME, name.as_deref().map(Json::Text)),
            ]),
            Self::Checkpoint => action(names::ACTION_CHECKPOINT),
            Self::Reconnect => action(names::ACTION_RECONNECT),
            Self::Named(exec, message) => message.encode(exec),
            Self::Unknown { .. } => "{}".to_owned(),
        }
    }

    /// A request to run code.
    pub fn exec(language: impl Into<Cow<'a, str>>, code: impl Into<Cow<'a, str>>) -> Self {
        Self::Exec(ExecRequest::new(language, code))
    }

    /// Data for standard input.
    pub fn stdin(data: impl Into<Cow<'a, str>>) -> Self {
        Self::Stdin {
            data: Some(data.into()),
        }
    }
}

fn is(field: &Option<Text<'_>>, name: &str) -> bool {
    matches!(field, Some(Text::Str(text)) if text == name)
}

impl<'a> ExecRequest<'a> {
    /// A request to run code.
    pub fn new(language: impl Into<Cow<'a, str>>, code: impl Into<Cow<'a, str>>) -> Self {
        Self {
            language: Some(language.into()),
            code: Some(code.into()),
        }
    }

    fn read(raw: &mut RawMessage<'a>) -> Self {
        let language = raw.language.take().map(|language| match language {
            Text::Str(text) => text,
            Text::Other(value) => Cow::Owned(value.to_string()),
        });
        Self {
            language,
            code: raw.code.take().and_then(Text::into_str),
        }
    }

    fn entries(&self) -> [(&'static str, Option<Json<'_>>); 2] {
        [
            (
                names::KEY_LANGUAGE,
                self.language.as_deref().map(Json::Text),
            ),
            (names::KEY_CODE, self.code.as_deref().map(Json::Text)),
        ]
    }
}

/// What is said of a value that is not as it must be.
fn wrong(key: &str, expected: &str) -> String {
    format!("'{key}' must be {expected}.")
}

impl<'a> NamedMessage<'a> {
    /// The message, of a frame that names an exec.
    fn read(raw: &mut RawMessage<'a>) -> Self {
        let number = |field: &Option<Text<'_>>| field.as_ref().and_then(Text::as_u64);
        let flag = |field: &Option<Text<'_>>| matches!(field, Some(Text::Other(Value::Bool(true))));
        let offsets = [
            number(&raw.stdout).unwrap_or(0),
            number(&raw.stderr).unwrap_or(0),
        ];
        if is(&raw.event, names::EVENT_STDIN) {
            let (offset, eof) = (number(&raw.offset), flag(&raw.eof));
            match (offset, read_bytes(raw)) {
                (Some(offset), Some(data)) => Self::Stdin { offset, data, eof },
                (None, _) => Self::MalformedStdin(wrong(
                    names::KEY_OFFSET,
                    "given: a whole number, not negative",
                )),
                (_, None) => Self::MalformedStdin(
                    "'data' must be text, or 'data_b64' base64, and not both.".to_owned(),
                ),
            }
        } else if is(&raw.event, names::EVENT_ACK) {
            let done = flag(&raw.done);
            Self::Ack { offsets, done }
        } else if is(&raw.action, names::ACTION_KILL_PROCESS) {
            Self::Kill
        } else if is(&raw.action, names::ACTION_RECONNECT) {
            Self::Reconnect { offsets }
        } else if raw.language.is_some() || raw.code.is_some() {
            match ExecOptions::read(raw) {
                Ok(options) => Self::Exec(ExecRequest::read(raw), options),
                Err(why) => Self::Malformed(why),
            }
        } else {
            Self::Unknown
        }
    }

    fn encode(&self, exec: &ExecId) -> String {
        let name = (names::KEY_EXEC, Some(Json::Text(exec.as_str())));
        let event = |event| (names::KEY_EVENT, Some(Json::Text(event)));
        let action = |action| (names::KEY_ACTION, Some(Json::Text(action)));
        let at = |offsets: &[u64; 2]| {
            [
                (names::KEY_STDOUT, Some(Json::Number(offsets[0]))),
                (names::KEY_STDERR, Some(Json::Number(offsets[1]))),
            ]
        };
        match self {
            Self::Exec(request, options) => {
                let [language, code] = request.entries();
                let some = |some: bool, value| some.then_some(value);
                write([
                    language,
                    code,
                    name,
                    (
                        names::KEY_ARGS,
                        some(!options.args.is_empty(), Json::List(&options.args)),
                    ),
                    (
                        names::KEY_ENV,
                        some(!options.env.is_empty(), Json::Object(&options.env)),
                    ),
                    (names::KEY_CWD, options.cwd.as_deref().map(Json::Text)),
                    (names::KEY_TIMEOUT_MS, options.timeout_ms.map(Json::Number)),
                    (
                        names::KEY_OUTPUT_GRACE_MS,
                        options.output_grace_ms.map(Json::Number),
                    ),
                    (names::KEY_WINDOW, options.window.map(Json::Number)),
                ])
            }
            Self::Malformed(_) | Self::MalformedStdin(_) | Self::Unknown => write([name]),
            Self::Stdin { offset, data, eof } => {
                let bytes = Encoded::new(data);
                let [text, base64] = bytes.entries();
                write([
                    event(names::EVENT_STDIN),
                    name,
                    (names::KEY_OFFSET, Some(Json::Number(*offset))),
                    text,
                    base64,
                    (names::KEY_EOF, eof.then_some(Json::Flag(true))),
                ])
            }
            Self::Ack { offsets, done } => {
                let [stdout, stderr] = at(offsets);
                let done = (names::KEY_DONE, done.then_some(Json::Flag(true)));
                write([event(names::EVENT_ACK), name, stdout, stderr, done])
            }
            Self::Kill => write([action(names::ACTION_KILL_PROCESS), name]),
            Self::Reconnect { offsets } => {
                let [stdout, stderr] = at(offsets);
                write([action(names::ACTION_RECONNECT), name, stdout, stderr])
            }
        }
    }
}

/// Bytes on their way into a message: as text where they are, or else in base64.
pub(super) enum Encoded<'a> {
    Text(&'a str),
    Base64(String),
}

impl<'a> Encoded<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    pub(super) fn entries(&self) -> [(&'static str, Option<Json<'_>>); 2] {
        let (text, base64) = match self {
            Self::Text(text) => (Some(Json::Text(text)), None),
            Self::Base64(base64) => (None, Some(Json::Text(base64))),
        };
        [(names::KEY_DATA, text), (names::KEY_DATA_B64, base64)]
    }
}

/// The bytes of a message: its text, its base64, or none. `None` when they cannot be read.
pub(super) fn read_bytes<'a>(raw: &mut RawMessage<'a>) -> Option<Cow<'a, [u8]>> {
    match (raw.data.take(), raw.data_b64.take()) {
        (Some(Text::Str(Cow::Borrowed(text))), None) => Some(Cow::Borrowed(text.as_bytes())),
        (Some(Text::Str(Cow::Owned(text))), None) => Some(Cow::Owned(text.into_bytes())),
        (None, Some(Text::Str(base64))) => BASE64_STANDARD.decode(&*base64).ok().map(Cow::Owned),
        (None, None) => Some(Cow::Borrowed(&[])),
        _ => None,
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
            let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V1);
            assert_eq!(parsed.as_ref(), Ok(&message));
            // What names no exec means the same in v2.
            let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
            assert_eq!(parsed, Ok(message));
        }
    }

    #[test]
    fn what_names_an_exec_is_parsed_back_in_v2_and_is_what_it_was_in_v1() {
        let options = ExecOptions {
            args: vec!["a b".into(), String::new()],
            env: vec![("K".into(), "V=\"".into())],
            cwd: Some("src".into()),
            timeout_ms: Some(5_000),
            output_grace_ms: Some(0),
            window: Some(1),
            input_ends: false,
        };
        let stdin = |data: &'static [u8], eof| NamedMessage::Stdin {
            offset: 7,
            data: data.into(),
            eof,
        };
        for message in [
            NamedMessage::Exec(ExecRequest::new("bash", "cat"), options),
            NamedMessage::Exec(ExecRequest::new("bash", "cat"), ExecOptions::default()),
            stdin(b"text", false),
            stdin(b"\xff\0", true),
            stdin(b"", true),
            NamedMessage::Ack {
                offsets: [u64::MAX, 0],
                done: true,
            },
            NamedMessage::Ack {
                offsets: [1, 2],
                done: false,
            },
            NamedMessage::Kill,
            NamedMessage::Reconnect { offsets: [3, 4] },
        ] {
            let message = ClientMessage::Named("7f3a-1".into(), message);
            let text = message.encode();
            let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
            assert_eq!(parsed, Ok(message), "{text}");
            let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V1);
            assert!(!matches!(parsed, Ok(ClientMessage::Named(..))), "{text}");
        }
    }

    #[test]
    fn options_that_cannot_be_read_say_why() {
        let many = vec![r#""a""#; 2_000].join(",");
        for (options, part) in [
            (r#""args":"a""#.to_owned(), "'args' must be a list of text"),
            (r#""args":[1]"#.to_owned(), "'args' must be a list of text"),
            (
                r#""env":{"a":1}"#.to_owned(),
                "'env' must be an object of text",
            ),
            (r#""cwd":1"#.to_owned(), "'cwd' must be text"),
            (
                r#""timeout_ms":-1"#.to_owned(),
                "'timeout_ms' must be a whole number",
            ),
            (
                r#""window":1.5"#.to_owned(),
                "'window' must be a whole number",
            ),
            (format!(r#""args":[{many}]"#), "more than 1000 arguments"),
        ] {
            let text = format!(r#"{{"language":"bash","code":"","exec":"e",{options}}}"#);
            let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
            let Ok(ClientMessage::Named(_, NamedMessage::Malformed(why))) = parsed else {
                panic!("{options}: {parsed:?}")
            };
            assert!(why.contains(part), "{options}: {why}");
        }
    }

    #[test]
    fn input_that_cannot_be_read_says_why_and_what_is_not_known_is_still_about_its_exec() {
        fn parse(text: &str) -> Result<ClientMessage<'_>, ParseError> {
            ClientMessage::parse_as(text.as_bytes(), Version::V2)
        }
        for (rest, part) in [
            (r#""data":"x""#, "'offset' must be given"),
            (r#""offset":-1,"data":"x""#, "'offset' must be given"),
            (r#""offset":0,"data":1"#, "'data' must be text"),
            (r#""offset":0,"data_b64":"*""#, "'data_b64' base64"),
            (r#""offset":0,"data":"x","data_b64":"eA==""#, "not both"),
        ] {
            let text = format!(r#"{{"event":"stdin","exec":"e",{rest}}}"#);
            let parsed = parse(&text);
            let Ok(ClientMessage::Named(_, NamedMessage::MalformedStdin(why))) = parsed else {
                panic!("{rest}: {parsed:?}")
            };
            assert!(why.contains(part), "{rest}: {why}");
        }
        assert_eq!(
            parse(r#"{"action":"dance","exec":"e"}"#),
            Ok(ClientMessage::Named("e".into(), NamedMessage::Unknown))
        );
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_left_to_the_server() {
        let parse =
            |text: &'static str| ClientMessage::parse_as(text.as_bytes(), Version::V1).expect(text);
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
        assert!(ClientMessage::parse_as(b"[1,2,3]", Version::V1).is_err());
        assert!(ClientMessage::parse_as(b"this is not json", Version::V1).is_err());
    }
}
