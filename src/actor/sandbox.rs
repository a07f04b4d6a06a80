//! [`SandboxActor`]: one sandbox. Routes between its callers, its connection and its processes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, MessageResult, WeakAddr,
};
use bytes::Bytes;
use tracing::Span;

use super::{
    AttachProcess, Checkpoint, Exec, GetState, GetVersion, KillSandbox, Open, Opened, ProcessPlace,
    Settings, SnapshotFilesystem, Start, StartKey, StartedProcess, Subscribe, Unclaimed,
    connection::{ConnectionActor, ConnectionCommand, ConnectionReport},
    driver::{Driven, Driver, now},
    inbound::InboundBatch,
    process::{KillInBackground, ProcessEvent, ProcessInput, ProcessReport},
    processes::Processes,
    random::random_bits,
    reply::{Deferred, Settler, Undelivered, deferred},
    subscribers::Subscribers,
};
use crate::{
    Error, SandboxEvent,
    machine::{
        Epoch, LinkFact, NewExec, Nonce, ProcessFact, ProcessId, RequestId, Sandbox, SandboxAction,
        SandboxConfig, SandboxReply, SandboxState,
    },
    transport::Credit,
};

enum Waiter {
    Open(Settler<Result<Opened, Error>>),
    Exec(Settler<Result<StartedProcess, Error>>),
    Start(
        Settler<Result<Unclaimed, Error>>,
        WeakAddr<SandboxActor>,
        StartKey,
    ),
    Unit(Settler<Result<(), Error>>),
}

