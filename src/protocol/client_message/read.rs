//! The reader of a client's messages.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    super::{
        Builtin, ExecId, ParseError, Piece, TerminalSize, Version,
        data::read_data,
        json::{Raw, not_json, parse_object},
    },
    ClientMessage, ExecOptions, ExecRequest, NamedMessage, Program,
};

/// Maximum length of a builtin as JSON, in bytes. Enough for two paths of 4 KiB, because JSON takes
/// at most 6 bytes for each byte of a path.
const MAX_BUILTIN_BYTES: usize = 64 * 1024;

/// Every key that a message of a client can have.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Keys<'a> {
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
    args: Option<Raw<'a>>,
    env: Option<Raw<'a>>,
    cwd: Option<Raw<'a>>,
    timeout_ms: Option<Raw<'a>>,
    output_grace_ms: Option<Raw<'a>>,
    window: Option<Raw<'a>>,
    argv: Option<Raw<'a>>,
    builtin: Option<Raw<'a>>,
    binary: Option<Raw<'a>>,
    terminal: Option<Raw<'a>>,
}

impl ClientMessage<'static> {
    /// Reads a text frame of a v1 link.
    ///
    /// # Errors
    ///
    /// Fails if the frame is not a JSON object, or if a known key occurs twice. `null` counts as an
    /// absent key.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn parse(frame: &[u8]) -> Result<Self, ParseError> {
        Self::parse_as(frame, Version::V1)
    }

    /// Reads a text frame of a link of this version.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_as(frame: &[u8], version: Version) -> Result<Self, ParseError> {
        if version.is_v2()
            && let Some(piece) = Piece::read(frame)
        {
            let input = NamedMessage::Stdin {
                offset: piece.offset,
                data: Cow::Owned(piece.data.to_vec()),
                eof: piece.eof,
            };
            // Only a server sends output.
            let message = match piece.stream {
                None => input,
                Some(_) => NamedMessage::Unknown,
            };
            return Ok(Self::Named(ExecId::new(piece.exec), message));
        }
        let keys: Keys<'_> = parse_object(frame)?;
        if version.is_v2()
            && let Some(exec) = keys.exec
        {
            match exec.text() {
                Some(exec) => return Ok(Self::Named(ExecId::new(exec), keys.named())),
                // The message must not be taken for one about the v1 exec.
                None if exec.json().starts_with('"') => return Err(not_json(frame, "bad escape")),
                None => {}
            }
        }
        let event = keys.event.and_then(Raw::text);
        let action = keys.action.and_then(Raw::text);
        Ok(match (event.as_deref(), action.as_deref()) {
            (Some("stdin"), _) => Self::Stdin {
                data: keys.data.and_then(text),
            },
            (_, Some("kill_process")) => Self::KillProcess,
            (_, Some("kill_sandbox")) => Self::KillSandbox,
            (_, Some("snapshot_filesystem")) => Self::SnapshotFilesystem {
                name: keys.name.and_then(text),
            },
            (_, Some("checkpoint")) => Self::Checkpoint,
            (_, Some("reconnect")) => Self::Reconnect,
            _ if keys.is_exec() => Self::Exec(keys.request()),
            _ => Self::Unknown,
        })
    }
}

