//! [`Sandbox`]: a sandbox's life, and which requests wait for what.
//!
//! This file holds the state, what the user asks (commands), and what the connection says. What the
//! server says is in `facts.rs`.

mod facts;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Effect, Epoch, Failure, LinkError, ProcessFact, ProcessId, RequestId, SandboxEnd, SandboxEvent,
    SandboxState, later,
};
use crate::protocol::{
    ClientMessage, OutputPiece, Pairing, ParseError, SandboxConfig as Configuration, SandboxId,
    SandboxToken, ServerMessage,
};

/// Most kills whose answers are remembered as due.
const MAX_KILLS_OWED: usize = 64;

/// Whether a sandbox is created or attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A new sandbox with this configuration.
    Create(Configuration),
    /// An existing one.
    Attach(SandboxId, SandboxToken),
}

/// How long the server may take to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the open link to `SANDBOX_RUNNING`. Default: 60 s.
    pub ready: Duration,
    /// From an exec request to `SANDBOX_EXECUTION_RUNNING`. Default: 60 s.
    pub exec: Duration,
    /// From a kill of the sandbox to `SANDBOX_KILLED`. Default: 30 s.
    pub kill: Duration,
    /// From a checkpoint or snapshot request to its end. Default: 10 minutes.
    pub store: Duration,
    /// How long an error status waits for its reason. Default: 1 s.
    pub reason: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            ready: Duration::from_secs(60),
            exec: Duration::from_secs(60),
            kill: Duration::from_secs(30),
            store: Duration::from_secs(600),
            reason: Duration::from_secs(1),
        }
    }
}

/// How a [`Sandbox`] behaves.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Create or attach.
    pub mode: Mode,
    /// How long the server may take.
    pub timeouts: Timeouts,
}

/// The answer to a granted request.
#[derive(Clone, Debug, PartialEq)]
pub enum SandboxReply {
    /// The sandbox runs.
    Ready,
    /// The exec runs.
    Started(ProcessId),
    /// It is done.
    Done,
}

/// What a [`Sandbox`] wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum SandboxAction {
    /// Send a frame on the current link.
    Send(String),
    /// Answer a request.
    Settle(RequestId, Result<SandboxReply, Failure>),
    /// Let the process know something.
    Tell(ProcessId, ProcessFact),
    /// Output for the process.
    Output(ProcessId, OutputPiece),
    /// From now on, dial this sandbox again instead of creating one.
    Resume(SandboxId, SandboxToken),
    /// The sandbox runs on this link; see [`Connection::confirm`](super::Connection::confirm).
    ConfirmLink(Epoch),
    /// A loss of the link is final from now on.
    Disarm,
    /// The link is of no use yet; see [`Connection::handle_refused`](super::Connection::handle_refused).
    RefuseLink(Epoch, LinkError),
    /// Close the connection.
    CloseLink,
    /// Let the subscribers know.
    Event(SandboxEvent),
}

#[derive(Debug)]
struct Exec {
    process: ProcessId,
    phase: ExecPhase,
}

#[derive(Debug, PartialEq, Eq)]
enum ExecPhase {
    /// Sent; the server has not said that it runs.
    Starting { request: RequestId, due: Instant },
    /// It runs.
    Running,
    /// Nobody waits for it any more; it is being killed, and the sandbox is busy until it ends.
    Abandoned { running: bool },
}

#[derive(Debug)]
struct Pending {
    request: RequestId,
    due: Instant,
}

/// The state machine of a sandbox.
#[derive(Debug)]
pub struct Sandbox {
    mode: Mode,
    timeouts: Timeouts,
    state: SandboxState,
    identity: Option<(SandboxId, SandboxToken)>,
    link: Option<Epoch>,
    pairing: Pairing,
    /// When a status gives up waiting for its reason.
    reason_due: Option<Instant>,
    /// When the server must have said that the sandbox runs, on this link.
    ready_due: Option<Instant>,
    ready: Vec<RequestId>,

    exec: Option<Exec>,
    next_process: u64,
    /// Whose kill the next `FORCE_KILLED` answers.
    kills_owed: VecDeque<ProcessId>,

