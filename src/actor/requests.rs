//! What callers ask of a [`SandboxActor`], and how they are answered.

use actix::{AsyncContext, Context, Handler, Message, MessageResult, WeakAddr};

use super::{
    AttachProcess, Checkpoint, Exec, GetState, GetVersion, KillSandbox, Open, Opened, ProcessPlace,
    SandboxActor, SnapshotFilesystem, Start, StartKey, StartedProcess, Subscribe, Unclaimed,
    driver::now,
    process::KillInBackground,
    random::random_bits,
    reply::{Deferred, Settler, Undelivered, deferred},
    subscribers::Sink,
};
use crate::{
    Error, SandboxEvent,
    machine::{
        NewExec, Nonce, Overflow, ProcessId, RequestId, Sandbox, SandboxReply, SandboxState,
    },
};

/// A caller that waits for its answer.
pub(super) enum Waiter {
    Open(Settler<Result<Opened, Error>>),
    Exec(Settler<Result<StartedProcess, Error>>),
    Start(
        Settler<Result<Unclaimed, Error>>,
        WeakAddr<SandboxActor>,
        StartKey,
    ),
    Unit(Settler<Result<(), Error>>),
}

impl SandboxActor {
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

    /// Answers a caller. One that stopped waiting is no error, but leaves its process behind.
    pub(super) fn answer(&mut self, waiter: Waiter, result: Result<SandboxReply, Error>) {
        match waiter {
            Waiter::Open(settler) => {
                let opened = result.and_then(|_| match self.machine.identity().cloned() {
                    Some((sandbox_id, sandbox_token)) => Ok(Opened {
                        sandbox_id,
                        sandbox_token,
                        state: self.state.reader(),
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
        let mut policy = exec.output.unwrap_or(self.settings.output);
        if exec.discards_output {
            policy.overflow = Overflow::DropOldest;
        }
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
        let sandbox = self.address(ctx);
        self.processes
            .spawn((process, machine), self.settings.output, sandbox);
        let started = self.processes.started(process);
        self.run_actions(ctx);
        started
    }
}

/// What a handle that is dropped asks for, without an answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum Background {
    /// The caller of this start stopped waiting.
    CancelStart(StartKey),
    /// The process is to be killed with its last handle.
    KillProcess(ProcessId),
    /// No handle to the sandbox is left, or ever was: it is to be killed.
    Abandon,
}

impl Handler<Background> for SandboxActor {
    type Result = ();

    fn handle(&mut self, message: Background, ctx: &mut Context<Self>) {
        match message {
            Background::CancelStart(key) => {
                let started =
                    |waiter: &Waiter| matches!(waiter, Waiter::Start(_, _, it) if *it == key);
                let mut waiters = self.waiters.iter();
                if let Some((&request, _)) = waiters.find(|(_, waiter)| started(waiter)) {
                    self.machine.cancel_exec(request);
                }
            }
            Background::KillProcess(process) => {
                if let Some(actor) = self.processes.actor(process) {
                    self.machine.expect_kill(process);
                    // With an address of this actor: the kill is sent before the connection is closed.
                    actor.do_send(KillInBackground(ctx.address()));
                }
            }
            Background::Abandon => self.machine.abandon(now()),
        }
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
        self.handle(AddSubscriber(Sink::Actor(recipient)), ctx);
    }
}

/// A subscriber of any kind.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AddSubscriber(pub(super) Sink);

impl Handler<AddSubscriber> for SandboxActor {
    type Result = ();

    fn handle(&mut self, AddSubscriber(sink): AddSubscriber, ctx: &mut Context<Self>) {
        self.subscribers.add(sink);
        self.machine.set_observed(true);
        if let (SandboxState::Ended(end), None) = (self.machine.state(), &self.last_event) {
            // The other subscribers have received this event.
            self.subscribers.send(&SandboxEvent::Ended(end.clone()));
        }
        self.run_actions(ctx);
    }
}