impl Keys<'_> {
    fn is_exec(&self) -> bool {
        self.language.is_some() || self.code.is_some()
    }

    fn request(&self) -> ExecRequest<'static> {
        let language = self.language;
        ExecRequest {
            language: language.map(|it| text(it).unwrap_or_else(|| it.json().to_owned().into())),
            code: self.code.and_then(text),
        }
    }

    /// Reads a message about a named exec.
    fn named(&self) -> NamedMessage<'static> {
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
            _ if self.is_exec() || self.argv.is_some() || self.builtin.is_some() => {
                match self.program().and_then(|it| Ok((it, self.options()?))) {
                    Ok((program, options)) => NamedMessage::Exec(program, options),
                    Err(why) => NamedMessage::Malformed(why),
                }
            }
            _ => NamedMessage::Unknown,
        }
    }

    fn stdin(&self, eof: bool) -> NamedMessage<'static> {
        let offset = self.offset.and_then(Raw::number);
        match (offset, read_data(self.data, self.data_b64)) {
            (Some(offset), Some(data)) => {
                let data = Cow::Owned(data.into_owned());
                NamedMessage::Stdin { offset, data, eof }
            }
            (None, _) => {
                NamedMessage::MalformedStdin(wrong("offset", "given: a whole number, not negative"))
            }
            (_, None) => NamedMessage::MalformedStdin(
                "'data' must be text, or 'data_b64' base64, and not both.".to_owned(),
            ),
        }
    }

    /// Reads the program of an exec request. Fails with the reason why it can't be read.
    fn program(&self) -> Result<Program<'static>, String> {
        match (self.is_exec(), self.argv, self.builtin) {
            (true, None, None) => Ok(Program::Code(self.request())),
            (false, Some(argv), None) => {
                let argv = texts("argv", argv)?;
                match argv.is_empty() {
                    true => Err("'argv' must name a program.".to_owned()),
                    false => Ok(Program::Argv(argv.into())),
                }
            }
            (false, None, Some(builtin)) => {
                // The reader of a builtin allocates memory for unknown values, too.
                if builtin.json().len() > MAX_BUILTIN_BYTES {
                    return Err(format!(
                        "'builtin' is longer than {MAX_BUILTIN_BYTES} bytes."
                    ));
                }
                match serde_json::from_str::<Builtin>(builtin.json()) {
                    Ok(builtin) => Ok(Program::Builtin(Cow::Owned(builtin))),
                    Err(error) => Err(format!("'builtin' can't be read: {error}.")),
                }
            }
            _ => Err("Give either 'language' and 'code', or 'argv', or 'builtin'.".to_owned()),
        }
    }

    /// Reads the options of an exec request. Fails with the reason why they can't be read.
    fn options(&self) -> Result<ExecOptions, String> {
        let number = |key, value: Option<Raw<'_>>| {
            let number = value.map(|value| value.number().ok_or(value)).transpose();
            number.map_err(|_| wrong(key, "a whole number, not negative"))
        };
        let args = match self.args {
            None => Vec::new(),
            Some(args) => texts("args", args)?,
        };
        let env = match self.env {
            None => Vec::new(),
            Some(env) => match env.read() {
                Some(Env(env)) => env,
                None => return Err(wrong("env", "an object of text")),
            },
        };
        check_count(args.len() + env.len())?;
        let cwd = match self.cwd {
            None => None,
            Some(cwd) => Some(cwd.text().ok_or_else(|| wrong("cwd", "text"))?),
        };
        Ok(ExecOptions {
            args,
            env,
            cwd: cwd.map(Into::into),
            timeout_ms: number("timeout_ms", self.timeout_ms)?,
            output_grace_ms: number("output_grace_ms", self.output_grace_ms)?,
            window: number("window", self.window)?,
            binary: self.binary.and_then(Raw::flag).unwrap_or(false),
            terminal: self.terminal.map(terminal_size).transpose()?,
        })
    }
}

/// Text that outlives its frame.
fn text(raw: Raw<'_>) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(raw.text()?.into_owned()))
}

/// Reads a list of text.
fn texts(key: &str, list: Raw<'_>) -> Result<Vec<String>, String> {
    // Counts the elements without allocating memory for them.
    let count = list.read::<Vec<IgnoredAny>>().map_or(0, |list| list.len());
    check_count(count)?;
    list.read().ok_or_else(|| wrong(key, "a list of text"))
}

fn terminal_size(value: Raw<'_>) -> Result<TerminalSize, String> {
    let size = value.read::<TerminalSize>().filter(|size| size.is_valid());
    size.ok_or_else(|| {
        let most = TerminalSize::MAX;
        wrong(
            "terminal",
            &format!("an object with 'columns' and 'rows', each from 1 to {most}"),
        )
    })
}

fn check_count(count: usize) -> Result<(), String> {
    match count > ExecOptions::MAX_VALUES {
        true => Err(format!(
            "There are more than {} arguments and environment variables.",
            ExecOptions::MAX_VALUES
        )),
        false => Ok(()),
    }
}

/// The reason why a value is refused.
fn wrong(key: &str, expected: &str) -> String {
    format!("'{key}' must be {expected}.")
}

/// The environment, in order. If it exceeds the limit, holds one variable more than the limit.
pub(in crate::protocol) struct Env(pub(in crate::protocol) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EnvVisitor;

        impl<'de> Visitor<'de> for EnvVisitor {
            type Value = Env;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Env, A::Error> {
                let mut env = Vec::new();
                while env.len() <= ExecOptions::MAX_VALUES {
                    match map.next_entry()? {
                        Some(variable) => env.push(variable),
                        None => return Ok(Env(env)),
                    }
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Env(env))
            }
        }
        from.deserialize_map(EnvVisitor)
    }
}