    kill_wanted: bool,
    /// Sent on this link, and not answered.
    kill_sent: bool,
    /// Sent on any link, and not refused.
    kill_left: bool,
    kills: Vec<Pending>,
    /// `DELETED` came as part of a kill or checkpoint whose own end is still due.
    deleted_due: Option<Instant>,
    /// When the kill of an abandoned sandbox is no longer waited for.
    abandoned_due: Option<Instant>,

    checkpoint: Option<Pending>,
    snapshot: Option<Pending>,
    /// Snapshots that timed out; their answers may still come, before that of the next.
    snapshots_late: u32,
    /// The server was asked by another client to give the sandbox away.
    handing_off: bool,
    /// Nobody is left to use the sandbox once it is created: kill it then.
    abandoned: bool,

    actions: VecDeque<SandboxAction>,
}

impl Sandbox {
    /// A sandbox that waits for its first link.
    pub fn new(config: SandboxConfig) -> Self {
        let (state, identity) = match &config.mode {
            Mode::Create(_) => (SandboxState::Creating, None),
            Mode::Attach(id, token) => (SandboxState::Attaching, Some((id.clone(), token.clone()))),
        };
        Self {
            mode: config.mode,
            timeouts: config.timeouts,
            state,
            identity,
            link: None,
            pairing: Pairing::default(),
            reason_due: None,
            ready_due: None,
            ready: Vec::new(),
            exec: None,
            next_process: 0,
            kills_owed: VecDeque::new(),
            kill_wanted: false,
            kill_sent: false,
            kill_left: false,
            kills: Vec::new(),
            deleted_due: None,
            abandoned_due: None,
            checkpoint: None,
            snapshot: None,
            snapshots_late: 0,
            handing_off: false,
            abandoned: false,
            actions: VecDeque::new(),
        }
    }

    /// Where the sandbox stands.
    pub fn state(&self) -> &SandboxState {
        &self.state
    }

    /// The id and the token, once known.
    pub fn identity(&self) -> Option<&(SandboxId, SandboxToken)> {
        self.identity.as_ref()
    }

    /// The process that occupies the sandbox.
    pub fn process(&self) -> Option<ProcessId> {
        self.exec.as_ref().map(|exec| exec.process)
    }

    /// Whether a request waits for a status, which may stand behind unread output.
    pub fn is_awaited(&self) -> bool {
        !self.kills.is_empty() || self.checkpoint.is_some() || self.snapshot.is_some()
    }

    // ----- commands

    /// Answers when the sandbox runs.
    pub fn open(&mut self, request: RequestId) {
        match &self.state {
            SandboxState::Creating | SandboxState::Attaching => self.ready.push(request),
            SandboxState::Ended(end) => {
                let failure = Failure::NotOpened { end: end.clone() };
                self.settle(request, Err(failure));
            }
            _ => self.settle(request, Ok(SandboxReply::Ready)),
        }
    }

    /// Runs code. Answers when the server says that it runs; gives the number of the process.
    pub fn exec(
        &mut self,
        request: RequestId,
        language: &str,
        code: &str,
        now: Instant,
    ) -> Option<ProcessId> {
        const WHAT: &str = "run code";
        if let Err(failure) = self.require_running(WHAT) {
            self.settle(request, Err(failure));
            return None;
        }
        if self.exec.is_some() {
            self.settle(request, Err(Failure::ProcessRunning { what: WHAT }));
            return None;
        }
        self.next_process += 1;
        let process = ProcessId(self.next_process);
        let due = later(now, self.timeouts.exec);
        self.exec = Some(Exec {
            process,
            phase: ExecPhase::Starting { request, due },
        });
        self.send(&ClientMessage::exec(language, code));
        Some(process)
    }

    /// Asks the server to kill a process.
    pub fn kill_process(&mut self, process: ProcessId) {
        if self.link.is_some()
            && self.state != SandboxState::Reconnecting
            && self.process() == Some(process)
        {
            if self.kills_owed.len() >= MAX_KILLS_OWED {
                self.kills_owed.pop_front();
            }
            self.kills_owed.push_back(process);
            self.send(&ClientMessage::KillProcess);
        }
    }

