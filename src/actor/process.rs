//! [`ProcessActor`]: one exec, with its output, its stdin and its end.

use std::{rc::Rc, task::Context as TaskContext, time::Instant};

use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient, dev::channel,
};
use bytes::Bytes;
use futures::{channel::oneshot, future::LocalBoxFuture};
use litemap::LiteMap;

use super::{
    CloseStdin, FlushStdin, GetPlace, Kill, ProcessPlace, Wait, WriteStdin, WriteTaken,
    driver::{Driven, Driver, now},
    inbound::{Chunk, ProcessEvent, ProcessInput},
    output::{OutputWriter, ProcessOutput},
    owner::Owner,
    reply::{Deferred, Settler, deferred},
};
use crate::{
    Error,
    machine::{
        Failure, OutputPolicy, Process, ProcessAction, ProcessEnd, ProcessId, ProcessReply,
        RequestId,
    },
    yield_now::Yield,
};

/// A report of a process to its sandbox.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum ProcessReport {
    /// Actions of its machine for the sandbox to execute, in order.
    Actions(ProcessId, Vec<ProcessAction>),
    /// Its actor stopped before the process was settled.
    Gone(ProcessId),
}

/// Kills the process without an answer. Keeps the sandbox's actor alive until the kill is sent.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct KillInBackground(pub(super) Recipient<ProcessReport>);

/// Writes to stdin even if the answer is dropped.
pub(crate) fn write_taken(
    actor: &Addr<ProcessActor>,
    data: Bytes,
) -> oneshot::Receiver<Result<(), Error>> {
    let (sender, answer) = oneshot::channel();
    // Each stdin handle sends one message at a time, so the mailbox stays bounded.
    actor.do_send(WriteTaken(data, sender));
    answer
}

enum Waiter {
    End(Settler<Result<ProcessEnd, Error>>),
    Unit(Settler<Result<(), Error>>),
    /// A write that continues if its caller stops waiting.
    Taken(oneshot::Sender<Result<(), Error>>),
}

/// The arguments of [`ProcessActor::create`].
pub(super) struct NewProcess {
    pub(super) process: ProcessId,
    pub(super) machine: Box<Process>,
    pub(super) policy: OutputPolicy,
    pub(super) sandbox: Rc<dyn Owner<ProcessReport>>,
    pub(super) sandbox_awaited: bool,
}

/// The capacity of the mailbox: the default of actix.
const MAILBOX: usize = 16;

/// The actor of a process that has not received a message. It starts to run with its first message,
/// because polling it earlier would do nothing.
pub(super) struct Unstarted(LocalBoxFuture<'static, ()>);

impl Unstarted {
    /// Runs the actor in the current arbiter.
    pub(super) fn run(self) {
        actix_rt::spawn(self.0);
    }
}

/// The report with the last acknowledgement. Dropping this sends it.
///
/// A caller that learns of the end often starts another process at once. Delaying the report by one
/// yield lets the link write the acknowledgement and that request together. The address keeps the
/// connection open until then.
struct LateReport {
    sandbox: Recipient<ProcessReport>,
    report: Option<ProcessReport>,
    yielding: Yield,
}

impl Drop for LateReport {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            self.sandbox.do_send(report);
        }
    }
}

/// The actor of one exec. Owns its output, its stdin and its end.
///
/// Answers [`Wait`], [`Kill`], [`WriteStdin`], [`FlushStdin`], [`CloseStdin`] and [`GetPlace`]. The
/// [`SandboxActor`](super::SandboxActor) starts it for each [`Exec`](super::Exec) and each
/// [`AttachProcess`](super::AttachProcess).
pub struct ProcessActor {
    process: ProcessId,
    machine: Box<Process>,
    output: OutputWriter,
    sandbox: Rc<dyn Owner<ProcessReport>>,
    late: Option<LateReport>,
    /// Whether the machine has reported everything about the process.
    settled: bool,
    waiters: LiteMap<RequestId, Waiter>,
    next_request: u64,
    /// Whether a caller waits for a status of the sandbox.
    sandbox_awaited: bool,
    awaited: bool,
    killed: bool,
}

impl Drop for ProcessActor {
    /// Reports to the sandbox if the actor stops early, for example by a panic.
    fn drop(&mut self) {
        if !self.settled {
            self.sandbox.report(ProcessReport::Gone(self.process));
        }
    }
}

