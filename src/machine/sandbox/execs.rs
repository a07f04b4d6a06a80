//! The execs of protocol v2: any number at once, each with an id.
//!
//! An exec request that was lost with its link is sent again on the next link. A running exec is
//! resumed on the next link by its process, which knows the offsets of its output.

use std::{fmt::Write, time::Instant};

use litemap::LiteMap;

use super::{
    Pending, Sandbox, SandboxAction, SandboxReply,
    process::{CONFIRM_START, NewExec, RUN_CODE, START, Stdin},
};
use crate::{
    machine::{
        Effect, Failure, LinkError, Process, ProcessEnd, ProcessFact, ProcessId, RequestId,
        SandboxEnd, SandboxEvent, SandboxState,
    },
    protocol::{
        ClientMessage, EndReason, ExecEnd, ExecId, ExecUpdate, NamedMessage, Outcome, Status,
        limits::DEFAULT_WINDOW,
    },
};

/// The maximum number of links on which an exec request is sent, if each is lost before the answer.
const MAX_SENDS: u32 = 10;

/// The end of an exec if the server doesn't report how it ended.
const UNKNOWN_END: ExecEnd = ExecEnd {
    reason: EndReason::Unknown,
    exit_code: None,
    signal: None,
    lengths: None,
    output_cut: false,
    outcome: None,
};

/// The execs about which the server may still report something. An exec is added by a start or an
/// adoption, and removed when it is settled.
#[derive(Debug, Default)]
pub(super) struct Execs {
    by_process: LiteMap<ProcessId, Exec>,
    by_id: LiteMap<ExecId, ProcessId>,
}

#[derive(Debug)]
struct Exec {
    id: ExecId,
    /// Set until the server reports that the exec runs.
    start: Option<Start>,
    /// Whether a caller chose the id, so that another client can find the exec, or may have started
    /// it. Giving up such an exec doesn't kill it.
    is_shared: bool,
}

#[derive(Debug)]
struct Start {
    /// The caller. Cleared when the caller was answered or stopped waiting.
    caller: Option<Pending>,
    /// The frame of the request.
    text: String,
    /// The features that the request needs. If a later server lacks one, the request isn't repeated.
    needs: Vec<&'static str>,
    /// The number of links on which the request was sent.
    sent: u32,
}

impl Start {
    /// What failed if the start is not confirmed, and whether it took effect.
    fn unconfirmed(&self) -> (&'static str, Effect) {
        match self.sent {
            0 => (RUN_CODE, Effect::NotApplied),
            _ => (CONFIRM_START, Effect::Unknown),
        }
    }
}

impl Execs {
    fn insert(&mut self, process: ProcessId, exec: Exec) {
        self.by_id.insert(exec.id.clone(), process);
        self.by_process.insert(process, exec);
    }