    /// Whether a stdin message of the process can be sent now.
    pub fn can_send_stdin(&self, process: ProcessId) -> bool {
        self.link.is_some()
            && self.state != SandboxState::Reconnecting
            && self
                .exec
                .as_ref()
                .is_some_and(|exec| exec.process == process && exec.phase == ExecPhase::Running)
    }

    /// Nobody has a handle to the process, and nobody can get one: it is killed, and the sandbox is
    /// free after that.
    pub fn abandon(&mut self, process: ProcessId) {
        let Some(exec) = self.exec.as_mut().filter(|exec| exec.process == process) else {
            return;
        };
        match exec.phase {
            ExecPhase::Abandoned { .. } => return,
            ExecPhase::Running => exec.phase = ExecPhase::Abandoned { running: true },
            ExecPhase::Starting { request, .. } => {
                exec.phase = ExecPhase::Abandoned { running: false };
                let failure = Failure::Cancelled {
                    what: "run the code",
                };
                self.settle(request, Err(failure));
            }
        }
        self.kill_process(process);
    }

    /// The process is over by its own account, for example because it was killed and `DONE` never came.
    pub fn process_ended(&mut self, process: ProcessId) {
        if let Some(exec) = self.exec.take_if(|exec| exec.process == process)
            && let ExecPhase::Starting { request, .. } = exec.phase
        {
            let failure = Failure::ProcessEnded {
                what: "run the code",
            };
            self.settle(request, Err(failure));
        }
    }

    /// Kills the sandbox, and answers when the server confirmed it. Any number may ask.
    pub fn kill(&mut self, request: RequestId, now: Instant) {
        match &self.state {
            SandboxState::Ended(SandboxEnd::Killed | SandboxEnd::Deleted) => {
                self.settle(request, Ok(SandboxReply::Done));
            }
            SandboxState::Running | SandboxState::Killing | SandboxState::Reconnecting => {
                self.kills.push(Pending {
                    request,
                    due: later(now, self.timeouts.kill),
                });
                self.kill_wanted = true;
                self.send_kill();
            }
            state => {
                let failure = Failure::WrongState {
                    what: "kill the sandbox",
                    state: state.clone(),
                };
                self.settle(request, Err(failure));
            }
        }
    }

    /// Stores the files of the sandbox under a name.
    pub fn snapshot_filesystem(&mut self, request: RequestId, name: &str, now: Instant) {
        const WHAT: &str = "snapshot the filesystem";
        let refused = self.require_running(WHAT).and_then(|()| {
            if self.snapshot.is_some() {
                Err(Failure::AlreadyUnderWay { what: WHAT })
            } else {
                Ok(())
            }
        });
        if let Err(failure) = refused {
            return self.settle(request, Err(failure));
        }
        self.snapshot = Some(Pending {
            request,
            due: later(now, self.timeouts.store),
        });
        self.send(&ClientMessage::SnapshotFilesystem {
            name: Some(name.into()),
        });
    }

    /// Stores the sandbox and ends it.
    pub fn checkpoint(&mut self, request: RequestId, now: Instant) {
        const WHAT: &str = "checkpoint the sandbox";
        let refused = if self.checkpoint.is_some() {
            Err(Failure::AlreadyUnderWay { what: WHAT })
        } else {
            self.require_running(WHAT)
        };
        if let Err(failure) = refused {
            return self.settle(request, Err(failure));
        }
        self.checkpoint = Some(Pending {
            request,
            due: later(now, self.timeouts.store),
        });
        self.actions.push_back(SandboxAction::Disarm);
        self.send(&ClientMessage::Checkpoint);
    }

    /// Nobody got a handle to the sandbox, and nobody can get one: it is killed as soon as that can
    /// be said, within the timeouts of getting ready and of a kill.
    pub fn discard(&mut self, now: Instant) {
        match self.state {
            SandboxState::Creating => self.abandoned = true,
            SandboxState::Running => {
                self.abandoned = true;
                self.kill_abandoned(now);
            }
            _ => {}
        }
    }

