//! What goes into a [`Process`](super::Process) and what comes out of it.

use std::time::Duration;

use crate::machine::{Failure, Finish, ProcessEnd, RequestId, SandboxEnd};

/// How a [`Process`](super::Process) behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// How long the server may take to confirm a kill. Default: 10 s.
    pub kill_timeout: Duration,
    /// How long after `FORCE_KILLED` the last output and `DONE` may take (v1). Default: 2 s.
    pub kill_grace: Duration,
    /// Bytes of stdin that are kept for the server. Further writes wait for room. Default: 1 MiB.
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

/// What the sandbox tells a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessFact {
    /// The server takes messages for this process, or takes them again after an outage.
    LinkUp,
    /// The link is lost and is being dialled again.
    LinkDown,
    /// The link took the stdin message with this number.
    StdinWritten(u64),
    /// The server killed the process.
    ForceKilled,
    /// The server could not kill the process.
    KillRefused(Failure),
    /// The server said that the process ended (v1). It does not say how; wrapped code says that in
    /// its output.
    Done,
    /// The server announced the process on this link (v2).
    Announced {
        /// Bytes of stdin that the server has received.
        stdin: u64,
        /// Bytes of output that the server sends past the last acknowledgement.
        window: Option<u64>,
    },
    /// The process has taken its stdin up to this offset (v2).
    StdinTaken(u64),
    /// The process has closed its stdin (v2).
    StdinClosed,
    /// The server said how the main process ended (v2). Output may follow.
    Exited(ProcessEnd),
    /// The server said how the process and its output ended (v2).
    Ended {
        /// How the process ended.
        end: ProcessEnd,
        /// The lengths of stdout and stderr, where the server knows them.
        lengths: Option<[u64; 2]>,
        /// Whether another process still held stdout or stderr.
        cut: bool,
    },
    /// No caller has a handle to the process, and none can get one: it is to be killed.
    Abandoned,
    /// The sandbox is over.
    SandboxEnded(SandboxEnd),
}

/// The answer to a granted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessReply {
    /// How the process ended.
    End(ProcessEnd),
    /// The request is carried out.
    Done,
}

/// What a [`Process`](super::Process) asks its owner to do.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessAction {
    /// Answer a request.
    Settle(RequestId, Result<ProcessReply, Failure>),
    /// Ask the server to kill the process (v1).
    SendKill,
    /// Send a stdin message, and report when the link took it. There is one at a time.
    SendStdin {
        /// The number of the message.
        number: u64,
        /// The frame.
        text: String,
    },
    /// Send a message about a named exec (v2). If it is lost with its link, the next link repairs
    /// that.
    Send(String),
    /// The process ended. In v2, output may follow.
    Ended {
        /// How the process ended.
        end: ProcessEnd,
        /// Bytes of stdin that were accepted and that the server did not take.
        stdin_unsent: usize,
    },
    /// No more output comes, except [what was held back](super::Process::take_held_output).
    OutputEnded(Finish),
    /// No action about the process follows, except answers to later requests.
    Settled,
}
