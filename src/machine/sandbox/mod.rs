//! [`Sandbox`]: the state of a sandbox, and the requests that wait for answers.
//!
//! | file | concern (state, commands, messages of the server, timeouts and the end) |
//! | --- | --- |
//! | `mod.rs` | the configuration and the actions of the machine |
//! | `life.rs` | create, attach, loss of the link, deletion, the end |
//! | `kill.rs` | kill of the sandbox |
//! | `store.rs` | snapshot, checkpoint, handoff |
//! | `process.rs` | commands about a process, for both versions of the protocol |
//! | `unsupported.rs` | options of a new sandbox that the server doesn't support |
//! | `execs.rs` | the execs of protocol v2 |
//! | `v1/` | what protocol v1 lacks: exec ids, parallel execs, an answer for each request |
//! | `receive.rs` | passes each message of the server to its concern |

mod execs;
mod kill;
mod life;
mod process;
mod receive;
mod store;
#[cfg(test)]
mod tests;
mod unsupported;
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
    /// An existing sandbox.
    Attach(SandboxId, SandboxToken),
}

/// How long to wait for answers of the server.
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
    /// From an error status to its reason. Default: 1 s.
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

/// The options of a [`Sandbox`].
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Whether to create the sandbox or attach to it.
    pub mode: Mode,
    /// How long to wait for answers of the server.
    pub timeouts: Timeouts,
    /// The options of the processes.
    pub process: ProcessConfig,
    /// The prefix of the ids of this client's execs. Unique among the clients of the sandbox.
    pub exec_prefix: String,
}

/// The answer to a successful request.
#[derive(Clone, Debug, PartialEq)]
pub enum SandboxReply {
    /// The sandbox runs.
    Ready,
    /// The exec runs.
    Started(ProcessId),
    /// The request was carried out.
    Done,
}

/// An action for the owner of a [`Sandbox`] to perform.
#[derive(Clone, Debug, PartialEq)]
pub enum SandboxAction {
    /// Send a frame on the current link.
    Send(String),
    /// Answer a request.
    Settle(RequestId, Result<SandboxReply, Failure>),
    /// Report a fact to a process.
    Tell(ProcessId, ProcessFact),
    /// Pass output to a process.
    Output(ProcessId, OutputPiece),
    /// From now on, attach to this sandbox when dialling, instead of creating one.
    Resume(SandboxId, SandboxToken),
    /// Pass a command to the connection.
    Link(LinkCommand),
    /// Report an event to the subscribers.
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
    /// The newest process, of v1 or v2.
    last_process: ProcessId,
    actions: Actions,
}

impl Sandbox {
    /// Creates a sandbox that waits for its first link.
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

    /// The id and the token, or `None` if the server has not sent them.
    pub fn identity(&self) -> Option<&(SandboxId, SandboxToken)> {
        self.life.identity.as_ref()
    }

    /// The protocol version of the link or, while there is none, of the last link.
    pub fn version(&self) -> Version {
        self.life.version
    }

    /// The features of the server that last reported `SANDBOX_RUNNING` (v2).
    pub fn features(&self) -> &[String] {
        &self.life.features
    }

    /// Whether a request waits for a status, which may queue behind unread output.
    pub fn is_awaited(&self) -> bool {
        self.kill.is_awaited() || self.store.is_awaited()
    }

    /// Sets whether to report every event. If not, only the last event is reported.
    pub fn set_observed(&mut self, observed: bool) {
        self.actions.observed = observed;
    }

    /// The next action to perform.
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

    /// Handles the passage of time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_v1_timeout(now);
        self.handle_execs_timeout(now);
        // This comes before the kills, because a deletion that timed out also answers kills.
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
    /// When the request times out.
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

/// The actions of the machine, in order.
#[derive(Debug)]
struct Actions {
    queue: VecDeque<SandboxAction>,
    /// Whether to report every event.
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

    /// Settles a request with a failure, if there is one.
    fn fail(&mut self, pending: Option<Pending>, failure: Failure) {
        if let Some(Pending { request, .. }) = pending {
            self.settle(request, Err(failure));
        }
    }

    fn tell(&mut self, process: ProcessId, fact: ProcessFact) {
        self.push(SandboxAction::Tell(process, fact));
    }

    /// Tells a process that its sandbox ended, or that it was never started, so that its actor
    /// stops.
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
