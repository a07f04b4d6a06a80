//! [`ClientMessage`]: the messages of a client after the configuration.

mod options;
mod read;

use std::borrow::Cow;

use super::{Builtin, ExecId, data::print_piece, json::Object};

pub use options::ExecOptions;
pub(super) use read::Env;

/// A message from the client to the server.
///
/// Parsing is as lenient as that of deployed servers. A required value that is missing or has the
/// wrong type is `None`, so that the server can report it.
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
    /// Store the whole sandbox and end the session.
    Checkpoint,
    /// Resume the output of the v1 exec after a new attach.
    Reconnect,
    /// A message about a named exec (v2).
    Named(ExecId, NamedMessage<'a>),
    /// A message that has neither `language` nor `code`, nor an event or action that this version
    /// knows.
    Unknown,
}

/// A request to run code.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecRequest<'a> {
    /// The language. A value that is not text is kept as its JSON.
    pub language: Option<Cow<'a, str>>,
    /// The code.
    pub code: Option<Cow<'a, str>>,
}

/// The program of a named exec (v2).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Program<'a> {
    /// Code in a language.
    Code(ExecRequest<'a>),
    /// A program of the sandbox, and its arguments. The first is its path, or its name in `PATH`.
    Argv(Cow<'a, [String]>),
    /// An operation on the files of the sandbox.
    Builtin(Cow<'a, Builtin>),
}

impl Program<'_> {
    fn print(&self) -> Object {
        match self {
            Self::Code(request) => request.print(),
            Self::Argv(argv) => Object::with_capacity(256).value("argv", argv),
            Self::Builtin(builtin) => Object::with_capacity(256).value("builtin", builtin),
        }
    }
}

/// A client's message about a named exec (v2).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NamedMessage<'a> {
    /// Run a program under this id, once.
    Exec(Program<'a>, ExecOptions),
    /// An exec request whose options can't be read, with the reason.
    Malformed(String),
    /// Input that can't be read, with the reason.
    MalformedStdin(String),
    /// A message that this version doesn't know.
    Unknown,
    /// Bytes for standard input.
    Stdin {
        /// The number of input bytes before these.
        offset: u64,
        /// The bytes.
        data: Cow<'a, [u8]>,
        /// Whether the input ends after them.
        eof: bool,
    },
    /// The client has taken the output before these offsets.
    Ack {
        /// The offsets in stdout and stderr.
        offsets: [u64; 2],
        /// Whether the client has taken the end, too.
        done: bool,
    },
    /// Kill the exec.
    Kill,
    /// Resume the output at these offsets.
    Reconnect {
        /// The offsets in stdout and stderr.
        offsets: [u64; 2],
    },
}

/// Starts a message with an `action`.
fn action(action: &str) -> Object {
    Object::with_capacity(128).plain("action", action)
}

impl<'a> ClientMessage<'a> {
    /// The message as the text of a frame.
    pub fn encode(&self) -> String {
        match self {
            Self::Exec(request) => request.print().end(),
            Self::Stdin { data: Some(data) } => print_piece("stdin", None, data.as_bytes(), false),
            Self::Stdin { data: None } => r#"{"event":"stdin"}"#.to_owned(),
            Self::KillProcess => action("kill_process").end(),
            Self::KillSandbox => action("kill_sandbox").end(),
            Self::SnapshotFilesystem { name } => action("snapshot_filesystem")
                .optional("name", name.as_deref())
                .end(),
            Self::Checkpoint => action("checkpoint").end(),
            Self::Reconnect => action("reconnect").end(),
            Self::Named(exec, message) => message.encode(exec),
            Self::Unknown => "{}".to_owned(),
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

impl<'a> ExecRequest<'a> {
    /// A request to run code.
    pub fn new(language: impl Into<Cow<'a, str>>, code: impl Into<Cow<'a, str>>) -> Self {
        Self {
            language: Some(language.into()),
            code: Some(code.into()),
        }
    }

    fn print(&self) -> Object {
        let room = self.code.as_ref().map_or(0, |code| code.len()) + 256;
        let mut json = Object::with_capacity(room);
        if let Some(language) = &self.language {
            json = json.text("language", language);
        }
        if let Some(code) = &self.code {
            json = json.text("code", code);
        }
        json
    }
}

impl NamedMessage<'_> {
    fn encode(&self, exec: &ExecId) -> String {
        let exec = exec.as_str();
        match self {
            Self::Exec(program, options) => options.print(program.print().text("exec", exec)).end(),
            Self::Stdin { offset, data, eof } => {
                print_piece("stdin", Some((exec, *offset)), data, *eof)
            }
            &Self::Ack {
                offsets: [stdout, stderr],
                done,
            } => Object::with_capacity(128)
                .plain("event", "ack")
                .text("exec", exec)
                .value("stdout", stdout)
                .value("stderr", stderr)
                .optional("done", done.then_some(true))
                .end(),
            Self::Kill => action("kill_process").text("exec", exec).end(),
            &Self::Reconnect {
                offsets: [stdout, stderr],
            } => action("reconnect")
                .text("exec", exec)
                .value("stdout", stdout)
                .value("stderr", stderr)
                .end(),
            // Only the reader creates these. They are encoded without content.
            Self::Malformed(_) | Self::MalformedStdin(_) | Self::Unknown => {
                Object::with_capacity(128).text("exec", exec).end()
            }
        }
    }
}

#[cfg(test)]
mod tests;