/// Owns the life of one sandbox.
///
/// Answers [`Open`], [`Exec`], [`KillSandbox`], [`SnapshotFilesystem`], [`Checkpoint`], [`GetState`] and
/// [`Subscribe`]. It is made by [`SandboxBuilder::into_actor`](crate::SandboxBuilder::into_actor), and
/// dials as soon as it is started. It lives as long as an address of it: with the last one the
/// connection is closed, and a sandbox that is still being created is killed.
pub struct SandboxActor {
    machine: Sandbox,
    settings: Settings,
    connection: Option<Addr<ConnectionActor>>,
    processes: Processes,
    /// Stdin messages on their way to the link: tag, process, number.
    stdin: VecDeque<(u64, ProcessId, u64)>,
    next_tag: u64,
    waiters: BTreeMap<RequestId, Waiter>,
    next_request: u64,
    subscribers: Subscribers,
    /// The last event, while processes that end with the sandbox have not said so.
    last_event: Option<SandboxEvent>,
    orphaned: bool,
    span: Span,
    /// Of this actor. To create one for each process would cost more.
    address: Option<WeakAddr<SandboxActor>>,
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
            machine,
            span,
            settings,
            connection: None,
            processes: Processes::default(),
            stdin: VecDeque::new(),
            next_tag: 0,
            waiters: BTreeMap::new(),
            next_request: 0,
            subscribers: Subscribers::default(),
            last_event: None,
            orphaned: false,
            address: None,
        }
    }

    fn address(&mut self, ctx: &Context<Self>) -> WeakAddr<Self> {
        let address = &mut self.address;
        let address = address.get_or_insert_with(|| ctx.address().downgrade());
        address.clone()
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> Option<&Addr<ConnectionActor>> {
        self.connection.as_ref()
    }

    fn request(&mut self, waiter: Waiter) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.waiters.insert(request, waiter);
        request
    }

    fn unit(
        &mut self,
        ctx: &mut Context<Self>,
        ask: impl FnOnce(&mut Sandbox, RequestId),
    ) -> Deferred<Result<(), Error>> {
        let (settler, answer) = deferred();
        let request = self.request(Waiter::Unit(settler));
        ask(&mut self.machine, request);
        self.run_actions(ctx);
        answer
    }

    fn run_actions(&mut self, ctx: &mut Context<Self>) {
        let mut batch = InboundBatch::default();
        self.run_actions_into(&mut batch);
        self.processes.deliver(&mut batch, None);
        self.after_actions(ctx);
    }

    /// Carries out what the machine wants; what is for processes is only gathered.
    fn run_actions_into(&mut self, batch: &mut InboundBatch) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                SandboxAction::Output(process, piece) => {
                    self.processes.turn_to(process, batch);
                    batch.push_piece(piece);
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
        // An empty map keeps its memory, which an idle sandbox does not need.
        if self.waiters.is_empty() {
            self.waiters.clear();
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

    fn send(&self, text: String, tag: Option<u64>) {
        self.command(ConnectionCommand::Send { text, tag });
    }

    fn frames(&mut self, epoch: Epoch, frames: &[Bytes], credit: Credit, now: Instant) {
        let mut batch = InboundBatch::of(frames.iter().map(Bytes::len).sum());
        for frame in frames {
            batch.advance(frame.len());
            if let Some((process, output)) = self.machine.handle_frame_or_output(epoch, frame, now)
            {
                self.processes.turn_to(process, &mut batch);
                batch.push_view(output, frame);
            } else {
                self.run_actions_into(&mut batch);
            }
        }
        self.processes.deliver(&mut batch, Some(credit));
    }

    /// The link took the messages with these tags, the last of them the highest.
    fn written(&mut self, tags: &[u64]) {
        while let Some(&(tag, process, number)) = self.stdin.front()
            && tags.last().is_some_and(|last| tag <= *last)
        {
            self.stdin.pop_front();
            let fact = ProcessEvent::Fact(ProcessFact::StdinWritten(number));
            self.processes.tell(process, ProcessInput::one(fact));
        }
    }

    /// A process asks for something, or reports something.
    fn handle_report(&mut self, report: ProcessReport) {
        match report {
            ProcessReport::Kill(process) => self.machine.kill_process(process),
            // If the link is lost meanwhile, the process sends the message again on the next.
            ProcessReport::Send(process, text) => {
                if self.machine.can_send(process) {
                    self.send(text, None);
                }
            }
            ProcessReport::Stdin {
                process,
                number,
                text,
            } => {
                if self.machine.can_send(process) {
                    self.next_tag += 1;
                    self.stdin.push_back((self.next_tag, process, number));
                    self.send(text, Some(self.next_tag));
                }
            }
            ProcessReport::Ended {
                process,
                end,
                stdin_unsent,
            } => {
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
            ProcessReport::Settled(process) => {
                self.processes.remove(process, true);
                self.machine.process_settled(process);
            }
            ProcessReport::Gone(process) => {
                self.processes.remove(process, false);
                self.machine.process_gone(process);
            }
            ProcessReport::Several(reports) => {
                reports
                    .into_iter()
                    .for_each(|report| self.handle_report(report));
            }
        }
    }

    fn event(&mut self, event: &SandboxEvent) {
        debug_in!(self.span, ?event);
        self.subscribers.send(event);
    }

    /// Answers a caller. One that stopped waiting is no error, but leaves its process behind.
    fn answer(&mut self, waiter: Waiter, result: Result<SandboxReply, Error>) {
        match waiter {
            Waiter::Open(settler) => {
                let opened = result.and_then(|_| match self.machine.identity().cloned() {
                    Some((sandbox_id, sandbox_token)) => Ok(Opened {
                        sandbox_id,
                        sandbox_token,
                    }),
                    None => Err(Error::actor_gone("open the sandbox")),
                });
                let _ = settler.settle(opened);
            }
            Waiter::Exec(settler) => {
                let started = result.and_then(|reply| self.started(&reply));
                if let Err(Undelivered(Ok(started))) = settler.settle(started) {
                    self.machine.abandon_process(started.process);
                }
            }
            Waiter::Start(settler, sandbox, _) => {
                let started = result.and_then(|reply| self.started(&reply));
                let unclaimed = started.map(|started| Unclaimed::new(started, sandbox));
                if let Err(Undelivered(Ok(unclaimed))) = settler.settle(unclaimed)
                    && let Some(started) = unclaimed.claim()
                {
                    self.machine.abandon_process(started.process);
                }
            }
            Waiter::Unit(settler) => {
                let _ = settler.settle(result.map(drop));
            }
        }
    }

    fn started(&mut self, reply: &SandboxReply) -> Result<StartedProcess, Error> {
        match *reply {
            SandboxReply::Started(process) => self.processes.started(process),
            _ => Err(Error::actor_gone("run code")),
        }
    }

    fn exec(&mut self, exec: Exec, waiter: Waiter, ctx: &mut Context<Self>) {
        let nonce = exec.wrap_for_v1.then(random_bits).transpose();
        let nonce = match nonce.map_err(|error| Error::random(&error)) {
            Ok(bits) => bits.map(Nonce::new),
            Err(error) => return self.answer(waiter, Err(error)),
        };
        let request = self.request(waiter);
        let policy = exec.output.unwrap_or(self.settings.output);
        let mut options = exec.options;
        options.window = Some(policy.window());
        let exec = NewExec {
            language: exec.language.as_str(),
            code: &exec.code,
            options,
            stdin: exec.stdin,
            wrapper: nonce,
        };
        if let Some(process) = self.machine.exec(request, exec, now()) {
            let sandbox = self.address(ctx);
            self.processes.spawn(process, policy, sandbox);
        }
        self.run_actions(ctx);
    }
}

impl Actor for SandboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.spawn(Driver::default());
        let owner = ctx.address().downgrade().recipient();
        let connection = ConnectionActor::new(&self.settings, owner, self.span.clone());
        self.connection = Some(connection.start());
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
            ConnectionReport::Written(tags) => self.written(&tags),
            ConnectionReport::Drained(epoch) => self.command(ConnectionCommand::Heard(epoch)),
        }
        self.run_actions(ctx);
    }
}

