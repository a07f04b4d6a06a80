//! [`SandboxActor`]: one sandbox. Routes messages between its callers, its connection and its
//! processes.

use std::{collections::VecDeque, rc::Rc, time::Instant};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};
use bytes::Bytes;
use litemap::LiteMap;
use tracing::Span;

use super::{
    Opened, Settings, StartKey, StartedProcess,
    connection::{ConnectionActor, ConnectionCommand, ConnectionReport},
    driver::{Driven, Driver, now},
    inbound::{InboundBatch, ProcessEvent, ProcessInput},
    owner::Owner,
    process::ProcessReport,
    processes::Processes,
    reply::Settler,
    state::StatePublisher,
    subscribers::Subscribers,
};
use crate::{
    Error, SandboxEvent,
    machine::{
        Epoch, LinkFact, OutputPolicy, ProcessAction, ProcessFact, ProcessId, RequestId, Sandbox,
        SandboxAction, SandboxConfig, SandboxState,
    },
    protocol::Encoded,
    transport::Credit,
};

/// The actor of one sandbox. Owns its state, its connection and its processes.
///
/// Answers [`Open`](super::Open), [`Exec`](super::Exec), [`KillSandbox`](super::KillSandbox),
/// [`SnapshotFilesystem`](super::SnapshotFilesystem), [`Checkpoint`](super::Checkpoint),
/// [`AttachProcess`](super::AttachProcess), [`GetState`](super::GetState),
/// [`GetVersion`](super::GetVersion), [`GetFeatures`](super::GetFeatures) and [`Subscribe`](super::Subscribe).
///
/// [`SandboxBuilder::into_actor`](crate::SandboxBuilder::into_actor) returns it. It dials as soon
/// as it is started, and lives as long as an address of it exists. When the last address is
/// dropped, the connection closes, and a sandbox that is still being created is killed.
pub struct SandboxActor {
    /// The first field, because it must be dropped first: a caller whose request fails because the
    /// actor is gone then finds the end in the state.
    pub(super) state: StatePublisher,
    pub(super) machine: Sandbox,
    /// The output policy of processes that have none of their own.
    pub(super) output: OutputPolicy,
    /// The connection's settings, until this actor starts it.
    settings: Option<Box<Settings>>,
    connection: Option<Addr<ConnectionActor>>,
    pub(super) processes: Processes,
    /// Stdin messages that the link has not written: tag, process, number.
    stdin: VecDeque<(u64, ProcessId, u64)>,
    next_tag: u64,
    pub(super) waiters: LiteMap<RequestId, Waiter>,
    pub(super) next_request: u64,
    pub(super) subscribers: Subscribers,
    /// The last event, until every process has reported its end.
    pub(super) last_event: Option<SandboxEvent>,
    orphaned: bool,
    span: Span,
    /// The address for the reports of processes. All processes share it, to save allocations.
    address: Option<Rc<dyn Owner<ProcessReport>>>,
}

/// A caller that waits for its answer.
pub(super) enum Waiter {
    Open(Settler<Result<Opened, Error>>),
    /// The key is that of a [`Start`](super::Start).
    Exec(Settler<Result<StartedProcess, Error>>, Option<StartKey>),
    Unit(Settler<Result<(), Error>>),
}

impl SandboxActor {
    pub(crate) fn new(settings: Settings) -> Self {
        let config = SandboxConfig {
            mode: settings.mode.clone(),
            timeouts: settings.timeouts,
            process: settings.process,
            exec_prefix: settings.exec_prefix.clone(),
        };
        let span = settings.span();
        let mut machine = Sandbox::new(config);
        machine.set_observed(!span.is_disabled());
        Self {
            state: StatePublisher::new(machine.state(), machine.version()),
            machine,
            span,
            output: settings.output,
            settings: Some(Box::new(settings)),
            connection: None,
            processes: Processes::default(),
            stdin: VecDeque::new(),
            next_tag: 0,
            waiters: LiteMap::new(),
            next_request: 0,
            subscribers: Subscribers::default(),
            last_event: None,
            orphaned: false,
            address: None,
        }
    }

