//! Named execs (protocol v2): any number at once. An exec request that was cut off is sent again, and one that
//! runs is asked for on the next link; where its output stands is the process's affair.

use std::{borrow::Borrow, collections::BTreeMap, fmt::Write, time::Instant};

use super::{Sandbox, SandboxAction, SandboxReply, queue::RUN_CODE};
use crate::{
    machine::{
        Effect, Failure, LinkError, ProcessEnd, ProcessFact, ProcessId, RequestId, SandboxEnd,
        SandboxEvent, SandboxState, later,
    },
    protocol::{
        ClientMessage, EndReason, ExecEnd, ExecId, ExecOptions, ExecRequest, ExecUpdate,
        NamedMessage, Status, Version,
    },
};

/// What is not confirmed when a start is not.
const START: &str = "confirm the start of the process";

/// On how many links a start is asked for, when all of them break before the answer.
const MAX_SENDS: u32 = 10;

/// The end of an exec where the server does not say how. It is an end all the same.
const UNKNOWN_END: ExecEnd = ExecEnd {
    reason: EndReason::Unknown,
    exit_code: None,
    signal: None,
    lengths: None,
    output_cut: false,
};

/// A named exec of this client.
#[derive(Debug)]
pub(super) struct Named {
    exec: ExecId,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The server has not said that it runs.
    Starting {
        /// Who waits for that, and until when.
        request: Option<(RequestId, Instant)>,
        /// The frame that asks for it.
        text: String,
        /// On how many links it was sent.
        sent: u32,
    },
    Running,
}

/// An id that is found by its text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ByText(ExecId);

impl Borrow<str> for ByText {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

/// The named execs of this client.
#[derive(Debug, Default)]
pub(super) struct NamedExecs {
    execs: BTreeMap<ProcessId, Named>,
    ids: BTreeMap<ByText, ProcessId>,
    /// What was looked for last: most messages are about the same exec as the one before.
    last: Option<(ExecId, ProcessId)>,
}

impl NamedExecs {
    fn insert(&mut self, process: ProcessId, named: Named) {
        self.ids.insert(ByText(named.exec.clone()), process);
        self.execs.insert(process, named);
    }

    fn remove(&mut self, process: ProcessId) -> Option<Named> {
        let named = self.execs.remove(&process)?;
        self.ids.remove(named.exec.as_str());
        self.last.take_if(|(_, last)| *last == process);
        if self.execs.is_empty() {
            // An empty map keeps its memory, which a sandbox that waits for its next exec has no use for.
            *self = Self::default();
        }
        Some(named)
    }

    /// The process of this name.
    pub(super) fn find(&mut self, exec: &str) -> Option<ProcessId> {
        if let Some((last, process)) = &self.last
            && last.as_str() == exec
        {
            return Some(*process);
        }
        let (id, &process) = self.ids.get_key_value(exec)?;
        self.last = Some((id.0.clone(), process));
        Some(process)
    }

    pub(super) fn contains(&self, process: ProcessId) -> bool {
        self.execs.contains_key(&process)
    }

    /// When the start of one is given up.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.execs.values().filter_map(|named| match &named.phase {
            Phase::Starting { request, .. } => request.map(|(_, due)| due),
            Phase::Running => None,
        });
        due.min()
    }
}

/// What failed with the start of an exec, and what is known of it.
fn start_effect(sent: u32) -> (&'static str, Effect) {
    match sent {
        0 => (RUN_CODE, Effect::NotApplied),
        _ => (START, Effect::Unknown),
    }
}

impl Sandbox {
    /// Whether an exec can be a named one now.
    pub(super) fn can_name(&self) -> bool {
        let up = matches!(
            self.state,
            SandboxState::Running | SandboxState::Reconnecting
        );
        up && self.version == Version::V2
    }

    fn exec_id(&self, process: ProcessId) -> ExecId {
        // In one piece of memory: `format!` would need three.
        let mut id = String::with_capacity(self.exec_prefix.len() + 21);
        id.push_str(&self.exec_prefix);
        // Text can always be written.
        let _ = write!(id, "-{}", process.0);
        ExecId::new(id)
    }

