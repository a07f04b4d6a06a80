//! Commands about a process. Protocol v2 has it in `execs.rs`, v1 in `v1/`.

use std::time::Instant;

use bytes::Bytes;

use super::Sandbox;
use crate::{
    machine::{Nonce, Process, ProcessId, RequestId, SandboxState},
    protocol::{ExecOptions, Version},
};

/// What a request to run code is called in errors.
pub(super) const RUN_CODE: &str = "run code";
/// What an exec waits for.
pub(super) const START: &str = "the start of the process";
/// What a lost answer leaves unconfirmed.
pub(super) const CONFIRM_START: &str = "confirm the start of the process";

/// Code to run.
#[derive(Clone, Debug, Default)]
pub struct NewExec<'a> {
    /// The language; the server decides which it runs.
    pub language: &'a str,
    /// The code.
    pub code: &'a str,
    /// Arguments, environment, working directory, timeout and window. Protocol v1 has none of them.
    pub options: ExecOptions,
    /// The input.
    pub stdin: Stdin,
    /// On a server that speaks v1, [wraps](crate::machine::wrap) the code, so that its output tells
    /// how it ended.
    pub wrapper: Option<Nonce>,
}

/// The input of an exec.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// Open for writes.
    #[default]
    Open,
    /// Closed from the start. Protocol v1 cannot close it and leaves it open.
    Null,
    /// These bytes, then the end. Protocol v1 refuses it.
    Bytes(Bytes),
}

impl std::fmt::Debug for Stdin {
    /// Shows no input: it may hold anything.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Null => f.write_str("Null"),
            Self::Bytes(data) => write!(f, "Bytes({})", data.len()),
        }
    }
}

impl Sandbox {
    /// Runs code, and answers when the server says that it runs. Returns the process, unless the
    /// request is refused at once.
    ///
    /// Under v1, where one process runs at a time, the exec waits for the end of a process that is
    /// being killed, and for the link while that is lost.
    pub fn exec(
        &mut self,
        request: RequestId,
        exec: NewExec<'_>,
        now: Instant,
    ) -> Option<(ProcessId, Box<Process>)> {
        if self.runs_v2() {
            return Some(self.start_exec(request, exec, now));
        }
        match self.exec_v1(request, exec, now) {
            Ok(started) => Some(started),
            Err(failure) => {
                self.actions.settle(request, Err(failure));
                None
            }
        }
    }

    /// Whether an exec of v2 can be started now, or is started after the outage.
    pub(super) fn runs_v2(&self) -> bool {
        let state = &self.life.state;
        matches!(state, SandboxState::Running | SandboxState::Reconnecting)
            && self.version() == Version::V2
    }

    pub(super) fn next_process(&mut self) -> ProcessId {
        self.last_process.0 += 1;
        self.last_process
    }

    /// The caller stopped waiting for its exec: it is not sent, or the process that it starts is
    /// killed.
    pub fn cancel_exec(&mut self, request: RequestId) {
        let process = self.execs.starting(request);
        if let Some(process) = process.or_else(|| self.v1.starting(request)) {
            self.abandon_process(process);
        }
    }

    /// No caller has a handle to the process, or can get one: it is killed.
    pub fn abandon_process(&mut self, process: ProcessId) {
        self.abandon_exec(process);
        self.abandon_v1(process);
    }

    /// The owner of the process's machine is gone before the process was settled: it is killed, if
    /// the server can be told.
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

    /// Nothing more will be said about the process.
    pub fn process_settled(&mut self, process: ProcessId) {
        self.execs.remove(process);
    }
}
