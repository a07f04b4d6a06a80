//! The part of a status that concerns a named exec (v2).

use serde::{Serialize, Serializer};

use super::super::{BuiltinError, ExecId};

/// The part of a status that concerns a named exec (v2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExecUpdate<Id = ExecId> {
    /// The exec.
    pub exec: Id,
    /// With `SANDBOX_EXECUTION_RUNNING`: the number of bytes of input that the server has taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<u64>,
    /// With `SANDBOX_EXECUTION_RUNNING`: the number of unacknowledged bytes of output that the
    /// server sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// With `SANDBOX_EXECUTION_RUNNING`: how many bytes of input the client may send past the last
    /// acknowledgement. Older servers omit it: then the limit is 256 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_window: Option<u64>,
    /// With `SANDBOX_EXECUTION_EXITED` and `SANDBOX_EXECUTION_DONE`: how the exec ended.
    #[serde(flatten)]
    pub end: Option<ExecEnd>,
}

impl<Id> ExecUpdate<Id> {
    /// An update that only names the exec.
    pub fn new(exec: Id) -> Self {
        Self {
            exec,
            stdin: None,
            window: None,
            stdin_window: None,
            end: None,
        }
    }

    /// The same update with another form of the id.
    pub(crate) fn map<'a, To>(&'a self, exec: impl FnOnce(&'a Id) -> To) -> ExecUpdate<To> {
        ExecUpdate {
            exec: exec(&self.exec),
            stdin: self.stdin,
            window: self.window,
            stdin_window: self.stdin_window,
            end: self.end.clone(),
        }
    }
}

/// How a named exec ended (v2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExecEnd {
    /// The exit code of the main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The number of bytes of stdout and stderr. `None` if it is not known, or not yet.
    #[serde(flatten, serialize_with = "print_lengths")]
    pub lengths: Option<[u64; 2]>,
    /// Whether a process still held stdout or stderr open when the server stopped reading them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub output_cut: bool,
    /// Why it ended.
    pub reason: EndReason,
    /// The outcome of a builtin.
    #[serde(flatten)]
    pub outcome: Option<Box<Outcome>>,
}

/// The outcome of a builtin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result, a JSON object of at most [`MAX_RESULT_BYTES`](super::super::MAX_RESULT_BYTES).
    Result(String),
    /// Why the builtin failed.
    Error(BuiltinError),
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Printed<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<serde_json::Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a BuiltinError>,
        }
        let (result, error) = match self {
            Self::Result(json) => (serde_json::from_str(json).ok(), None),
            Self::Error(error) => (None, Some(error)),
        };
        Printed { result, error }.serialize(to)
    }
}

impl ExecEnd {
    /// The end of an exec that ended with its sandbox, or that the server doesn't know.
    pub fn lost() -> Self {
        Self {
            exit_code: None,
            signal: None,
            lengths: None,
            output_cut: false,
            reason: EndReason::SandboxLost,
            outcome: None,
        }
    }
}

fn print_lengths<S: Serializer>(lengths: &Option<[u64; 2]>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Lengths {
        stdout: u64,
        stderr: u64,
    }
    let lengths = lengths.map(|[stdout, stderr]| Lengths { stdout, stderr });
    lengths.serialize(to)
}

/// Why a named exec ended (v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// It exited by itself.
    Exited,
    /// A client killed it.
    Killed,
    /// It exceeded its time limit, or the server's.
    TimedOut,
    /// It ended with its sandbox, or the server doesn't know it.
    SandboxLost,
    /// A reason that this version doesn't know.
    Unknown,
}

impl EndReason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Killed => "killed",
            Self::TimedOut => "timed_out",
            Self::SandboxLost => "sandbox_lost",
            Self::Unknown => "",
        }
    }

    /// The reason with this name on the wire.
    pub fn from_wire(name: &str) -> Self {
        match name {
            "exited" => Self::Exited,
            "killed" => Self::Killed,
            "timed_out" => Self::TimedOut,
            "sandbox_lost" => Self::SandboxLost,
            _ => Self::Unknown,
        }
    }
}
