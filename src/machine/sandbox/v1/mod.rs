//! What protocol v1 lacks, and how the client makes up for it.
//!
//! - **An exec has no id**, so one process can run at a time. Another exec is refused while a
//!   process runs. If the process is being killed, or the link is lost, the other exec waits,
//!   within its timeout. The caller could not wait itself: after a cancelled `run`, no handle to
//!   the killed process is left.
//! - **Answers don't name their request.** The client counts kills and their answers. A `DONE` also
//!   follows a refused exec.
//! - **A lost answer is not repeated.** If the answer to an exec was lost with its link, the exec
//!   may have started a process. This process is killed after the reconnect. Until then, the next
//!   exec waits, because a server refuses a second process while the first is being killed.
//! - **An error and its reason are two messages.** The client holds the error back until the reason
//!   arrives.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | the state, commands, the exec that waits, kills |
//! | `answers.rs` | messages of the server, reports of the connection, timeouts, the end |

mod answers;

use std::{collections::VecDeque, time::Instant};

use super::{
    Pending, Sandbox, SandboxAction,
    process::{NewExec, RUN_CODE, Stdin},
};
use crate::{
    machine::{Failure, Process, ProcessId, RequestId, SandboxEnd, SandboxEvent, SandboxState},
    protocol::{ClientMessage, ExecOptions, ExecRequest, Pairing, Program, StdStream},
};

/// The maximum number of kills whose answers are tracked.
pub(super) const MAX_KILLS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct V1 {
    /// The exec of the sandbox. Set when its request is sent. Cleared when it ends or is refused,
    /// or when its answer is lost.
    exec: Option<Exec>,
    /// The exec that waits to be sent, and the frame of its request. Cleared when it is sent or
    /// refused.
    queued: Option<(Exec, String)>,
    /// The processes whose kills the next answers belong to, in order. Kept when the link is lost,
    /// because a server may deliver the answers on the next link. Expecting an answer that never
    /// arrives is harmless. An unexpected answer would be taken for the end of a later process.
    pub(super) kills: VecDeque<ProcessId>,
    /// The last process for which a kill was sent. Cleared if the server refuses the kill.
    dying: Option<ProcessId>,
    /// The process that an exec may have started whose answer was lost. Cleared when the process
    /// was killed, or when the next exec has waited for too long.
    leftover: Option<Leftover>,
    /// The process whose output was requested on this link. Cleared when the server answers.
    resuming: Option<ProcessId>,
    /// The error that waits for its reason. Cleared with the link.
    pub(super) pairing: Pairing,
    /// When that error stops waiting.
    reason_due: Option<Instant>,
}

#[derive(Debug)]
struct Exec {
    process: ProcessId,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The server has not reported that the exec runs.
    Starting(Pending),
    /// The exec runs.
    Running,
    /// No caller waits for the exec. It is being killed, and the sandbox is busy until it ends.
    Abandoned { running: bool },
}

#[derive(Debug)]
struct Leftover {
    process: ProcessId,
    /// Whether a kill was sent on this link.
    is_killed: bool,
    /// Whether its `DONE` arrived.
    is_done: bool,
    /// When the wait for its `DONE` times out. Set by its `FORCE_KILLED`.
    done_due: Option<Instant>,
}

impl Exec {
    /// Whether the server has reported that the exec runs.
    fn has_started(&self) -> bool {
        matches!(
            self.phase,
            Phase::Running | Phase::Abandoned { running: true }
        )
    }

    fn is_abandoned(&self) -> bool {
        matches!(self.phase, Phase::Abandoned { .. })
    }

    fn start(&self) -> Option<(ProcessId, &Pending)> {
        match &self.phase {
            Phase::Starting(caller) => Some((self.process, caller)),
            _ => None,
        }
    }

    /// Abandons the exec. Returns the caller that waited for its start.
    fn abandon(&mut self) -> Option<Pending> {
        let running = self.has_started();
        std::mem::replace(&mut self.phase, Phase::Abandoned { running }).caller()
    }
}

impl Phase {
    fn caller(self) -> Option<Pending> {
        match self {
            Self::Starting(caller) => Some(caller),
            _ => None,
        }
    }
}

impl V1 {
    /// The running process, if a caller has a handle to it.
    pub(super) fn running(&self) -> Option<ProcessId> {
        let exec = self.exec.as_ref()?;
        matches!(exec.phase, Phase::Running).then_some(exec.process)
    }

