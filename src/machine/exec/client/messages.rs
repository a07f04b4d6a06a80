//! The inputs and outputs of a [`Process`](super::Process).

use std::time::Duration;

use crate::machine::{Failure, Finish, ProcessEnd, RequestId, SandboxEnd};
use crate::protocol::{Encoded, StdStream};

/// The options of a [`Process`](super::Process).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// How long to wait for the server to confirm a kill. Default: 10 s.
    pub kill_timeout: Duration,
    /// How long to wait for the last output and `DONE` after `FORCE_KILLED` (v1). Default: 2 s.
    pub kill_grace: Duration,
    /// The maximum number of buffered bytes of stdin. Further writes wait for room. Default: 1 MiB.
    pub stdin_budget: usize,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            kill_timeout: Duration::from_secs(10),
            kill_grace: Duration::from_secs(2),
            stdin_budget: 1024 * 1024,
        }
    }
}

/// A report of the sandbox to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessFact {
    /// The server accepts messages about this process, for the first time or after a reconnect.
    LinkUp,
    /// The link is lost and is being dialled again.
    LinkDown,
    /// The link has written the stdin message with this number.
    StdinWritten(u64),
    /// The server killed the process.
    ForceKilled,
    /// The server could not kill the process.
    KillRefused(Failure),
    /// The process ended (v1). The server doesn't report how it ended.
    Done,
    /// The server announced the process on this link (v2).
    Announced {
        /// The number of bytes of stdin that the server has received.
        stdin: u64,
        /// The number of bytes of output that the server sends past the last acknowledgement.
        window: Option<u64>,
        /// The number of bytes of stdin that the client may send past the last acknowledgement.
        stdin_window: Option<u64>,
    },
    /// The process has taken its stdin up to this offset (v2).
    StdinTaken(u64),
    /// The process has closed its stdin (v2).
    StdinClosed,
    /// A stream of the output ends at this offset, before the process and its other stream (v2).
    StreamEnded(StdStream, u64),
    /// The main process ended (v2). Output may follow.
    Exited(ProcessEnd),
    /// The process and its output ended (v2).
    Ended {
        /// How the process ended.
        end: ProcessEnd,
        /// The lengths of stdout and stderr, if the server knows them.
        lengths: Option<[u64; 2]>,
        /// Whether another process still held stdout or stderr open.
        cut: bool,
    },
    /// No caller has a handle to the process, and none can get one, so it must be killed.
    Abandoned,
    /// The sandbox ended.
    SandboxEnded(SandboxEnd),
}

/// The answer to a successful request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessReply {
    /// How the process ended.
    End(ProcessEnd),
    /// The request was carried out.
    Done,
}

/// An action for the owner of a [`Process`](super::Process) to perform.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessAction {
    /// Answer a request.
    Settle(RequestId, Result<ProcessReply, Failure>),
    /// Ask the server to kill the process (v1).
    SendKill,
    /// Send a stdin message, and report when the link has written it. One is in flight at a time.
    SendStdin {
        /// The number of the message.
        number: u64,
        /// The frame.
        frame: Encoded,
    },
    /// Send a message about a named exec (v2). If it is lost with its link, the machine makes up
    /// for that on the next link.
    Send(String),
    /// The process ended. Under v2, output may follow.
    Ended {
        /// How the process ended.
        end: ProcessEnd,
        /// The number of bytes of stdin that were accepted but not taken by the server.
        stdin_unsent: usize,
    },
    /// A stream of the output ended, and all of it has arrived. The other stream may continue.
    StreamEnded(StdStream),
    /// The output ended.
    OutputEnded(Finish),
    /// No further action follows, except answers to later requests.
    Settled,
}