    /// The address for the reports of processes. It doesn't keep this actor alive.
    pub(super) fn address(&mut self, ctx: &Context<Self>) -> Rc<dyn Owner<ProcessReport>> {
        let address = self
            .address
            .get_or_insert_with(|| Rc::new(ctx.address().downgrade()));
        Rc::clone(address)
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> Option<&Addr<ConnectionActor>> {
        self.connection.as_ref()
    }

    pub(super) fn run_actions(&mut self, ctx: &mut Context<Self>) {
        let mut batch = InboundBatch::default();
        self.run_actions_into(&mut batch);
        self.processes.deliver(&mut batch, None);
        self.after_actions(ctx);
    }

    /// Executes the actions of the machine. Facts and output for processes go into the batch.
    fn run_actions_into(&mut self, batch: &mut InboundBatch) {
        self.state
            .publish(self.machine.state(), self.machine.version());
        while let Some(action) = self.machine.poll_action() {
            match action {
                SandboxAction::Output(process, piece) => {
                    self.processes.turn_to(process, batch);
                    let end = piece.end();
                    batch.push_piece(piece);
                    batch.push_end(end);
                }
                SandboxAction::Tell(process, fact) => {
                    self.processes.turn_to(process, batch);
                    batch.push_fact(fact);
                }
                SandboxAction::Send(text) => self.send(text, None),
                SandboxAction::Settle(request, result) => {
                    if let Some(waiter) = self.waiters.remove(&request) {
                        self.answer(waiter, result.map_err(Error::from));
                    }
                }
                SandboxAction::Resume(id, token) => {
                    self.span.record("id", id.as_str());
                    self.command(ConnectionCommand::Resume(id, token));
                }
                SandboxAction::Link(command) => self.command(ConnectionCommand::Link(command)),
                SandboxAction::Event(event @ SandboxEvent::Ended(_)) => {
                    self.last_event = Some(event);
                }
                SandboxAction::Event(event) => self.event(&event),
            }
        }
    }

    fn after_actions(&mut self, ctx: &mut Context<Self>) {
        if self.processes.is_empty()
            && let Some(event) = self.last_event.take()
        {
            self.event(&event);
        }
        let awaited = self.machine.is_awaited() || !self.subscribers.is_empty();
        self.processes.set_awaited(awaited);
        // An empty map keeps its memory, which an idle sandbox doesn't need.
        if self.waiters.is_empty() {
            self.waiters = LiteMap::new();
        }
        let over = matches!(self.machine.state(), SandboxState::Ended(_));
        if self.orphaned && over && self.last_event.is_none() {
            ctx.stop();
        }
    }

    fn command(&self, command: ConnectionCommand) {
        if let Some(connection) = &self.connection {
            connection.do_send(command);
        }
    }

    fn send(&self, frame: impl Into<Encoded>, tag: Option<u64>) {
        let frame = frame.into();
        self.command(ConnectionCommand::Send { frame, tag });
    }

    fn frames(&mut self, epoch: Epoch, frames: &[Bytes], credit: Option<Credit>, now: Instant) {
        let mut batch = InboundBatch::of(frames.iter().map(Bytes::len).sum());
        for frame in frames {
            batch.advance(frame.len());
            if let Some((process, output)) = self.machine.handle_frame_or_output(epoch, frame, now)
            {
                self.processes.turn_to(process, &mut batch);
                let end = output.end();
                batch.push_view(output, frame);
                batch.push_end(end);
            } else {
                self.run_actions_into(&mut batch);
            }
        }
        self.processes.deliver(&mut batch, credit);
    }

    /// The link has written the messages with these tags. The last tag is the highest.
    fn written(&mut self, tags: &[u64]) {
        while let Some(&(tag, process, number)) = self.stdin.front()
            && tags.last().is_some_and(|last| tag <= *last)
        {
            self.stdin.pop_front();
            let fact = ProcessEvent::Fact(ProcessFact::StdinWritten(number));
            self.processes.tell(process, ProcessInput::one(fact));
        }
    }

    /// Executes an action of a process's machine.
    fn run_process_action(&mut self, process: ProcessId, action: ProcessAction) {
        match action {
            ProcessAction::SendKill => self.machine.kill_process(process),
            // If the link was lost, the process sends the message again on the next link.
            ProcessAction::Send(text) => {
                if self.machine.can_send(process) {
                    self.send(text, None);
                }
            }
            ProcessAction::SendStdin { number, frame } => {
                if self.machine.can_send(process) {
                    self.next_tag += 1;
                    self.stdin.push_back((self.next_tag, process, number));
                    self.send(frame, Some(self.next_tag));
                }
            }
            ProcessAction::Ended { end, stdin_unsent } => {
                self.machine.process_ended(process);
                // A process that never started has no end.
                if self.processes.has_started(process) {
                    self.event(&SandboxEvent::ProcessEnded {
                        process,
                        end,
                        stdin_unsent,
                    });
                }
            }
            ProcessAction::Settled => {
                self.processes.remove(process, true);
                self.machine.process_settled(process);
            }
            // The process's actor executes these.
            ProcessAction::Settle(..)
            | ProcessAction::StreamEnded(_)
            | ProcessAction::OutputEnded(_) => {}
        }
    }

    fn event(&mut self, event: &SandboxEvent) {
        debug_in!(self.span, ?event);
        self.subscribers.send(event);
    }
}

impl Actor for SandboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.spawn(Driver::default());
        if let Some(settings) = self.settings.take() {
            let owner = Box::new(ctx.address().downgrade());
            let connection = ConnectionActor::new(*settings, owner, self.span.clone());
            self.connection = Some(connection.start());
        }
    }
}

impl Driven for SandboxActor {
    const HAS_IO: bool = false;

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, ctx: &mut Context<Self>) {
        self.machine.handle_timeout(now);
        self.run_actions(ctx);
    }

    fn handle_orphaned(&mut self, ctx: &mut Context<Self>) {
        self.orphaned = true;
        self.machine.detach();
        self.run_actions(ctx);
    }
}

impl Handler<ConnectionReport> for SandboxActor {
    type Result = ();

    fn handle(&mut self, report: ConnectionReport, ctx: &mut Context<Self>) {
        let now = now();
        match report {
            ConnectionReport::Link(fact) => {
                if let LinkFact::Reconnecting { .. } = fact {
                    self.stdin.clear();
                }
                self.machine.handle_link(fact, now);
            }
            ConnectionReport::Frames {
                epoch,
                frames,
                credit,
            } => self.frames(epoch, &frames, credit, now),
            ConnectionReport::NotLifted(reason) => self.machine.handle_not_lifted(reason),
            ConnectionReport::Written(tags) => self.written(&tags),
            ConnectionReport::Drained(epoch) => self.command(ConnectionCommand::Heard(epoch)),
        }
        self.run_actions(ctx);
    }
}

impl Handler<ProcessReport> for SandboxActor {
    type Result = ();

    fn handle(&mut self, report: ProcessReport, ctx: &mut Context<Self>) {
        match report {
            ProcessReport::Actions(process, actions) => {
                let actions = actions.into_iter();
                actions.for_each(|action| self.run_process_action(process, action));
            }
            ProcessReport::Gone(process) => {
                self.processes.remove(process, false);
                self.machine.process_gone(process);
            }
        }
        self.run_actions(ctx);
    }
}