    fn start(&self) -> Option<(ProcessId, &Pending)> {
        self.exec.as_ref().and_then(Exec::start)
    }

    fn queued(&self) -> Option<(ProcessId, &Pending)> {
        self.queued.as_ref().and_then(|(exec, _)| exec.start())
    }

    /// The process whose start this caller waits for.
    pub(super) fn starting(&self, request: RequestId) -> Option<ProcessId> {
        let mut starts = self.start().into_iter().chain(self.queued());
        starts.find_map(|(process, caller)| (caller.request == request).then_some(process))
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let starts = self.start().into_iter().chain(self.queued());
        let leftover = self.leftover.as_ref().and_then(|it| it.done_due);
        let starts = starts.map(|(_, caller)| caller.due);
        starts.chain(self.reason_due).chain(leftover).min()
    }

    /// Whether the current process is being killed, so that the next exec waits for its end.
    fn is_dying(&self) -> bool {
        let exec = self.exec.as_ref();
        exec.is_some_and(|it| it.is_abandoned() || self.dying == Some(it.process))
    }
}

/// Returns an option that v1 doesn't support, if one is set.
fn unsupported(options: &ExecOptions, stdin: &Stdin) -> Option<&'static str> {
    let ExecOptions {
        args,
        env,
        cwd,
        timeout_ms,
        output_grace_ms,
        binary,
        terminal,
        // Only v2 has windows.
        window: _,
    } = options;
    let features = [
        (!args.is_empty(), "arguments"),
        (!env.is_empty(), "environment variables"),
        (cwd.is_some(), "working directory"),
        (timeout_ms.is_some(), "timeout of a process"),
        (output_grace_ms.is_some(), "output grace of a process"),
        (matches!(stdin, Stdin::Bytes(_)), "end of input"),
        (terminal.is_some(), "terminals"),
        (*binary, "binary frames"),
    ];
    let mut features = features.into_iter();
    features.find_map(|(used, feature)| used.then_some(feature))
}

impl Sandbox {
    /// The v1 process of the sandbox, if there is one.
    pub fn process(&self) -> Option<ProcessId> {
        self.v1.exec.as_ref().map(|exec| exec.process)
    }

    pub(super) fn exec_v1(
        &mut self,
        request: RequestId,
        exec: NewExec<'_>,
        now: Instant,
    ) -> Result<(ProcessId, Box<Process>), Failure> {
        let what = RUN_CODE;
        if self.life.state != SandboxState::Reconnecting {
            self.require_running(what)?;
        }
        let NewExec {
            id,
            program,
            options,
            stdin,
        } = exec;
        if id.is_some() {
            return Err(Failure::unnamed(what));
        }
        let (language, code) = match &program {
            Program::Code(ExecRequest {
                language: Some(language),
                code: Some(code),
            }) => (&**language, &**code),
            Program::Builtin(_) => {
                let feature = "operations on files and ports";
                return Err(Failure::Unsupported { what, feature });
            }
            _ => {
                let feature = match options.terminal {
                    Some(_) => "terminals",
                    None => "argument vectors",
                };
                return Err(Failure::Unsupported { what, feature });
            }
        };
        if let Some(feature) = unsupported(&options, &stdin) {
            return Err(Failure::Unsupported { what, feature });
        }
        let is_free = self.v1.exec.is_none() || self.v1.is_dying();
        if self.v1.queued.is_some() || !is_free {
            return Err(Failure::ProcessRunning { what });
        }
        let process = self.next_process();
        let machine = Box::new(Process::new(self.config.process));
        let phase = Phase::Starting(Pending::new(request, now, self.config.timeouts.exec));
        let text = ClientMessage::exec(language, code).encode();
        self.v1.queued = Some((Exec { process, phase }, text));
        self.run_queued();
        Ok((process, machine))
    }

