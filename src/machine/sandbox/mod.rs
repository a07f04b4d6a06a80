//! [`Sandbox`]: a sandbox's life, and which requests wait for what.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | the state, and what every other file needs |
//! | `commands.rs` | what the user asks |
//! | `link.rs` | what the connection says |
//! | `facts.rs` | what the server says |
//! | `named.rs` | named execs, of protocol v2 |
//! | `queue.rs` | the exec that waits for a kill |
//! | `time.rs` | what is due |
//! | `ending.rs` | the end |

mod commands;
mod ending;
mod facts;
mod link;
mod named;
mod queue;
#[cfg(test)]
mod tests;
mod time;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Epoch, Failure, LinkError, ProcessFact, ProcessId, RequestId, SandboxEnd, SandboxEvent,
    SandboxState,
};
use crate::protocol::{
    ClientMessage, OutputPiece, Pairing, SandboxConfig as Configuration, SandboxId, SandboxToken,
    Version,
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
    /// The beginning of the ids of this client's execs: no other client of the sandbox has the same.
    pub exec_prefix: String,
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

    /// What the link speaks; while there is none, what the last one spoke.
    version: Version,
    exec_prefix: String,
    named: named::NamedExecs,
    /// The exec without a name, of v1.
    exec: Option<Exec>,
    /// The process whose output was asked for on this link, while the server has not answered.
    resuming: Option<ProcessId>,
    queued: Option<queue::Queued>,
    /// The process that a kill was sent for, until the server refuses it.
    dying: Option<ProcessId>,
    /// An exec whose answer was lost with its link: what it may have started is killed after the outage.
    lost_start: Option<ProcessId>,
    /// The kill of that process, once it is sent.
    leftover: Option<queue::LeftoverKill>,
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
    /// Snapshots that timed out, or whose link was lost; their answers may still come, before the
    /// server begins with the next.
    snapshots_late: u32,
    /// The server was asked by another client to give the sandbox away.
    handing_off: bool,
    /// The server began to delete the sandbox.
    deleting: bool,
    /// Nobody is left to use the sandbox once it is created: kill it then.
    abandoned: bool,
    /// Somebody wants to know of every event.
    observed: bool,

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
            version: Version::V1,
            exec_prefix: config.exec_prefix,
            named: named::NamedExecs::default(),
            exec: None,
            resuming: None,
            queued: None,
            dying: None,
            lost_start: None,
            leftover: None,
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
            deleting: false,
            abandoned: false,
            observed: true,
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

    /// What the link speaks; while there is none, what the last one spoke.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The process that occupies the sandbox, in v1.
    pub fn process(&self) -> Option<ProcessId> {
        self.exec.as_ref().map(|exec| exec.process)
    }

    /// Whether a request waits for a status, which may stand behind unread output.
    pub fn is_awaited(&self) -> bool {
        !self.kills.is_empty() || self.checkpoint.is_some() || self.snapshot.is_some()
    }

    /// What to do now.
    pub fn poll_action(&mut self) -> Option<SandboxAction> {
        self.actions.pop_front()
    }

    pub(super) fn settle(&mut self, request: RequestId, result: Result<SandboxReply, Failure>) {
        self.actions
            .push_back(SandboxAction::Settle(request, result));
    }

    /// Whether somebody wants to know of every event; else there are none but the last.
    pub fn set_observed(&mut self, observed: bool) {
        self.observed = observed;
    }

    pub(super) fn event(&mut self, event: SandboxEvent) {
        if self.observed || matches!(event, SandboxEvent::Ended(_)) {
            self.actions.push_back(SandboxAction::Event(event));
        }
    }

    pub(super) fn send(&mut self, message: &ClientMessage<'_>) {
        self.actions
            .push_back(SandboxAction::Send(message.encode()));
    }

    pub(super) fn set_state(&mut self, state: SandboxState) {
        if self.state != state {
            self.state = state.clone();
            self.event(SandboxEvent::State(state));
        }
    }

    pub(super) fn require_running(&self, what: &'static str) -> Result<(), Failure> {
        match &self.state {
            SandboxState::Running => Ok(()),
            state => Err(Failure::WrongState {
                what,
                state: state.clone(),
            }),
        }
    }

    pub(super) fn checkpointed(&self) -> SandboxEnd {
        if self.handing_off {
            SandboxEnd::HandedOff
        } else {
            SandboxEnd::Checkpointed
        }
    }

    /// `DELETED` came, and nothing after it. That is the word for a kill, and none for a checkpoint.
    pub(super) fn end_after_deleted(&self) -> SandboxEnd {
        match self.state {
            SandboxState::Killing => SandboxEnd::Killed,
            SandboxState::Checkpointing if self.handing_off => SandboxEnd::HandedOff,
            _ => self.deleted(),
        }
    }

    /// The server deleted the sandbox. Of a checkpoint of an idle sandbox its client hears no more
    /// than that.
    pub(super) fn deleted(&self) -> SandboxEnd {
        match &self.mode {
            Mode::Create(it) if !it.enable_idle_timeout_auto_checkpoint => SandboxEnd::Deleted,
            _ => SandboxEnd::MaybeCheckpointed,
        }
    }

    /// A text of the server's without the token of the sandbox, wherever it repeats it.
    pub(super) fn redact(&self, text: String) -> String {
        match &self.identity {
            Some((_, token)) => token.redact(text),
            None => text,
        }
    }
}