impl ProcessActor {
    /// Creates the actor of a process. The caller must [run](Unstarted::run) it.
    pub(super) fn create(new: NewProcess) -> (Addr<Self>, Unstarted, ProcessOutput) {
        let NewProcess {
            process,
            machine,
            policy,
            sandbox,
            sandbox_awaited,
        } = new;
        let (output, reader) = OutputWriter::new(policy, machine.window());
        let actor = Self {
            process,
            machine,
            output,
            sandbox,
            late: None,
            settled: false,
            waiters: LiteMap::new(),
            next_request: 0,
            sandbox_awaited,
            awaited: false,
            killed: false,
        };
        // `Actor::start` would create a second address, which costs two allocations.
        let (sender, receiver) = channel::channel(MAILBOX);
        let unstarted = Context::with_receiver(receiver).into_future(actor);
        let unstarted = Unstarted(Box::pin(unstarted));
        (Addr::new(sender), unstarted, reader)
    }

    fn request(&mut self, waiter: Waiter) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.waiters.insert(request, waiter);
        request
    }

    fn run_actions(&mut self) {
        let mut actions = Vec::new();
        let mut acknowledged = false;
        while let Some(action) = self.machine.poll_action() {
            match action {
                ProcessAction::Settle(request, result) => {
                    // A caller that stopped waiting is no error.
                    match (self.waiters.remove(&request), result) {
                        (Some(Waiter::End(settler)), Ok(ProcessReply::End(end))) => {
                            let _ = settler.settle(Ok(end));
                        }
                        (Some(Waiter::End(settler)), Err(failure)) => {
                            let _ = settler.settle(Err(failure.into()));
                        }
                        (Some(Waiter::Unit(settler)), result) => {
                            let _ = settler.settle(result.map(drop).map_err(Error::from));
                        }
                        (Some(Waiter::Taken(sender)), result) => {
                            let _ = sender.send(result.map(drop).map_err(Error::from));
                        }
                        (Some(Waiter::End(_)), Ok(ProcessReply::Done)) | (None, _) => {}
                    }
                }
                ProcessAction::StreamEnded(stream) => self.output.end_stream(stream),
                ProcessAction::OutputEnded(finish) => self.output.finish(finish),
                action => {
                    match &action {
                        ProcessAction::Ended { end, .. } => self.output.set_end(end.clone()),
                        ProcessAction::Settled => {
                            self.settled = true;
                            acknowledged = matches!(actions.last(), Some(ProcessAction::Send(_)));
                        }
                        _ => {}
                    }
                    actions.push(action);
                }
            }
        }
        if !actions.is_empty() {
            let report = ProcessReport::Actions(self.process, actions);
            match acknowledged {
                true => self.report_late(report),
                false => self.sandbox.report(report),
            }
        }
        self.update_demand();
    }

    /// Sends the report after the thread has yielded.
    fn report_late(&mut self, report: ProcessReport) {
        self.late = self.sandbox.hold().map(|sandbox| LateReport {
            sandbox,
            report: Some(report),
            yielding: Yield::begin(),
        });
    }

    /// Tells the output whether a caller waits for a message that queues behind it.
    fn update_demand(&mut self) {
        let awaited = self.machine.is_awaited(self.sandbox_awaited);
        if awaited != self.awaited {
            self.awaited = awaited;
            self.output.set_awaited(awaited);
        }
        let killed = self.machine.is_kill_wanted();
        if killed != self.killed {
            self.killed = killed;
            self.output.set_killed(killed);
        }
    }

    /// Takes a batch of output. Returns `false` if it exceeds the budget: the caller then kills the
    /// process.
    fn take_output(&mut self, chunks: Vec<Chunk>) -> bool {
        let machine = &mut self.machine;
        let new = chunks.into_iter().filter_map(|chunk| {
            let (gap, data) = machine.handle_output(chunk.stream, chunk.offset, chunk.data);
            (gap > 0 || !data.is_empty()).then_some((gap, chunk.stream, data))
        });
        let within = self.output.write(new);
        machine.handle_output_kept();
        within
    }

    /// Acknowledges to the server the output that readers have taken.
    fn acknowledge(&mut self, task: &mut TaskContext<'_>) {
        if let Some((received, after)) = self.machine.acknowledgeable() {
            let taken = self.output.poll_taken(received, after, task);
            self.machine.handle_taken(taken);
        }
    }

    fn unit(&mut self, ask: impl FnOnce(&mut Process, RequestId)) -> Deferred<Result<(), Error>> {
        let (settler, answer) = deferred();
        let request = self.request(Waiter::Unit(settler));
        ask(&mut self.machine, request);
        self.run_actions();
        answer
    }
}

impl Actor for ProcessActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.spawn(Driver::default());
        self.update_demand();
    }
}