    pub(super) fn kill_abandoned(&mut self, now: Instant) {
        self.kill_wanted = true;
        // Nobody waits for the answer, but the wait for it is bounded all the same.
        self.abandoned_due = Some(later(now, self.timeouts.kill));
        self.send_kill();
    }

    /// The last handle is gone: the connection is closed. A sandbox that is still being created is
    /// killed as soon as that can be said.
    pub fn detach(&mut self) {
        match self.state {
            SandboxState::Creating if self.link.is_some() => self.abandoned = true,
            // A kill under way is seen through, within its timeout.
            SandboxState::Killing if self.abandoned || !self.kills.is_empty() => {
                self.abandoned = true
            }
            SandboxState::Ended(_) => self.actions.push_back(SandboxAction::CloseLink),
            _ => {
                // Whoever asked for it is gone as well.
                if let Some(Exec {
                    process,
                    phase: ExecPhase::Starting { .. },
                }) = self.exec
                {
                    self.kill_process(process);
                }
                self.finish(SandboxEnd::Closed);
            }
        }
    }

    // ----- what the connection says

    /// A link is open.
    pub fn handle_opened(&mut self, epoch: Epoch, now: Instant) {
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        self.link = Some(epoch);
        self.ready_due = Some(later(now, self.timeouts.ready));
        if let (SandboxState::Creating, Mode::Create(configuration)) = (&self.state, &self.mode) {
            self.actions
                .push_back(SandboxAction::Send(configuration.encode()));
        }
    }

    /// A frame came over a link.
    pub fn handle_frame(&mut self, epoch: Epoch, frame: &Bytes, now: Instant) {
        if self.link != Some(epoch) || matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        match ServerMessage::parse(frame) {
            // By far the most frequent, and never held back.
            Ok(ServerMessage::Output(piece)) => self.handle_output(piece),
            Ok(message) => {
                let is_status = matches!(message, ServerMessage::Status(_));
                let mut facts = Vec::new();
                self.pairing.accept(message, &mut facts);
                for fact in facts {
                    self.handle_fact(fact, now);
                }
                if !self.pairing.is_waiting() || matches!(self.state, SandboxState::Ended(_)) {
                    self.reason_due = None;
                } else if is_status {
                    // It is this status that waits now.
                    self.reason_due = Some(later(now, self.timeouts.reason));
                }
            }
            Err(error) => {
                self.flush_pairing(now);
                self.handle_malformed(&error);
            }
        }
    }

    /// The link is lost, and another attempt follows.
    pub fn handle_reconnecting(
        &mut self,
        attempt: u32,
        delay: Duration,
        cause: LinkError,
        now: Instant,
    ) {
        self.drop_link(now);
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        // The news that a loss is final, and the loss, may have crossed.
        if self.handing_off || self.checkpoint.is_some() || self.deleted_due.is_some() {
            return self.handle_lost(cause, attempt.saturating_sub(1), now);
        }
        // A kill that may not have left is sent again.
        self.kill_sent = false;
        if self.state != SandboxState::Reconnecting {
            self.set_state(SandboxState::Reconnecting);
            if let Some(exec) = &self.exec {
                self.actions
                    .push_back(SandboxAction::Tell(exec.process, ProcessFact::LinkDown));
            }
            self.fail_unanswered();
        }
        self.event(SandboxEvent::Reconnecting {
            attempt,
            delay,
            cause,
        });
    }

    /// The link is lost for good.
    pub fn handle_lost(&mut self, cause: LinkError, attempts: u32, now: Instant) {
        let opened = self.link.is_some() || attempts > 0;
        self.drop_link(now);
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        if opened {
            self.event(SandboxEvent::GaveUp {
                cause: cause.clone(),
                attempts,
            });
        }
        let end = match self.deleted_due {
            // What the server said before it closed counts.
            Some(_) => self.end_after_deleted(),
            None => SandboxEnd::LinkLost { cause, attempts },
        };
        self.finish(end);
    }

    /// The connection was closed as asked.
    pub fn handle_closed(&mut self, now: Instant) {
        self.drop_link(now);
        self.finish(SandboxEnd::Closed);
    }