    /// Starts a named exec, now or when the link is back.
    pub(super) fn start_named(
        &mut self,
        request: RequestId,
        run: ExecRequest<'_>,
        options: &ExecOptions,
        now: Instant,
    ) -> (ProcessId, ExecId) {
        self.next_process += 1;
        let process = ProcessId(self.next_process);
        let exec = self.exec_id(process);
        let message = NamedMessage::Exec(run.clone(), options.clone());
        let text = ClientMessage::Named(exec.clone(), message).encode();
        let sent = self.state == SandboxState::Running;
        if sent {
            self.actions.push_back(SandboxAction::Send(text.clone()));
        }
        let due = later(now, self.timeouts.exec);
        let phase = Phase::Starting {
            request: Some((request, due)),
            text,
            sent: u32::from(sent),
        };
        let named = Named {
            exec: exec.clone(),
            phase,
        };
        self.named.insert(process, named);
        (process, exec)
    }

    /// Takes over an exec that another client started. Its first word comes when the sandbox runs.
    pub fn adopt(&mut self, exec: ExecId) -> Result<ProcessId, Failure> {
        const WHAT: &str = "attach to the process";
        if self.version != Version::V2 {
            return Err(Failure::Unsupported {
                what: WHAT,
                feature: "named processes",
            });
        }
        if !self.can_name() {
            return Err(Failure::WrongState {
                what: WHAT,
                state: self.state.clone(),
            });
        }
        if self.named.find(exec.as_str()).is_some() {
            return Err(Failure::AlreadyUnderWay { what: WHAT });
        }
        self.next_process += 1;
        let process = ProcessId(self.next_process);
        let phase = Phase::Running;
        self.named.insert(process, Named { exec, phase });
        if self.state == SandboxState::Running {
            self.actions
                .push_back(SandboxAction::Tell(process, ProcessFact::LinkUp));
        }
        Ok(process)
    }

    /// Whether a message about a named exec can be sent now.
    pub fn can_send(&self, process: ProcessId) -> bool {
        self.link.is_some()
            && !matches!(
                self.state,
                SandboxState::Reconnecting | SandboxState::Ended(_)
            )
            && self.named.contains(process)
    }

    /// Everything is said about a named exec.
    pub fn settle_named(&mut self, process: ProcessId) {
        self.named.remove(process);
    }

