//! [`Sandbox`]: a sandbox's life, and which requests wait for what.
//!
//! | file | what it has: state, commands, what the server says about it, timeouts, end |
//! | --- | --- |
//! | `mod.rs` | the configuration and the actions of the machine |
//! | `life.rs` | create, attach, the link, deletion, the end |
//! | `kill.rs` | kill of the sandbox, also of one that is abandoned |
//! | `store.rs` | snapshot, checkpoint, handoff |
//! | `process.rs` | commands about a process, for both versions of the protocol |
//! | `execs.rs` | the execs of protocol v2 |
//! | `v1/` | what protocol v1 lacks: exec ids, parallel execs, an answer for each request |
//! | `receive.rs` | messages of the server: which of the above each is for |

mod execs;
mod kill;
mod life;
mod process;
mod receive;
mod store;
#[cfg(test)]
mod tests;
mod v1;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub use process::{NewExec, Stdin};

use super::{
    Epoch, Failure, LinkCommand, LinkError, ProcessConfig, ProcessFact, ProcessId, RequestId,
    SandboxEnd, SandboxEvent, SandboxState, later,
};
use crate::protocol::{
    ClientMessage, OutputPiece, SandboxConfig as Configuration, SandboxId, SandboxToken, Version,
};

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
    /// How its processes behave.
    pub process: ProcessConfig,
    /// The beginning of the ids of this client's execs: no other client of the sandbox has the
    /// same.
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
    /// Tell a process.
    Tell(ProcessId, ProcessFact),
    /// Pass output to a process.
    Output(ProcessId, OutputPiece),
    /// From now on, dial this sandbox instead of creating one.
    Resume(SandboxId, SandboxToken),
    /// Ask the connection.
    Link(LinkCommand),
    /// Tell the subscribers.
    Event(SandboxEvent),
}

/// The state machine of a sandbox.
#[derive(Debug)]
pub struct Sandbox {
    config: SandboxConfig,
    life: life::Life,
    kill: kill::Kill,
    store: store::Store,
    execs: execs::Execs,
    v1: v1::V1,
    /// The newest process, of either version.
    last_process: ProcessId,
    actions: Actions,
}

impl Sandbox {
    /// A sandbox that waits for its first link.
    pub fn new(config: SandboxConfig) -> Self {
        Self {
            life: life::Life::new(&config.mode),
            config,
            kill: kill::Kill::default(),
            store: store::Store::default(),
            execs: execs::Execs::default(),
            v1: v1::V1::default(),
            last_process: ProcessId::default(),
            actions: Actions {
                queue: VecDeque::new(),
                observed: true,
            },
        }
    }

    /// The state of the sandbox.
    pub fn state(&self) -> &SandboxState {
        &self.life.state
    }

    /// The id and the token, once known.
    pub fn identity(&self) -> Option<&(SandboxId, SandboxToken)> {
        self.life.identity.as_ref()
    }

    /// The protocol version of the link, or of the last one while there is none.
    pub fn version(&self) -> Version {
        self.life.version
    }

    /// Whether a request waits for a status, which may stand behind unread output.
    pub fn is_awaited(&self) -> bool {
        self.kill.is_awaited() || self.store.is_awaited()
    }

    /// Whether every event is wanted. If not, only the last one is reported.
    pub fn set_observed(&mut self, observed: bool) {
        self.actions.observed = observed;
    }

    /// What to do now.
    pub fn poll_action(&mut self) -> Option<SandboxAction> {
        self.actions.queue.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.life.timeout(),
            self.kill.timeout(),
            self.store.timeout(),
            self.execs.timeout(),
            self.v1.timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_v1_timeout(now);
        self.handle_execs_timeout(now);
        // A deletion that is due answers the kills that are due, too.
        self.handle_life_timeout(now);
        self.handle_kill_timeout(now);
        self.handle_store_timeout(now);
    }

    fn require_running(&self, what: &'static str) -> Result<(), Failure> {
        match &self.life.state {
            SandboxState::Running => Ok(()),
            _ => Err(self.wrong_state(what)),
        }
    }

    fn wrong_state(&self, what: &'static str) -> Failure {
        let state = self.life.state.clone();
        Failure::WrongState { what, state }
    }
}

/// A request that waits for the server.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    /// When it is no longer waited for.
    due: Instant,
}

impl Pending {
    fn new(request: RequestId, now: Instant, timeout: Duration) -> Self {
        let due = later(now, timeout);
        Self { request, due }
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }
}

fn is_due(due: Option<Instant>, now: Instant) -> bool {
    due.is_some_and(|due| now >= due)
}

/// What the machine wants done, in order.
#[derive(Debug)]
struct Actions {
    queue: VecDeque<SandboxAction>,
    /// Whether every event is wanted.
    observed: bool,
}

impl Actions {
    fn push(&mut self, action: SandboxAction) {
        self.queue.push_back(action);
    }

    fn send(&mut self, message: &ClientMessage<'_>) {
        self.push(SandboxAction::Send(message.encode()));
    }

    fn settle(&mut self, request: RequestId, result: Result<SandboxReply, Failure>) {
        self.push(SandboxAction::Settle(request, result));
    }

    /// The request behind this failed, if a caller waits for one.
    fn fail(&mut self, pending: Option<Pending>, failure: Failure) {
        if let Some(Pending { request, .. }) = pending {
            self.settle(request, Err(failure));
        }
    }

    fn tell(&mut self, process: ProcessId, fact: ProcessFact) {
        self.push(SandboxAction::Tell(process, fact));
    }

    /// The process is over with its sandbox, or it never was: then its actor has to end.
    fn end(&mut self, process: ProcessId, end: SandboxEnd) {
        self.tell(process, ProcessFact::SandboxEnded(end));
    }

    fn link(&mut self, command: LinkCommand) {
        self.push(SandboxAction::Link(command));
    }

    fn refuse_link(&mut self, link: Option<Epoch>, cause: LinkError) {
        if let Some(epoch) = link {
            self.link(LinkCommand::Refuse(epoch, cause));
        }
    }

    fn event(&mut self, event: SandboxEvent) {
        if self.observed || matches!(event, SandboxEvent::Ended(_)) {
            self.push(SandboxAction::Event(event));
        }
    }
}