    // ----- time

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let exec = match &self.exec {
            Some(Exec {
                phase: ExecPhase::Starting { due, .. },
                ..
            }) => Some(*due),
            _ => None,
        };
        [
            self.reason_due,
            self.ready_due,
            exec,
            self.kills.first().map(|kill| kill.due),
            self.deleted_due,
            self.abandoned_due,
            self.checkpoint.as_ref().map(|checkpoint| checkpoint.due),
            self.snapshot.as_ref().map(|snapshot| snapshot.due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| now >= due);
        if is_due(self.reason_due) {
            self.flush_pairing(now);
        }
        if is_due(self.ready_due) {
            self.ready_due = None;
            // What the server said last is a better reason than that it said no more.
            self.flush_pairing(now);
            self.handle_not_ready();
        }
        if let Some(exec) = &mut self.exec
            && let ExecPhase::Starting { request, due } = exec.phase
            && now >= due
        {
            let process = exec.process;
            exec.phase = ExecPhase::Abandoned { running: false };
            let after = self.timeouts.exec;
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the start of the process",
                    after,
                }),
            );
            self.kill_process(process);
        }
        while self.kills.first().is_some_and(|kill| now >= kill.due) {
            let Pending { request, .. } = self.kills.remove(0);
            self.kill_sent = false;
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the kill of the sandbox",
                    after: self.timeouts.kill,
                }),
            );
            if self.abandoned {
                self.finish(SandboxEnd::Closed);
            }
        }
        if is_due(self.deleted_due) {
            let end = self.end_after_deleted();
            self.finish(end);
        }
        if is_due(self.abandoned_due) {
            self.finish(SandboxEnd::Closed);
        }
        let after = self.timeouts.store;
        if let Some(Pending { request, .. }) = self.checkpoint.take_if(|pending| now >= pending.due)
        {
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the checkpoint",
                    after,
                }),
            );
        }
        if let Some(Pending { request, .. }) = self.snapshot.take_if(|pending| now >= pending.due) {
            self.snapshots_late += 1;
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the filesystem snapshot",
                    after,
                }),
            );
        }
    }

    /// What to do now.
    pub fn poll_action(&mut self) -> Option<SandboxAction> {
        self.actions.pop_front()
    }

    // ----- helpers

    fn settle(&mut self, request: RequestId, result: Result<SandboxReply, Failure>) {
        self.actions
            .push_back(SandboxAction::Settle(request, result));
    }

    fn event(&mut self, event: SandboxEvent) {
        self.actions.push_back(SandboxAction::Event(event));
    }

    fn send(&mut self, message: &ClientMessage<'_>) {
        self.actions
            .push_back(SandboxAction::Send(message.encode()));
    }

    fn set_state(&mut self, state: SandboxState) {
        if self.state != state {
            self.state = state.clone();
            self.event(SandboxEvent::State(state));
        }
    }

    fn require_running(&self, what: &'static str) -> Result<(), Failure> {
        match &self.state {
            SandboxState::Running => Ok(()),
            state => Err(Failure::WrongState {
                what,
                state: state.clone(),
            }),
        }
    }

    fn checkpointed(&self) -> SandboxEnd {
        if self.handing_off {
            SandboxEnd::HandedOff
        } else {
            SandboxEnd::Checkpointed
        }
    }

    /// `DELETED` came, and nothing after it. That is the word for a kill, and none for a checkpoint.
    fn end_after_deleted(&self) -> SandboxEnd {
        match self.state {
            SandboxState::Killing => SandboxEnd::Killed,
            SandboxState::Checkpointing if self.handing_off => SandboxEnd::HandedOff,
            _ => SandboxEnd::Deleted,
        }
    }

    fn send_kill(&mut self) {
        if self.kill_wanted
            && !self.kill_sent
            && self.link.is_some()
            && self.state != SandboxState::Reconnecting
        {
            self.kill_sent = true;
            self.kill_left = true;
            self.actions.push_back(SandboxAction::Disarm);
            self.set_state(SandboxState::Killing);
            self.send(&ClientMessage::KillSandbox);
        }
    }

    fn flush_pairing(&mut self, now: Instant) {
        self.reason_due = None;
        if let Some(fact) = self.pairing.flush() {
            self.handle_fact(fact, now);
        }
    }

    fn drop_link(&mut self, now: Instant) {
        self.flush_pairing(now);
        self.pairing = Pairing::default();
        self.link = None;
        self.ready_due = None;
        // `kills_owed` stays: the server queues answers for the next link. One too many costs little,
        // one too few makes the answer to an old kill the end of a new process.
    }

    /// What was asked over the lost link and cannot be answered any more.
    fn fail_unanswered(&mut self) {
        let lost = |what| Failure::LinkLost {
            what,
            effect: Effect::Unknown,
        };
        if let Some(Exec {
            process,
            phase: ExecPhase::Starting { request, .. },
        }) = self.exec
        {
            self.settle(request, Err(lost("confirm the start of the process")));
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(SandboxEnd::Closed),
            ));
            self.exec = None;
        }
        if let Some(Pending { request, .. }) = self.snapshot.take() {
            self.settle(request, Err(lost("confirm the filesystem snapshot")));
        }
    }

    fn handle_not_ready(&mut self) {
        let after = self.timeouts.ready;
        match self.state {
            SandboxState::Creating | SandboxState::Attaching => {
                let waited = format!("no SANDBOX_RUNNING within {after:?} of the connection");
                self.finish(SandboxEnd::NotReady { waited });
            }
            SandboxState::Reconnecting => {
                if let Some(epoch) = self.link {
                    self.actions.push_back(SandboxAction::RefuseLink(
                        epoch,
                        LinkError::NotReady { after },
                    ));
                }
            }
            _ => {}
        }
    }

    fn handle_malformed(&mut self, error: &ParseError) {
        self.violation(error.to_string());
    }

    fn violation(&mut self, detail: String) {
        self.finish(SandboxEnd::LinkLost {
            cause: LinkError::Protocol { detail },
            attempts: 0,
        });
    }

    /// The sandbox is over: every request is settled, the process is told, the link is closed.
    fn finish(&mut self, end: SandboxEnd) {
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        let gone = matches!(end, SandboxEnd::Killed | SandboxEnd::Deleted);
        self.ready_due = None;
        self.reason_due = None;
        self.deleted_due = None;
        self.abandoned_due = None;
        self.actions.push_back(SandboxAction::Disarm);

        let ended = |what, effect| Failure::SandboxEnded {
            what,
            end: end.clone(),
            effect,
        };
        for request in std::mem::take(&mut self.ready) {
            self.settle(request, Err(Failure::NotOpened { end: end.clone() }));
        }
        if let Some(Exec { process, phase }) = self.exec.take() {
            if let ExecPhase::Starting { request, .. } = phase {
                self.settle(
                    request,
                    Err(ended("confirm the start of the process", Effect::Unknown)),
                );
            }
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(end.clone()),
            ));
        }
        let effect = if self.kill_left {
            Effect::Unknown
        } else {
            Effect::NotApplied
        };
        for Pending { request, .. } in std::mem::take(&mut self.kills) {
            let result = if gone {
                Ok(SandboxReply::Done)
            } else {
                Err(ended("confirm the kill of the sandbox", effect))
            };
            self.settle(request, result);
        }
        if let Some(Pending { request, .. }) = self.checkpoint.take() {
            let result = match &end {
                SandboxEnd::Checkpointed => Ok(SandboxReply::Done),
                SandboxEnd::Failed { status, reason } => Err(Failure::Refused {
                    what: "checkpoint the sandbox",
                    status: status.clone(),
                    reason: reason.clone(),
                }),
                _ => Err(ended("confirm the checkpoint", Effect::Unknown)),
            };
            self.settle(request, result);
        }
        if let Some(Pending { request, .. }) = self.snapshot.take() {
            self.settle(
                request,
                Err(ended("confirm the filesystem snapshot", Effect::Unknown)),
            );
        }
        self.set_state(SandboxState::Ended(end.clone()));
        self.event(SandboxEvent::Ended(end));
        self.actions.push_back(SandboxAction::CloseLink);
    }
}