impl Handler<ProcessReport> for SandboxActor {
    type Result = ();

    fn handle(&mut self, report: ProcessReport, ctx: &mut Context<Self>) {
        self.handle_report(report);
        self.run_actions(ctx);
    }
}

impl Handler<Open> for SandboxActor {
    type Result = Deferred<Result<Opened, Error>>;

    fn handle(&mut self, _: Open, ctx: &mut Context<Self>) -> Self::Result {
        let (settler, answer) = deferred();
        let request = self.request(Waiter::Open(settler));
        self.machine.open(request);
        self.run_actions(ctx);
        answer
    }
}

impl Handler<Exec> for SandboxActor {
    type Result = Deferred<Result<StartedProcess, Error>>;

    fn handle(&mut self, exec: Exec, ctx: &mut Context<Self>) -> Self::Result {
        let (settler, answer) = deferred();
        self.exec(exec, Waiter::Exec(settler), ctx);
        answer
    }
}

impl Handler<Start> for SandboxActor {
    type Result = Deferred<Result<Unclaimed, Error>>;

    fn handle(&mut self, Start(exec, key): Start, ctx: &mut Context<Self>) -> Self::Result {
        let (settler, answer) = deferred();
        let waiter = Waiter::Start(settler, self.address(ctx), key);
        self.exec(exec, waiter, ctx);
        answer
    }
}

impl Handler<AttachProcess> for SandboxActor {
    type Result = Result<StartedProcess, Error>;

    fn handle(&mut self, attach: AttachProcess, ctx: &mut Context<Self>) -> Self::Result {
        let ProcessPlace {
            exec,
            offsets,
            window,
        } = attach.place;
        let (process, machine) = self.machine.adopt(exec, window, offsets)?;
        let policy = attach.output.unwrap_or(self.settings.output);
        let sandbox = self.address(ctx);
        self.processes.spawn((process, machine), policy, sandbox);
        let started = self.processes.started(process);
        self.run_actions(ctx);
        started
    }
}

/// The caller of a start stopped waiting.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CancelStart(pub(super) StartKey);

impl Handler<CancelStart> for SandboxActor {
    type Result = ();

    fn handle(&mut self, CancelStart(key): CancelStart, ctx: &mut Context<Self>) {
        let waits = |it: &Waiter| matches!(it, Waiter::Start(_, _, waiting) if *waiting == key);
        let mut waiters = self.waiters.iter();
        let request = waiters.find_map(|(&request, waiter)| waits(waiter).then_some(request));
        if let Some(request) = request {
            self.machine.cancel_exec(request);
            self.run_actions(ctx);
        }
    }
}

/// The last handle of a process was dropped, and the process is to be killed with it.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct KillProcess(pub(super) ProcessId);

impl Handler<KillProcess> for SandboxActor {
    type Result = ();

    fn handle(&mut self, KillProcess(process): KillProcess, ctx: &mut Context<Self>) {
        if let Some(actor) = self.processes.actor(process) {
            self.machine.expect_kill(process);
            // With an address of this actor: the kill is sent before the connection is closed.
            actor.do_send(KillInBackground(ctx.address()));
        }
    }
}

/// No handle to the sandbox is left, or ever was: it is to be killed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Abandon;

impl Handler<Abandon> for SandboxActor {
    type Result = ();

    fn handle(&mut self, _: Abandon, ctx: &mut Context<Self>) {
        self.machine.abandon(now());
        self.run_actions(ctx);
    }
}

impl Handler<KillSandbox> for SandboxActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, _: KillSandbox, ctx: &mut Context<Self>) -> Self::Result {
        self.unit(ctx, |machine, request| machine.kill(request, now()))
    }
}

impl Handler<SnapshotFilesystem> for SandboxActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, snapshot: SnapshotFilesystem, ctx: &mut Context<Self>) -> Self::Result {
        self.unit(ctx, |machine, request| {
            machine.snapshot_filesystem(request, &snapshot.name, now())
        })
    }
}

impl Handler<Checkpoint> for SandboxActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, _: Checkpoint, ctx: &mut Context<Self>) -> Self::Result {
        self.unit(ctx, |machine, request| machine.checkpoint(request, now()))
    }
}

impl Handler<GetState> for SandboxActor {
    type Result = MessageResult<GetState>;

    fn handle(&mut self, _: GetState, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.machine.state().clone())
    }
}

impl Handler<GetVersion> for SandboxActor {
    type Result = MessageResult<GetVersion>;

    fn handle(&mut self, _: GetVersion, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.machine.version())
    }
}

impl Handler<Subscribe> for SandboxActor {
    type Result = ();

    fn handle(&mut self, Subscribe(recipient): Subscribe, ctx: &mut Context<Self>) {
        self.subscribers.add(recipient);
        self.machine.set_observed(true);
        self.run_actions(ctx);
    }
}