impl Driven for ProcessActor {
    const HAS_IO: bool = true;

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine
            .poll_timeout()
            .into_iter()
            .chain(self.output.poll_timeout())
            .min()
    }

    fn handle_timeout(&mut self, now: Instant, _: &mut Context<Self>) {
        self.output.handle_timeout(now);
        self.machine.handle_timeout(now);
        self.run_actions();
    }

    fn handle_orphaned(&mut self, ctx: &mut Context<Self>) {
        ctx.stop();
    }

    /// Also removes callers that stopped waiting. Otherwise they would accumulate, and output would
    /// be dropped because of them.
    fn poll_io(&mut self, _: &mut Context<Self>, task: &mut TaskContext<'_>) {
        self.acknowledge(task);
        self.run_actions();
        let mut gone = Vec::new();
        self.waiters.retain(|&request, waiter| {
            let waits = !match waiter {
                Waiter::End(settler) => settler.is_cancelled(task),
                Waiter::Unit(settler) => settler.is_cancelled(task),
                Waiter::Taken(_) => false,
            };
            if !waits {
                gone.push(request);
            }
            waits
        });
        if !gone.is_empty() {
            gone.into_iter()
                .for_each(|request| self.machine.cancel(request));
            self.run_actions();
        }
        self.late
            .take_if(|late| late.yielding.poll(task).is_ready());
    }
}

impl Handler<ProcessInput> for ProcessActor {
    type Result = ();

    fn handle(&mut self, input: ProcessInput, _: &mut Context<Self>) {
        for event in input.events {
            match event {
                ProcessEvent::Output(chunks) => {
                    if !self.take_output(chunks) {
                        self.machine.kill(None, now());
                    }
                }
                ProcessEvent::Fact(fact) => {
                    self.machine.handle_fact(fact, now());
                    if let Some(window) = self.machine.window() {
                        self.output.set_window(window);
                    }
                }
                ProcessEvent::Awaited(awaited) => self.sandbox_awaited = awaited,
            }
            self.run_actions();
        }
        if let Some(credit) = input.credit {
            self.output.hold(credit);
        }
    }
}

impl Handler<Wait> for ProcessActor {
    type Result = Deferred<Result<ProcessEnd, Error>>;

    fn handle(&mut self, _: Wait, _: &mut Context<Self>) -> Self::Result {
        let (settler, answer) = deferred();
        let request = self.request(Waiter::End(settler));
        self.machine.wait(request);
        self.run_actions();
        answer
    }
}

impl Handler<Kill> for ProcessActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, _: Kill, _: &mut Context<Self>) -> Self::Result {
        self.unit(|machine, request| machine.kill(Some(request), now()))
    }
}

impl Handler<KillInBackground> for ProcessActor {
    type Result = ();

    fn handle(&mut self, KillInBackground(sandbox): KillInBackground, _: &mut Context<Self>) {
        self.machine.kill(None, now());
        self.run_actions();
        drop(sandbox);
    }
}

impl Handler<WriteStdin> for ProcessActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, WriteStdin(data): WriteStdin, _: &mut Context<Self>) -> Self::Result {
        self.unit(|machine, request| machine.write_stdin(request, data))
    }
}

impl Handler<WriteTaken> for ProcessActor {
    type Result = ();

    fn handle(&mut self, WriteTaken(data, answer): WriteTaken, _: &mut Context<Self>) {
        let request = self.request(Waiter::Taken(answer));
        self.machine.write_stdin(request, data);
        self.run_actions();
    }
}

impl Handler<FlushStdin> for ProcessActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, _: FlushStdin, _: &mut Context<Self>) -> Self::Result {
        self.unit(|machine, request| machine.flush_stdin(request))
    }
}

impl Handler<CloseStdin> for ProcessActor {
    type Result = Deferred<Result<(), Error>>;

    fn handle(&mut self, _: CloseStdin, _: &mut Context<Self>) -> Self::Result {
        self.unit(|machine, request| machine.close_stdin(request))
    }
}

impl Handler<GetPlace> for ProcessActor {
    type Result = Result<ProcessPlace, Error>;

    fn handle(&mut self, _: GetPlace, _: &mut Context<Self>) -> Self::Result {
        if let Some(received) = self.machine.received() {
            let taken = self.output.hand_on(received).ok_or_else(|| {
                Error::option(
                    "output_policy",
                    "of the process does not keep unread output, so no other program can resume \
                     the process; use `Overflow::Pause`",
                )
            })?;
            self.machine.handle_taken(taken);
        }
        let place = self.machine.place().zip(self.machine.window());
        let place = place.map(|((exec, offsets), window)| ProcessPlace {
            exec: exec.clone(),
            offsets,
            window,
        });
        self.run_actions();
        let unsupported = Failure::Unsupported {
            what: "name the process",
            feature: "process that another client can resume",
        };
        place.ok_or_else(|| unsupported.into())
    }
}
