//! [`SandboxActor`]: one sandbox. Routes between its users, its connection and its processes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, WeakAddr};
use bytes::Bytes;
use tracing::Span;

use super::{
    AttachProcess, Checkpoint, ConnectionActor, ConnectionCommand, ConnectionReport, Exec,
    GetState, GetVersion, KillSandbox, Open, Opened, ProcessActor, ProcessPlace, Settings,
    SnapshotFilesystem, Start, StartKey, StartedProcess, Stdin, Subscribe, Unclaimed,
    driver::{Driven, Driver, now},
    outgoing::Outgoing,
    output::ProcessOutput,
    process::{KillUnheld, NewProcess, ProcessEvent, ProcessInput, ProcessReport},
    random::random_bits,
    reply::{Deferred, Settler, Undelivered, deferred},
    state::StatePublisher,
    subscribers::{Sink, Subscribers},
};
use crate::{
    Error, SandboxEvent,
    machine::{
        Epoch, Failure, LinkError, Nonce, OutputPolicy, Process, ProcessFact, ProcessId, RequestId,
        Sandbox, SandboxAction, SandboxConfig, SandboxEnd, SandboxReply, SandboxState, wrap,
    },
    protocol::{ExecOptions, Version},
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

/// A process about which something may still be said.
struct ProcessLink {
    actor: Addr<ProcessActor>,
    /// For the caller, once the server said that it runs.
    output: Option<ProcessOutput>,
    /// It has heard everything.
    settled: bool,
}

impl Drop for ProcessLink {
    /// The sandbox's actor is gone.
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let end = SandboxEnd::LinkLost {
            cause: LinkError::ActorGone,
            attempts: 0,
        };
        let fact = ProcessEvent::Fact(ProcessFact::SandboxEnded(end));
        self.actor.do_send(ProcessInput::one(fact));
    }
}

/// Owns the life of one sandbox.
///
/// Answers [`Open`], [`Exec`], [`KillSandbox`], [`SnapshotFilesystem`], [`Checkpoint`], [`GetState`] and
/// [`Subscribe`]. It is made by [`SandboxBuilder::into_actor`](crate::SandboxBuilder::into_actor), and
/// dials as soon as it is started. It lives as long as an address of it: with the last one the
/// connection is closed, and a sandbox that is still being created is killed.
pub struct SandboxActor {
    /// Goes first, so that a caller whose request fails by it reads the end in the state.
    state: StatePublisher,
    machine: Sandbox,
    settings: Settings,
    connection: Option<Addr<ConnectionActor>>,
    processes: BTreeMap<ProcessId, ProcessLink>,
    /// Stdin messages on their way to the link: tag, process, number.
    stdin: VecDeque<(u64, ProcessId, u64)>,
    next_tag: u64,
    waiters: BTreeMap<RequestId, Waiter>,
    next_request: u64,
    subscribers: Subscribers,
    /// The last event, while processes that end with the sandbox have not said so.
    last_event: Option<SandboxEvent>,
    awaited: bool,
    orphaned: bool,
    span: Span,
    /// Of this actor. To make one anew for each process would cost more.
    address: Option<WeakAddr<SandboxActor>>,
}

impl SandboxActor {
    pub(crate) fn new(settings: Settings) -> Self {
        let config = SandboxConfig {
            mode: settings.mode.clone(),
            timeouts: settings.timeouts,
            exec_prefix: settings.exec_prefix.clone(),
        };
        let span = settings.span();
        let mut machine = Sandbox::new(config);
        machine.set_observed(!span.is_disabled());
        Self {
            state: StatePublisher::new(machine.state(), machine.version()),
            machine,
            span,
            settings,
            connection: None,
            processes: BTreeMap::new(),
            stdin: VecDeque::new(),
            next_tag: 0,
            waiters: BTreeMap::new(),
            next_request: 0,
            subscribers: Subscribers::default(),
            last_event: None,
            awaited: false,
            orphaned: false,
            address: None,
        }
    }

    fn address(&mut self, ctx: &Context<Self>) -> WeakAddr<Self> {
        let address = self
            .address
            .get_or_insert_with(|| ctx.address().downgrade());
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
        let mut outgoing = Outgoing::default();
        self.run_actions_into(&mut outgoing);
        self.deliver(&mut outgoing, None);
        self.after_actions(ctx);
    }