    /// Sends or refuses the waiting exec, unless it must wait longer.
    pub(super) fn run_queued(&mut self) {
        let is_running = self.life.state == SandboxState::Running;
        let waits = self.v1.is_dying() || is_running && self.v1.leftover.is_some();
        if waits || !self.life.is_linked() {
            return;
        }
        match self.require_running(RUN_CODE) {
            Err(failure) => self.refuse_queued(failure),
            Ok(()) if self.v1.exec.is_some() => {
                self.refuse_queued(Failure::ProcessRunning { what: RUN_CODE });
            }
            Ok(()) => {
                if let Some((exec, text)) = self.v1.queued.take() {
                    self.v1.exec = Some(exec);
                    self.actions.push(SandboxAction::Send(text));
                }
            }
        }
    }

    fn refuse_queued(&mut self, failure: Failure) {
        if let Some((exec, _)) = self.v1.queued.take() {
            self.end_exec(exec, failure, SandboxEnd::Closed);
        }
    }

    fn end_exec(&mut self, exec: Exec, failure: Failure, end: SandboxEnd) {
        self.actions.fail(exec.phase.caller(), failure);
        self.actions.end(exec.process, end);
    }

    pub(super) fn abandon_v1(&mut self, process: ProcessId) {
        let cancelled = |what| Failure::Cancelled { what };
        if self.v1.queued().is_some_and(|(it, _)| it == process) {
            self.refuse_queued(cancelled(RUN_CODE));
        } else if self.process() == Some(process) {
            self.abandon_current(cancelled("run the code"));
        }
    }

    /// Kills the current exec. A caller that waits for its start gets this failure.
    fn abandon_current(&mut self, failure: Failure) {
        if let Some(exec) = self.v1.exec.as_mut().filter(|exec| !exec.is_abandoned()) {
            let process = exec.process;
            self.actions.fail(exec.abandon(), failure);
            self.kill_process(process);
        }
    }

    /// The kill of a process failed. If no caller can retry, the sandbox stops waiting for the end
    /// of the process, and the server decides whether it accepts another exec.
    fn drop_abandoned(&mut self, process: ProcessId) {
        let exec = &mut self.v1.exec;
        let is_it = |it: &mut Exec| {
            it.process == process && matches!(it.phase, Phase::Abandoned { running: true })
        };
        if exec.take_if(is_it).is_some() {
            self.actions.end(process, SandboxEnd::Closed);
        }
    }

    /// The machine of the process decided that it ended, for example because it was killed and no
    /// `DONE` arrived.
    pub fn process_ended(&mut self, process: ProcessId) {
        if let Some(exec) = self.v1.exec.take_if(|exec| exec.process == process) {
            let what = "run the code";
            let failure = Failure::ProcessEnded { what };
            self.actions.fail(exec.phase.caller(), failure);
        }
        self.run_queued();
    }

    pub(super) fn process_of_v1_output(
        &mut self,
        stream: StdStream,
        bytes: usize,
    ) -> Option<ProcessId> {
        match &self.v1.exec {
            Some(exec) if matches!(exec.phase, Phase::Running) => return Some(exec.process),
            Some(exec) if exec.is_abandoned() => {}
            _ if self.life.state == SandboxState::Creating => {
                self.violation(format!("{stream} before the sandbox was created"));
            }
            _ => self.actions.event(SandboxEvent::StrayOutput { bytes }),
        }
        None
    }

    /// Sends a kill of the process. Under v2, the machine of the process does this itself.
    pub fn kill_process(&mut self, process: ProcessId) {
        if self.life.is_linked() && self.process() == Some(process) {
            self.v1.dying = Some(process);
            self.send_process_kill(process);
        }
    }

    fn send_process_kill(&mut self, process: ProcessId) {
        if self.v1.kills.len() >= MAX_KILLS {
            self.v1.kills.pop_front();
        }
        self.v1.kills.push_back(process);
        self.actions.send(&ClientMessage::KillProcess);
    }

    /// A kill of the process will follow. The next exec waits for its end.
    pub fn expect_kill(&mut self, process: ProcessId) {
        self.v1.dying = Some(process);
    }

    /// Kills an exec that is starting when the last handle is dropped.
    pub(super) fn kill_v1_start(&mut self) {
        if let Some((process, _)) = self.v1.start() {
            self.kill_process(process);
        }
    }

    /// Forgets the leftover once both answers to its kill have arrived, so that the next exec can
    /// start.
    fn drop_killed_leftover(&mut self) {
        let is_over = |it: &mut Leftover| it.is_done && it.done_due.is_some();
        if self.v1.leftover.take_if(is_over).is_some() {
            self.run_queued();
        }
    }
}
