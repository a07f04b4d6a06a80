//! [`ClientMessage`]: the messages of a client after the configuration.

mod options;
mod read;

use std::borrow::Cow;

use serde::Serialize;

use super::{ExecId, data::print_piece, json::print};

pub use options::ExecOptions;

/// A message from the client to the server.
///
/// Parsing is as lenient as deployed servers are. A required value that is missing or has the wrong
/// type is `None`, so that a server can report it in its own words.
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
    /// Resume the output of the exec after a new attach.
    Reconnect,
    /// A message about a named exec (v2).
    Named(ExecId, NamedMessage<'a>),
    /// A message without a language, code, or an event or action that this version knows.
    Unknown,
}

/// A request to run code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExecRequest<'a> {
    /// The language. A value that is not text is given as its JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Cow<'a, str>>,
    /// The code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'a, str>>,
}

/// A client's message about a named exec (v2).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NamedMessage<'a> {
    /// Run code under this id, once.
    Exec(ExecRequest<'a>, ExecOptions),
    /// An exec request whose options cannot be read, and why.
    Malformed(String),
    /// Input that cannot be read, and why.
    MalformedStdin(String),
    /// A message that this version doesn't know.
    Unknown,
    /// Bytes for standard input.
    Stdin {
        /// Bytes before these.
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
    /// Kill it.
    Kill,
    /// Resume the output at these offsets.
    Reconnect {
        /// The offsets in stdout and stderr.
        offsets: [u64; 2],
    },
}

/// A message with an `action`.
#[derive(Default, Serialize)]
struct Action<'a> {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<&'a ExecId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<u64>,
}

fn print_action(action: &'static str) -> String {
    print(&Action {
        action,
        ..Action::default()
    })
}

impl<'a> ClientMessage<'a> {
    /// The message as the text of a frame.
    pub fn encode(&self) -> String {
        match self {
            Self::Exec(request) => print(request),
            Self::Stdin { data: Some(data) } => print_piece("stdin", None, data.as_bytes(), false),
            Self::Stdin { data: None } => r#"{"event":"stdin"}"#.to_owned(),
            Self::KillProcess => print_action("kill_process"),
            Self::KillSandbox => print_action("kill_sandbox"),
            Self::SnapshotFilesystem { name } => print(&Action {
                action: "snapshot_filesystem",
                name: name.as_deref(),
                ..Action::default()
            }),
            Self::Checkpoint => print_action("checkpoint"),
            Self::Reconnect => print_action("reconnect"),
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
}

impl NamedMessage<'_> {
    fn encode(&self, exec: &ExecId) -> String {
        #[derive(Serialize)]
        struct Exec<'a> {
            #[serde(flatten)]
            request: &'a ExecRequest<'a>,
            exec: &'a ExecId,
            #[serde(flatten)]
            options: &'a ExecOptions,
        }
        #[derive(Serialize)]
        #[serde(tag = "event", rename = "ack")]
        struct Ack<'a> {
            exec: &'a ExecId,
            stdout: u64,
            stderr: u64,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            done: bool,
        }
        let about = |action| Action {
            action,
            exec: Some(exec),
            ..Action::default()
        };
        match self {
            Self::Exec(request, options) => print(&Exec {
                request,
                exec,
                options,
            }),
            Self::Stdin { offset, data, eof } => {
                print_piece("stdin", Some((exec, *offset)), data, *eof)
            }
            &Self::Ack {
                offsets: [stdout, stderr],
                done,
            } => print(&Ack {
                exec,
                stdout,
                stderr,
                done,
            }),
            Self::Kill => print(&about("kill_process")),
            &Self::Reconnect {
                offsets: [stdout, stderr],
            } => print(&Action {
                stdout: Some(stdout),
                stderr: Some(stderr),
                ..about("reconnect")
            }),
            // A reader makes these. They have no other form.
            Self::Malformed(_) | Self::MalformedStdin(_) | Self::Unknown => {
                format!(r#"{{"exec":{}}}"#, print(exec))
            }
        }
    }
}

#[cfg(test)]
mod tests;