    /// Carries out what the machine wants; what is for processes is only gathered.
    fn run_actions_into(&mut self, outgoing: &mut Outgoing) {
        self.state
            .publish(self.machine.state(), self.machine.version());
        while let Some(action) = self.machine.poll_action() {
            match action {
                SandboxAction::Output(process, piece) => {
                    self.turn_to(process, outgoing);
                    outgoing.push_piece(piece);
                }
                SandboxAction::Tell(process, fact) => {
                    self.turn_to(process, outgoing);
                    outgoing.push_fact(fact);
                }
                SandboxAction::Send(text) => {
                    self.command(ConnectionCommand::Send { text, tag: None })
                }
                SandboxAction::Settle(request, result) => self.settle(request, result),
                SandboxAction::Resume(id, token) => {
                    self.span.record("id", id.as_str());
                    self.command(ConnectionCommand::Resume(id, token));
                }
                SandboxAction::ConfirmLink(epoch) => {
                    self.command(ConnectionCommand::Confirm(epoch))
                }
                SandboxAction::Disarm => self.command(ConnectionCommand::Disarm),
                SandboxAction::RefuseLink(epoch, cause) => {
                    self.command(ConnectionCommand::Refuse(epoch, cause))
                }
                SandboxAction::CloseLink => self.command(ConnectionCommand::Close),
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
        if awaited != self.awaited {
            self.awaited = awaited;
            for process in self.processes.values() {
                let event = ProcessEvent::Awaited(awaited);
                process.actor.do_send(ProcessInput::one(event));
            }
        }
        // An empty map keeps its memory, and most sandboxes do nothing most of the time.
        if self.processes.is_empty() {
            self.processes.clear();
        }
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

    fn tell(&self, process: ProcessId, input: ProcessInput) {
        if let Some(process) = self.processes.get(&process) {
            process.actor.do_send(input);
        }
    }

    fn deliver(&self, outgoing: &mut Outgoing, credit: Option<Credit>) {
        let events = outgoing.take();
        if !events.is_empty() || credit.is_some() {
            self.tell(outgoing.process(), ProcessInput { events, credit });
        }
    }

    /// What comes is for this process.
    fn turn_to(&self, process: ProcessId, outgoing: &mut Outgoing) {
        if outgoing.process() != process {
            self.deliver(outgoing, None);
            outgoing.begin(process);
        }
    }

    fn frames(&mut self, epoch: Epoch, frames: &[Bytes], credit: Credit, now: Instant) {
        let mut outgoing = Outgoing::of(frames.iter().map(Bytes::len).sum());
        for frame in frames {
            outgoing.advance(frame.len());
            if let Some((process, output)) = self.machine.handle_frame_or_output(epoch, frame, now)
            {
                self.turn_to(process, &mut outgoing);
                outgoing.push_view(output, frame);
            } else {
                self.run_actions_into(&mut outgoing);
            }
        }
        // The process keeps the credit for as long as it has no room.
        self.deliver(&mut outgoing, Some(credit));
    }

    /// What a process asks, or lets know.
    fn heard(&mut self, report: ProcessReport) {
        match report {
            ProcessReport::Kill(process) => self.machine.kill_process(process),
            ProcessReport::Send(process, text) => {
                // Where the link went meanwhile, the process makes it good on the next.
                if self.machine.can_send(process) {
                    self.command(ConnectionCommand::Send { text, tag: None });
                }
            }
            ProcessReport::Stdin {
                process,
                number,
                text,
            } => {
                // Where the link went meanwhile, the process learns of that and sends it again.
                if self.machine.can_send_stdin(process) || self.machine.can_send(process) {
                    self.next_tag += 1;
                    self.stdin.push_back((self.next_tag, process, number));
                    self.command(ConnectionCommand::Send {
                        text,
                        tag: Some(self.next_tag),
                    });
                }
            }
            ProcessReport::Ended {
                process,
                end,
                stdin_unsent,
            } => {
                self.machine.process_ended(process);
                // One that never started has no end, either.
                let link = self.processes.get(&process);
                if link.is_some_and(|link| link.output.is_none()) {
                    self.event(&SandboxEvent::ProcessEnded {
                        process,
                        end,
                        stdin_unsent,
                    });
                }
            }
            ProcessReport::Settled(process) => {
                if let Some(mut link) = self.processes.remove(&process) {
                    link.settled = true;
                }
                self.machine.settle_named(process);
            }
            ProcessReport::Gone(process) => {
                self.processes.remove(&process);
                self.machine.abandon(process);
                self.machine.bury(process);
            }
            ProcessReport::Several(reports) => {
                reports.into_iter().for_each(|report| self.heard(report));
            }
        }
    }

    fn event(&mut self, event: &SandboxEvent) {
        debug_in!(self.span, ?event);
        self.subscribers.send(event);
    }

    fn settle(&mut self, request: RequestId, result: Result<SandboxReply, Failure>) {
        let Some(waiter) = self.waiters.remove(&request) else {
            return;
        };
        // A caller that stopped waiting is no error, but for what it leaves behind.
        match waiter {
            Waiter::Open(settler) => {
                let opened =
                    result
                        .map_err(Error::from)
                        .and_then(|_| match self.machine.identity() {
                            Some((id, token)) => Ok(Opened {
                                sandbox_id: id.clone(),
                                sandbox_token: token.clone(),
                                state: self.state.reader(),
                            }),
                            None => Err(Error::actor_gone("open the sandbox")),
                        });
                let _ = settler.settle(opened);
            }
            Waiter::Exec(settler) => {
                let started = result
                    .map_err(Error::from)
                    .and_then(|reply| self.started(&reply));
                if let Err(Undelivered(Ok(started))) = settler.settle(started) {
                    // Nobody has a handle to it, and nobody can get one.
                    self.machine.abandon(started.process);
                }
            }
            Waiter::Start(settler, sandbox, _) => {
                let started = result
                    .map_err(Error::from)
                    .and_then(|reply| self.started(&reply))
                    .map(|started| Unclaimed::new(started, sandbox));
                if let Err(Undelivered(Ok(unclaimed))) = settler.settle(started)
                    && let Some(started) = unclaimed.claim()
                {
                    self.machine.abandon(started.process);
                }
            }
            Waiter::Unit(settler) => {
                let _ = settler.settle(result.map(drop).map_err(Error::from));
            }
        }
    }

    fn exec(&mut self, exec: Exec, waiter: Waiter, ctx: &mut Context<Self>) {
        let request = self.request(waiter);
        let policy = exec.output.unwrap_or(self.settings.output);
        let mut options = exec.options;
        let window = policy.window();
        options.window = Some(window);
        options.input_ends = matches!(exec.stdin, Stdin::Bytes(_));
        let language = exec.language.as_str();
        let mut code = exec.code;
        let mut wrapped = None;
        if exec.wrap_for_v1 && self.machine.version() == Version::V1 {
            let nonce = match random_bits() {
                Ok(bits) => Nonce::new(bits),
                Err(error) => return self.refuse_exec(request, Error::random(&error)),
            };
            match wrap(language, &code, &options, &nonce) {
                Ok(program) => {
                    code = program;
                    options = ExecOptions::default();
                    wrapped = Some(nonce);
                }
                Err(feature) => {
                    self.machine.refuse_exec(request, feature);
                    return self.run_actions(ctx);
                }
            }
        }
        let run = self.machine.exec(request, language, &code, &options, now());
        let exec_stdin = exec.stdin;
        if let Some((process, exec)) = run {
            let config = self.settings.process;
            let machine = match exec {
                Some(exec) => {
                    let mut machine = Process::named(config, exec, window);
                    match exec_stdin {
                        Stdin::Open => {}
                        Stdin::Null => machine.give_input(&[]),
                        Stdin::Bytes(input) => machine.give_input(&input),
                    }
                    machine
                }
                None => match wrapped {
                    Some(nonce) => Process::wrapped(config, &nonce),
                    None => Process::new(config),
                },
            };
            self.spawn_process(process, machine, policy, ctx);
        }
        self.run_actions(ctx);
    }

    /// Refuses an exec for a reason of this machine's.
    fn refuse_exec(&mut self, request: RequestId, error: Error) {
        match self.waiters.remove(&request) {
            Some(Waiter::Exec(settler)) => drop(settler.settle(Err(error))),
            Some(Waiter::Start(settler, ..)) => drop(settler.settle(Err(error))),
            _ => {}
        }
    }

    fn spawn_process(
        &mut self,
        process: ProcessId,
        machine: Process,
        policy: OutputPolicy,
        ctx: &mut Context<Self>,
    ) {
        let (actor, output) = ProcessActor::spawn(NewProcess {
            process,
            machine: Box::new(machine),
            policy,
            sandbox: self.address(ctx),
            sandbox_awaited: self.awaited,
        });
        let link = ProcessLink {
            actor,
            output: Some(output),
            settled: false,
        };
        self.processes.insert(process, link);
    }

    fn started(&mut self, reply: &SandboxReply) -> Result<StartedProcess, Error> {
        let SandboxReply::Started(process) = *reply else {
            return Err(Error::actor_gone("run code"));
        };
        let link = self.processes.get_mut(&process);
        let (actor, output) = link
            .and_then(|link| Some((link.actor.clone(), link.output.take()?)))
            .ok_or_else(|| Error::actor_gone("run code"))?;
        Ok(StartedProcess {
            process,
            actor,
            output,
        })
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
            ConnectionReport::Opened(epoch, version) => {
                self.machine.handle_opened(epoch, version, now)
            }
            ConnectionReport::Frames {
                epoch,
                frames,
                credit,
            } => self.frames(epoch, &frames, credit, now),
            ConnectionReport::Written { tags, .. } => {
                for tag in tags {
                    while let Some(&(front, process, number)) = self.stdin.front()
                        && front <= tag
                    {
                        self.stdin.pop_front();
                        let fact = ProcessEvent::Fact(ProcessFact::StdinWritten(number));
                        self.tell(process, ProcessInput::one(fact));
                    }
                }
            }
            ConnectionReport::Drained(epoch) => self.command(ConnectionCommand::Heard(epoch)),
            ConnectionReport::Reconnecting {
                attempt,
                delay,
                cause,
            } => {
                self.stdin.clear();
                self.machine.handle_reconnecting(attempt, delay, cause, now);
            }
            ConnectionReport::Lost { cause, attempts } => {
                self.machine.handle_lost(cause, attempts, now)
            }
            ConnectionReport::Closed => self.machine.handle_closed(now),
        }
        self.run_actions(ctx);
    }
}

impl Handler<ProcessReport> for SandboxActor {
    type Result = ();

    fn handle(&mut self, report: ProcessReport, ctx: &mut Context<Self>) {
        self.heard(report);
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
        let process = self.machine.adopt(exec.clone())?;
        let machine = Process::adopted(self.settings.process, exec, window, offsets);
        self.spawn_process(process, machine, self.settings.output, ctx);
        let started = self.started(&SandboxReply::Started(process));
        self.run_actions(ctx);
        started
    }
}

/// Nobody waits for a start any more.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct CancelStart(pub(super) StartKey);

impl Handler<CancelStart> for SandboxActor {
    type Result = ();

    fn handle(&mut self, CancelStart(key): CancelStart, ctx: &mut Context<Self>) {
        let waits =
            |waiter: &Waiter| matches!(waiter, Waiter::Start(_, _, waiting) if *waiting == key);
        let request = self
            .waiters
            .iter()
            .find(|(_, waiter)| waits(waiter))
            .map(|(&request, _)| request);
        if let Some(request) = request {
            self.machine.cancel_exec(request);
            self.run_actions(ctx);
        }
    }
}

/// The last handle of a process that is to be killed with it was dropped.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct Unheld(pub(super) ProcessId);

impl Handler<Unheld> for SandboxActor {
    type Result = ();

    fn handle(&mut self, Unheld(process): Unheld, ctx: &mut Context<Self>) {
        if let Some(link) = self.processes.get(&process) {
            self.machine.expect_kill(process);
            // With an address of this actor: the kill goes out before the connection is closed.
            link.actor.do_send(KillUnheld(ctx.address()));
        }
    }
}

/// No handle to the sandbox is left, or ever was: it is to be killed.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct Discard;

impl Handler<Discard> for SandboxActor {
    type Result = ();

    fn handle(&mut self, _: Discard, ctx: &mut Context<Self>) {
        self.machine.discard(now());
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
    type Result = actix::MessageResult<GetState>;

    fn handle(&mut self, _: GetState, _: &mut Context<Self>) -> Self::Result {
        actix::MessageResult(self.machine.state().clone())
    }
}

impl Handler<GetVersion> for SandboxActor {
    type Result = actix::MessageResult<GetVersion>;

    fn handle(&mut self, _: GetVersion, _: &mut Context<Self>) -> Self::Result {
        actix::MessageResult(self.machine.version())
    }
}

impl Handler<Subscribe> for SandboxActor {
    type Result = ();

    fn handle(&mut self, Subscribe(recipient): Subscribe, ctx: &mut Context<Self>) {
        self.handle(AddSubscriber(Sink::Actor(recipient)), ctx);
    }
}

/// A subscriber of any kind.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct AddSubscriber(pub(super) Sink);

impl Handler<AddSubscriber> for SandboxActor {
    type Result = ();

    fn handle(&mut self, AddSubscriber(sink): AddSubscriber, ctx: &mut Context<Self>) {
        self.subscribers.add(sink);
        self.machine.set_observed(true);
        if let (SandboxState::Ended(end), None) = (self.machine.state(), &self.last_event) {
            // The others have heard of it.
            self.subscribers.send(&SandboxEvent::Ended(end.clone()));
        }
        self.run_actions(ctx);
    }
}
