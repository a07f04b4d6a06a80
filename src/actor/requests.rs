//! The requests of callers to a [`SandboxActor`], and their answers.

use actix::{AsyncContext, Context, Handler, Message, MessageResult};
use futures::future::BoxFuture;

use super::{
    AttachProcess, Checkpoint, Exec, GetFeatures, GetState, GetVersion, KillSandbox, Open, Opened,
    ProcessPlace, SandboxActor, SnapshotFilesystem, Start, StartKey, StartedProcess, Subscribe,
    driver::now,
    process::KillInBackground,
    reply::{Deferred, Undelivered, deferred},
    sandbox::Waiter,
    subscribers::Sink,
};
use crate::{
    Error, SandboxEvent,
    machine::{NewExec, Overflow, ProcessId, RequestId, Sandbox, SandboxReply, SandboxState},
    protocol::ExecId,
};

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

    /// Answers a caller. If it stopped waiting for a process, the process is abandoned.
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
            Waiter::Exec(settler, start) => {
                let started = result.and_then(|reply| self.started(&reply, start));
                let undelivered = settler.settle(started);
                // A caller of `Start` that stopped waiting sends `CancelStart`, which abandons the
                // process.
                if let (Err(Undelivered(Ok(started))), None) = (undelivered, start) {
                    self.machine.abandon_process(started.process);
                }
            }
            Waiter::Unit(settler) => {
                let _ = settler.settle(result.map(drop));
            }
        }
    }

    fn started(
        &mut self,
        reply: &SandboxReply,
        start: Option<StartKey>,
    ) -> Result<StartedProcess, Error> {
        match *reply {
            SandboxReply::Started(process) => self.processes.started(process, start),
            _ => Err(Error::actor_gone("run code")),
        }
    }

    fn kill_in_background(&mut self, process: ProcessId, ctx: &Context<Self>) {
        if let Some(actor) = self.processes.actor(process) {
            self.machine.expect_kill(process);
            // The address keeps the connection open until the kill is sent.
            actor.do_send(KillInBackground(ctx.address().recipient()));
        }
    }

    fn exec(&mut self, exec: Exec, waiter: Waiter, ctx: &mut Context<Self>) {
        if exec.id.as_ref().is_some_and(|id| !id.is_valid()) {
            let problem = format!("must have 1 to {} bytes", ExecId::MAX_BYTES);
            return self.answer(waiter, Err(Error::option("exec_id", problem)));
        }
        let request = self.request(waiter);
        let mut policy = exec.output.unwrap_or(self.output);
        if exec.discards_output {
            policy.overflow = Overflow::DropOldest;
        }
        let mut options = exec.options;
        options.window = Some(policy.window());
        let exec = NewExec {
            id: exec.id,
            program: exec.program.borrow(),
            options,
            stdin: exec.stdin,
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
        self.exec(exec, Waiter::Exec(settler, None), ctx);
        answer
    }
}

impl Handler<Start> for SandboxActor {
    type Result = Deferred<Result<StartedProcess, Error>>;

    fn handle(&mut self, Start(exec, key): Start, ctx: &mut Context<Self>) -> Self::Result {
        let (settler, answer) = deferred();
        self.exec(exec, Waiter::Exec(settler, Some(key)), ctx);
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
            .spawn((process, machine), self.output, sandbox);
        let started = self.processes.started(process, None);
        self.run_actions(ctx);
        started
    }
}

/// A request of a dropped handle. It has no answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum Background {
    /// The caller of this start stopped waiting.
    CancelStart(StartKey),
    /// Kill the process: its last handle was dropped.
    KillProcess(ProcessId),
    /// Kill the sandbox: no caller has a handle to it.
    Abandon,
    /// Run a task of a handle on this thread.
    Run(BoxFuture<'static, ()>),
}

impl Handler<Background> for SandboxActor {
    type Result = ();

    fn handle(&mut self, message: Background, ctx: &mut Context<Self>) {
        match message {
            Background::CancelStart(key) => {
                let is_start =
                    |waiter: &Waiter| matches!(waiter, Waiter::Exec(_, Some(it)) if *it == key);
                let mut waiters = self.waiters.iter();
                if let Some((&request, _)) = waiters.find(|(_, waiter)| is_start(waiter)) {
                    self.machine.cancel_exec(request);
                } else if let Some(process) = self.processes.started_by(key) {
                    match self.machine.is_shared(process) {
                        true => self.machine.abandon_process(process),
                        false => self.kill_in_background(process, ctx),
                    }
                }
            }
            Background::KillProcess(process) => self.kill_in_background(process, ctx),
            Background::Abandon => self.machine.abandon(now()),
            Background::Run(task) => {
                actix_rt::spawn(task);
                return;
            }
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

impl Handler<GetFeatures> for SandboxActor {
    type Result = MessageResult<GetFeatures>;

    fn handle(&mut self, _: GetFeatures, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.machine.features().to_vec())
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