    pub(super) fn handle_stdin_taken(&mut self, exec: &ExecId, offset: u64) {
        if let Some(process) = self.named.find(exec.as_str()) {
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::StdinTaken(offset),
            ));
        }
    }

    /// A status about a named exec.
    pub(super) fn handle_named_status(
        &mut self,
        status: Status,
        reason: Option<String>,
        update: ExecUpdate,
    ) {
        let Some(process) = self.named.find(update.exec.as_str()) else {
            return;
        };
        let tell = |fact| SandboxAction::Tell(process, fact);
        match status {
            Status::ExecutionRunning => {
                self.named_started(process);
                self.actions.push_back(tell(ProcessFact::Announced {
                    stdin: update.stdin.unwrap_or(0),
                    window: update.window,
                }));
            }
            Status::ExecutionExited => {
                let end = update.end.unwrap_or(UNKNOWN_END);
                if end.reason != EndReason::SandboxLost {
                    self.named_started(process);
                    let end = self.process_end(end, reason);
                    self.actions.push_back(tell(ProcessFact::Exited(end)));
                }
            }
            Status::ExecutionDone => {
                let end = update.end.unwrap_or(UNKNOWN_END);
                // Its announcement may have been lost with a link.
                self.named_started(process);
                let (lengths, cut) = (end.lengths, end.output_cut);
                let end = self.process_end(end, reason);
                self.actions
                    .push_back(tell(ProcessFact::Ended { end, lengths, cut }));
            }
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                self.named_refused(process, status, reason);
            }
            Status::ExecutionForceKilled => {
                self.actions.push_back(tell(ProcessFact::ForceKilled));
            }
            Status::ExecutionForceKillError => {
                let failure = Failure::Refused {
                    what: "kill the process",
                    status,
                    reason,
                };
                self.actions
                    .push_back(tell(ProcessFact::KillRefused(failure)));
            }
            Status::StdinError => self.actions.push_back(tell(ProcessFact::StdinClosed)),
            _ => {}
        }
    }

    fn process_end(&self, end: ExecEnd, reason: Option<String>) -> ProcessEnd {
        match (end.reason, end.exit_code, end.signal) {
            (EndReason::Killed, ..) => ProcessEnd::Killed,
            (EndReason::TimedOut, ..) => ProcessEnd::TimedOut,
            // By the kill of its sandbox.
            (EndReason::SandboxLost, ..) if self.state == SandboxState::Killing => {
                ProcessEnd::Killed
            }
            (EndReason::SandboxLost, ..) => ProcessEnd::SandboxLost {
                end: match (self.handing_off, self.deleting) {
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

    fn named_started(&mut self, process: ProcessId) {
        let Some(named) = self.named.execs.get_mut(&process) else {
            return;
        };
        let before = std::mem::replace(&mut named.phase, Phase::Running);
        if let Phase::Starting {
            request: Some((request, _)),
            ..
        } = before
        {
            self.event(SandboxEvent::ProcessStarted(process));
            self.settle(request, Ok(SandboxReply::Started(process)));
        }
    }

    fn named_refused(&mut self, process: ProcessId, status: Status, reason: Option<String>) {
        // One that runs is not ended by that.
        let starting = |named: &Named| matches!(named.phase, Phase::Starting { .. });
        if !self.named.execs.get(&process).is_some_and(starting) {
            return;
        }
        let failure = Failure::Refused {
            what: "run the code",
            status,
            reason,
        };
        self.drop_named(process, failure);
    }

    /// An exec that never was, as far as anybody knows.
    fn drop_named(&mut self, process: ProcessId, failure: Failure) {
        if let Some(Named {
            phase: Phase::Starting { request, .. },
            ..
        }) = self.named.remove(process)
        {
            if let Some((request, _)) = request {
                self.settle(request, Err(failure));
            }
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(SandboxEnd::Closed),
            ));
        }
    }

    /// The sandbox runs on a new link.
    pub(super) fn resume_named(&mut self) {
        if self.version == Version::V1 {
            return self.leave_named();
        }
        self.give_up_starts();
        for (&process, named) in &mut self.named.execs {
            self.actions.push_back(match &mut named.phase {
                Phase::Starting {
                    request: Some(_),
                    text,
                    sent,
                } => {
                    *sent += 1;
                    SandboxAction::Send(text.clone())
                }
                // Nobody wants it to be started any more: it is only asked for, to be killed where it was.
                Phase::Starting { request: None, .. } | Phase::Running => {
                    SandboxAction::Tell(process, ProcessFact::LinkUp)
                }
            });
        }
    }

    /// A request that was lost with every link it was sent on may be what breaks them.
    fn give_up_starts(&mut self) {
        for (&process, named) in &mut self.named.execs {
            if let Phase::Starting { request, sent, .. } = &mut named.phase
                && *sent >= MAX_SENDS
                && let Some((request, _)) = request.take()
            {
                let failure = Failure::LinkLost {
                    what: START,
                    effect: Effect::Unknown,
                };
                self.actions
                    .push_back(SandboxAction::Settle(request, Err(failure)));
                self.actions
                    .push_back(SandboxAction::Tell(process, ProcessFact::Abandoned));
            }
        }
    }

    /// The server closed the link because a message was too large for it: that of the largest start under way.
    pub(super) fn handle_too_large(&mut self) {
        let sent = self.named.execs.iter().filter_map(|(&process, named)| {
            let Phase::Starting {
                text, sent: 1.., ..
            } = &named.phase
            else {
                return None;
            };
            Some((text.len(), process))
        });
        if let Some((bytes, process)) = sent.max() {
            let reason = format!("the server does not take a message of {bytes} bytes");
            let failure = Failure::Refused {
                what: RUN_CODE,
                status: Status::ExecutionError,
                reason: Some(reason),
            };
            self.drop_named(process, failure);
        }
    }

    /// The new link leads to a peer that knows no named execs.
    fn leave_named(&mut self) {
        let processes: Vec<_> = self.named.execs.keys().copied().collect();
        for process in processes {
            let phase = self.named.execs.get(&process).map(|named| &named.phase);
            if let Some(Phase::Starting { sent, .. }) = phase {
                let (what, effect) = start_effect(*sent);
                self.drop_named(process, Failure::LinkLost { what, effect });
            } else {
                self.named.remove(process);
                let detail = "the server speaks protocol v1 since the link was lost, \
                              and cannot go on with a process of v2"
                    .to_owned();
                let end = SandboxEnd::LinkLost {
                    cause: LinkError::Protocol { detail },
                    attempts: 0,
                };
                self.actions
                    .push_back(SandboxAction::Tell(process, ProcessFact::SandboxEnded(end)));
            }
        }
    }

    pub(super) fn named_link_down(&mut self) {
        for &process in self.named.execs.keys() {
            self.actions
                .push_back(SandboxAction::Tell(process, ProcessFact::LinkDown));
        }
    }

    /// Nobody has a handle to the process, and nobody can get one.
    pub(super) fn abandon_named(&mut self, process: ProcessId) {
        let cancelled = Failure::Cancelled { what: RUN_CODE };
        match self.named.execs.get_mut(&process).map(|it| &mut it.phase) {
            None => return,
            Some(Phase::Starting { sent: 0, .. }) => {
                return self.drop_named(process, cancelled);
            }
            Some(Phase::Starting { request, .. }) => {
                if let Some((request, _)) = request.take() {
                    self.settle(request, Err(cancelled));
                }
            }
            Some(Phase::Running) => {}
        }
        self.actions
            .push_back(SandboxAction::Tell(process, ProcessFact::Abandoned));
    }

    /// Nobody is there any more who could speak for the process: it is killed, if that can be said.
    pub fn bury(&mut self, process: ProcessId) {
        self.abandon_named(process);
        self.kill_named(process);
        self.named.remove(process);
    }

    /// The last handle of the sandbox is gone, and with it those who asked for the starts under way.
    pub(super) fn kill_starting(&mut self) {
        let starting = self
            .named
            .execs
            .iter()
            .filter(|(_, named)| matches!(named.phase, Phase::Starting { sent: 1.., .. }));
        let starting: Vec<_> = starting.map(|(&process, _)| process).collect();
        for process in starting {
            self.abandon_named(process);
            self.kill_named(process);
        }
    }

    fn kill_named(&mut self, process: ProcessId) {
        if self.can_send(process)
            && let Some(named) = self.named.execs.get(&process)
        {
            let text = ClientMessage::Named(named.exec.clone(), NamedMessage::Kill).encode();
            self.actions.push_back(SandboxAction::Send(text));
        }
    }

    /// Whose start this request waits for.
    pub(super) fn named_of(&self, request: RequestId) -> Option<ProcessId> {
        let waits = |named: &Named| matches!(&named.phase, Phase::Starting { request: Some((waiting, _)), .. } if *waiting == request);
        let mut execs = self.named.execs.iter();
        execs
            .find(|(_, named)| waits(named))
            .map(|(&process, _)| process)
    }

    pub(super) fn time_named(&mut self, now: Instant) {
        while let Some(process) = self.named.execs.iter().find_map(|(&process, named)| {
            let Phase::Starting {
                request: Some((_, due)),
                ..
            } = &named.phase
            else {
                return None;
            };
            (now >= *due).then_some(process)
        }) {
            let after = self.timeouts.exec;
            let Some(Named {
                phase: Phase::Starting { request, sent, .. },
                ..
            }) = self.named.execs.get_mut(&process)
            else {
                return;
            };
            let sent = *sent > 0;
            let request = request.take();
            if !sent {
                let failure = Failure::LinkLost {
                    what: RUN_CODE,
                    effect: Effect::NotApplied,
                };
                if let Some((request, _)) = request {
                    self.settle(request, Err(failure.clone()));
                }
                self.drop_named(process, failure);
                continue;
            }
            if let Some((request, _)) = request {
                let what = "the start of the process";
                self.settle(request, Err(Failure::Timeout { what, after }));
            }
            self.actions
                .push_back(SandboxAction::Tell(process, ProcessFact::Abandoned));
        }
    }

    /// The sandbox is over.
    pub(super) fn end_named(&mut self, end: &SandboxEnd) {
        let execs = std::mem::take(&mut self.named);
        for (process, named) in execs.execs {
            if let Phase::Starting {
                request: Some((request, _)),
                sent,
                ..
            } = named.phase
            {
                let (what, effect) = start_effect(sent);
                let end = end.clone();
                self.settle(request, Err(Failure::SandboxEnded { what, end, effect }));
            }
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(end.clone()),
            ));
        }
    }
}