    pub(super) fn remove(&mut self, process: ProcessId) {
        if let Some(exec) = self.by_process.remove(&process) {
            self.by_id.remove(&exec.id);
        }
        if self.by_process.is_empty() {
            // An empty map keeps its memory, which an idle sandbox does not need.
            *self = Self::default();
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<ProcessId> {
        self.by_id.get(id).copied()
    }

    pub(super) fn contains(&self, process: ProcessId) -> bool {
        self.by_process.contains_key(&process)
    }

    pub(super) fn is_shared(&self, process: ProcessId) -> bool {
        let exec = self.by_process.get(&process);
        exec.is_some_and(|exec| exec.is_shared)
    }

    fn starts(&self) -> impl Iterator<Item = (ProcessId, &Start)> {
        let execs = self.by_process.iter();
        execs.filter_map(|(&process, exec)| Some((process, exec.start.as_ref()?)))
    }

    fn callers(&self) -> impl Iterator<Item = (ProcessId, &Pending)> {
        let starts = self.starts();
        starts.filter_map(|(process, start)| Some((process, start.caller.as_ref()?)))
    }

    /// The process whose start this caller waits for.
    pub(super) fn starting(&self, request: RequestId) -> Option<ProcessId> {
        let mut callers = self.callers();
        callers.find_map(|(process, caller)| (caller.request == request).then_some(process))
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.callers().map(|(_, caller)| caller.due).min()
    }
}

impl Sandbox {
    /// Returns an id that no other exec of the sandbox has.
    fn new_exec_id(&self, process: ProcessId) -> ExecId {
        let prefix = &self.config.exec_prefix;
        // One allocation; `format!` would need three.
        let mut id = String::with_capacity(prefix.len() + 21);
        id.push_str(prefix);
        // Writing to a string cannot fail.
        let _ = write!(id, "-{}", process.0);
        ExecId::new(id)
    }

    pub(super) fn start_exec(
        &mut self,
        request: RequestId,
        exec: NewExec<'_>,
        now: Instant,
    ) -> Result<(ProcessId, Box<Process>), Failure> {
        let what = RUN_CODE;
        let needs = exec.needed_features();
        if let Some(feature) = self.life.missing_feature(&needs) {
            return Err(Failure::not_offered(what, feature));
        }
        if let Some(id) = &exec.id
            && self.execs.find(id.as_str()).is_some()
        {
            return Err(Failure::AlreadyUnderWay { what });
        }
        let process = self.next_process();
        let is_shared = exec.id.is_some();
        let id = exec.id.unwrap_or_else(|| self.new_exec_id(process));
        let window = exec.options.window.unwrap_or(DEFAULT_WINDOW);
        let machine = Process::named(self.config.process, id.clone(), window);
        let mut machine = Box::new(machine);
        machine.set_binary(exec.options.binary);
        match exec.stdin {
            Stdin::Open => {}
            Stdin::Null => machine.give_input(&[]),
            Stdin::Bytes(input) => machine.give_input(&input),
        }
        let message = NamedMessage::Exec(exec.program, exec.options);
        let text = ClientMessage::Named(id.clone(), message).encode();
        let sent = self.life.state == SandboxState::Running;
        if sent {
            self.actions.push(SandboxAction::Send(text.clone()));
        }
        let start = Start {
            caller: Some(Pending::new(request, now, self.config.timeouts.exec)),
            text,
            needs,
            sent: sent.into(),
        };
        let exec = Exec {
            id,
            start: Some(start),
            is_shared,
        };
        self.execs.insert(process, exec);
        Ok((process, machine))
    }

    /// Resumes an exec that another client started. `received` holds the offsets up to which that
    /// client took the output. The server announces the exec when the sandbox runs.
    pub fn adopt(
        &mut self,
        id: ExecId,
        window: u64,
        received: [u64; 2],
    ) -> Result<(ProcessId, Box<Process>), Failure> {
        let what = "attach to the process";
        if !self.version().is_v2() {
            return Err(Failure::unnamed(what));
        }
        if !self.runs_v2() {
            return Err(self.wrong_state(what));
        }
        if self.execs.find(id.as_str()).is_some() {
            return Err(Failure::AlreadyUnderWay { what });
        }
        let process = self.next_process();
        let machine = Process::adopted(self.config.process, id.clone(), window, received);
        let exec = Exec {
            id,
            start: None,
            is_shared: true,
        };
        self.execs.insert(process, exec);
        if self.life.state == SandboxState::Running {
            self.actions.tell(process, ProcessFact::LinkUp);
        }
        Ok((process, Box::new(machine)))
    }

    /// Handles a status about an exec.
    pub(super) fn handle_exec_status(
        &mut self,
        status: Status,
        reason: Option<String>,
        update: ExecUpdate<&str>,
    ) {
        let Some(process) = self.execs.find(update.exec) else {
            return;
        };
        let fact = match status {
            Status::ExecutionRunning => {
                self.exec_started(process);
                ProcessFact::Announced {
                    stdin: update.stdin.unwrap_or(0),
                    window: update.window,
                    stdin_window: update.stdin_window,
                }
            }
            Status::ExecutionExited => {
                let end = update.end.unwrap_or(UNKNOWN_END);
                if end.reason == EndReason::SandboxLost {
                    return;
                }
                self.exec_started(process);
                ProcessFact::Exited(self.process_end(end, reason))
            }
            Status::ExecutionDone => {
                let end = update.end.unwrap_or(UNKNOWN_END);
                // The announcement of the exec may have been lost with a link.
                self.exec_started(process);
                let (lengths, cut) = (end.lengths, end.output_cut);
                let end = self.process_end(end, reason);
                ProcessFact::Ended { end, lengths, cut }
            }
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                let failure = Failure::refused("run the code", status, reason);
                return self.drop_start(process, failure);
            }
            Status::ExecutionForceKilled => ProcessFact::ForceKilled,
            Status::ExecutionForceKillError => {
                ProcessFact::KillRefused(Failure::refused("kill the process", status, reason))
            }
            Status::StdinError => ProcessFact::StdinClosed,
            _ => return,
        };
        self.actions.tell(process, fact);
    }

    fn process_end(&self, end: ExecEnd, reason: Option<String>) -> ProcessEnd {
        match (end.reason, end.exit_code, end.signal) {
            (EndReason::Exited, None, None) if let Some(outcome) = end.outcome => {
                ProcessEnd::Completed(match *outcome {
                    Outcome::Result(result) => Ok(result),
                    Outcome::Error(error) => Err(Box::new(error)),
                })
            }
            (EndReason::Killed, ..) => ProcessEnd::Killed,
            (EndReason::TimedOut, ..) => ProcessEnd::TimedOut,
            // The kill of the sandbox killed it.
            (EndReason::SandboxLost, ..) if self.life.state == SandboxState::Killing => {
                ProcessEnd::Killed
            }
            (EndReason::SandboxLost, ..) => ProcessEnd::SandboxLost {
                end: match (self.store.handing_off, self.life.deleting) {
                    (true, _) => SandboxEnd::HandedOff,
                    (false, true) => self.deleted(),
                    (false, false) => SandboxEnd::ProcessLost { reason },
                },
            },
            (_, Some(code), _) => ProcessEnd::Exited(code),
            (_, None, Some(signal)) => ProcessEnd::Signaled(signal),
            (_, None, None) => ProcessEnd::Unknown,
        }
    }

    fn exec_started(&mut self, process: ProcessId) {
        let exec = self.execs.by_process.get_mut(&process);
        let start = exec.and_then(|exec| exec.start.take());
        if let Some(Pending { request, .. }) = start.and_then(|start| start.caller) {
            self.actions.event(SandboxEvent::ProcessStarted(process));
            let started = SandboxReply::Started(process);
            self.actions.settle(request, Ok(started));
        }
    }

    pub(super) fn handle_stdin_taken(&mut self, id: &ExecId, offset: u64) {
        if let Some(process) = self.execs.find(id.as_str()) {
            self.actions.tell(process, ProcessFact::StdinTaken(offset));
        }
    }

    /// Removes an exec that did not start, as far as this client can know. If the exec already
    /// runs, it continues.
    fn drop_start(&mut self, process: ProcessId, failure: Failure) {
        let exec = self.execs.by_process.get(&process);
        if exec.is_some_and(|exec| exec.start.is_some()) {
            self.forget_exec(process, failure);
        }
    }

    /// Removes an exec. If it runs, it continues, and pauses when its unread output fills the
    /// window.
    fn forget_exec(&mut self, process: ProcessId, failure: Failure) {
        let exec = self.execs.by_process.get_mut(&process);
        let start = exec.and_then(|exec| exec.start.take());
        self.execs.remove(process);
        self.actions
            .fail(start.and_then(|start| start.caller), failure);
        self.actions.end(process, SandboxEnd::Closed);
    }

    pub(super) fn handle_execs_link_down(&mut self, cause: &LinkError) {
        for &process in self.execs.by_process.keys() {
            self.actions.tell(process, ProcessFact::LinkDown);
        }
        if !cause.is_too_large() {
            return;
        }
        // The server refused a message. This is most likely the largest start that was sent.
        let sent = self.execs.starts().filter(|(_, start)| start.sent > 0);
        let sizes = sent.map(|(process, start)| (start.text.len(), process));
        if let Some((bytes, process)) = sizes.max() {
            let reason = format!("the server does not take a message of {bytes} bytes");
            let failure = Failure::refused(RUN_CODE, Status::ExecutionError, Some(reason));
            self.drop_start(process, failure);
        }
    }

    /// The sandbox runs on a new link.
    pub(super) fn resume_execs(&mut self) {
        if !self.version().is_v2() {
            let detail = "since the reconnect, the server speaks protocol v1, \
                          which cannot resume a process of v2"
                .to_owned();
            let end = SandboxEnd::LinkLost {
                cause: LinkError::Protocol { detail },
                attempts: 0,
            };
            return self.drop_execs(&end, Failure::link_lost);
        }
        let refused = self.execs.starts().filter_map(|(process, start)| {
            let feature = self.life.missing_feature(&start.needs)?;
            Some((process, feature))
        });
        for (process, feature) in refused.collect::<Vec<_>>() {
            self.drop_start(process, Failure::not_offered(RUN_CODE, feature));
        }
        // The request itself may be the reason why the links are lost.
        let repeated = |start: &Start| start.caller.is_some() && start.sent >= MAX_SENDS;
        let repeated = self.execs.starts().filter(|(_, start)| repeated(start));
        let repeated = repeated.map(|(process, start)| (process, start.unconfirmed()));
        for (process, (what, effect)) in repeated.collect::<Vec<_>>() {
            self.give_up(process, Failure::link_lost(what, effect));
        }
        for (&process, exec) in &mut self.execs.by_process {
            if let Some(start) = &mut exec.start
                && start.caller.is_some()
            {
                start.sent += 1;
                self.actions.push(SandboxAction::Send(start.text.clone()));
                continue;
            }
            // A start without a caller is not repeated. The exec is only resumed in order to be
            // killed.
            self.actions.tell(process, ProcessFact::LinkUp);
        }
    }

    pub(super) fn abandon_exec(&mut self, process: ProcessId) {
        self.give_up(process, Failure::Cancelled { what: RUN_CODE });
    }

    /// Gives up an exec for which no caller waits any more. It is not started, or its process is
    /// killed, unless other clients can find it.
    fn give_up(&mut self, process: ProcessId, failure: Failure) {
        let Some(exec) = self.execs.by_process.get_mut(&process) else {
            return;
        };
        if exec.is_shared {
            return self.forget_exec(process, failure);
        }
        if let Some(start) = &mut exec.start {
            if start.sent == 0 {
                return self.drop_start(process, failure);
            }
            self.actions.fail(start.caller.take(), failure);
        }
        self.actions.tell(process, ProcessFact::Abandoned);
    }

    /// Kills the starting execs whose requests were sent, unless other clients can find them.
    pub(super) fn kill_exec_starts(&mut self) {
        let sent = self
            .execs
            .starts()
            .filter(|&(process, start)| start.sent > 0 && !self.execs.is_shared(process));
        let sent: Vec<_> = sent.map(|(process, _)| process).collect();
        sent.into_iter().for_each(|process| self.kill_exec(process));
    }

    pub(super) fn kill_exec(&mut self, process: ProcessId) {
        if self.life.is_linked()
            && let Some(exec) = self.execs.by_process.get(&process)
        {
            let kill = ClientMessage::Named(exec.id.clone(), NamedMessage::Kill);
            self.actions.send(&kill);
        }
    }

    pub(super) fn handle_execs_timeout(&mut self, now: Instant) {
        let is_due = |start: &Start| start.caller.as_ref().is_some_and(|it| it.is_due(now));
        let due = self.execs.starts().filter(|(_, start)| is_due(start));
        let due: Vec<_> = due.map(|(process, it)| (process, it.sent)).collect();
        for (process, sent) in due {
            let failure = match sent {
                0 => Failure::link_lost(RUN_CODE, Effect::NotApplied),
                _ => Failure::timeout(START, self.config.timeouts.exec),
            };
            self.give_up(process, failure);
        }
    }

    /// The sandbox ended, so every exec ends.
    pub(super) fn end_execs(&mut self, end: &SandboxEnd) {
        self.drop_execs(end, |what, effect| Failure::ended(what, end, effect));
    }

    fn drop_execs(&mut self, end: &SandboxEnd, failure: impl Fn(&'static str, Effect) -> Failure) {
        for (process, exec) in std::mem::take(&mut self.execs).by_process {
            if let Some(start) = exec.start {
                let (what, effect) = start.unconfirmed();
                self.actions.fail(start.caller, failure(what, effect));
            }
            self.actions.end(process, end.clone());
        }
    }
}
