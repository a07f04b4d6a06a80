//! Commands about a process. The execs of v2 are in `execs.rs`, those of v1 in `v1/`.

use std::time::Instant;

use bytes::Bytes;

use super::Sandbox;
use crate::{
    machine::{Process, ProcessId, RequestId, SandboxState},
    protocol::{
        ExecId, ExecOptions, Program,
        names::{FEATURE_ARGV, FEATURE_BINARY, FEATURE_TERMINALS},
    },
};

/// A request to run code, in errors.
pub(super) const RUN_CODE: &str = "run code";
/// The event that an exec request waits for, in errors.
pub(super) const START: &str = "the start of the process";
/// A request whose answer was lost, in errors.
pub(super) const CONFIRM_START: &str = "confirm the start of the process";

/// A program to run.
#[derive(Clone, Debug)]
pub struct NewExec<'a> {
    /// The id of the exec. `None`: the machine chooses one that is new. Not supported by protocol
    /// v1.
    pub id: Option<ExecId>,
    /// The program. Protocol v1 supports only code.
    pub program: Program<'a>,
    /// Arguments, environment, working directory, timeout and window. Protocol v1 supports none of
    /// them.
    pub options: ExecOptions,
    /// The input.
    pub stdin: Stdin,
}

impl<'a> NewExec<'a> {
    /// Code without options, whose stdin stays open.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn code(language: &'a str, code: &'a str) -> Self {
        Self::new(Program::Code(crate::protocol::ExecRequest::new(
            language, code,
        )))
    }

    /// A program without options, whose stdin stays open.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn new(program: Program<'a>) -> Self {
        Self {
            id: None,
            program,
            options: ExecOptions::default(),
            stdin: Stdin::Open,
        }
    }

    /// The features of the server that the program needs.
    pub(super) fn needed_features(&self) -> Vec<&'static str> {
        let features = [
            (matches!(self.program, Program::Argv(_)), FEATURE_ARGV),
            (self.options.binary, FEATURE_BINARY),
            (self.options.terminal.is_some(), FEATURE_TERMINALS),
        ];
        let builtin = match &self.program {
            Program::Builtin(builtin) => Some(builtin.feature()),
            _ => None,
        };
        let needed = features.into_iter().filter(|(is_needed, _)| *is_needed);
        builtin
            .into_iter()
            .chain(needed.map(|(_, name)| name))
            .collect()
    }
}

/// The input of an exec.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// Stdin stays open for writes.
    #[default]
    Open,
    /// Stdin is closed from the start. Protocol v1 can't close it and leaves it open.
    Null,
    /// The process reads these bytes, then the end of input. Not supported by protocol v1.
    Bytes(Bytes),
}

impl std::fmt::Debug for Stdin {
    /// Doesn't show the input, because it may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Null => f.write_str("Null"),
            Self::Bytes(data) => write!(f, "Bytes({})", data.len()),
        }
    }
}

impl Sandbox {
    /// Runs code. Answers when the server reports that the code runs. Returns the process, unless
    /// the request fails at once.
    ///
    /// Under v1, one process can run at a time: the exec waits for the end of a process that is
    /// being killed. While the link is lost, it waits for the next link.
    ///
    /// If the server knows the id of the exec, it starts nothing, and the process is the one that
    /// was started with this id.
    pub fn exec(
        &mut self,
        request: RequestId,
        exec: NewExec<'_>,
        now: Instant,
    ) -> Option<(ProcessId, Box<Process>)> {
        let started = match self.runs_v2() {
            true => self.start_exec(request, exec, now),
            false => self.exec_v1(request, exec, now),
        };
        match started {
            Ok(started) => Some(started),
            Err(failure) => {
                self.actions.settle(request, Err(failure));
                None
            }
        }
    }

    /// Whether a v2 exec can be started, now or after the reconnect.
    pub(super) fn runs_v2(&self) -> bool {
        let state = &self.life.state;
        matches!(state, SandboxState::Running | SandboxState::Reconnecting)
            && self.version().is_v2()
    }

    pub(super) fn next_process(&mut self) -> ProcessId {
        self.last_process.0 += 1;
        self.last_process
    }

    /// Cancels an exec whose caller stopped waiting. The request is not sent, or the process is
    /// killed, unless the caller chose its id.
    pub fn cancel_exec(&mut self, request: RequestId) {
        let process = self.execs.starting(request);
        if let Some(process) = process.or_else(|| self.v1.starting(request)) {
            self.abandon_process(process);
        }
    }

    /// Whether a caller chose the id of the process, so that other clients can find it.
    pub fn is_shared(&self, process: ProcessId) -> bool {
        self.execs.is_shared(process)
    }

    /// Kills a process to which no caller has, or can get, a handle. If a caller chose its id,
    /// forgets it instead: another client may have started it, and this one can find it again.
    pub fn abandon_process(&mut self, process: ProcessId) {
        self.abandon_exec(process);
        self.abandon_v1(process);
    }

    /// The actor of the process stopped before the process was settled. Abandons the process. If it
    /// is to be killed and a link is open, kills it now.
    pub fn process_gone(&mut self, process: ProcessId) {
        self.abandon_process(process);
        self.kill_exec(process);
        self.execs.remove(process);
    }

    /// Whether a message about the process can be sent now.
    pub fn can_send(&self, process: ProcessId) -> bool {
        self.life.is_linked()
            && (self.execs.contains(process) || self.v1.running() == Some(process))
    }

    /// Forgets a process about which nothing more will be reported.
    pub fn process_settled(&mut self, process: ProcessId) {
        self.execs.remove(process);
    }
}
