//! [`ProcessActor`]: one exec. Its output, its stdin, and how it ended.

use std::{collections::BTreeMap, task::Context as TaskContext, time::Instant};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, WeakAddr};

use super::{
    CloseStdin, FlushStdin, GetPlace, Kill, ProcessPlace, SandboxActor, StartedProcess, Wait,
    WriteStdin,
    driver::{Driven, Driver, now},
    outgoing::Chunk,
    output::{OutputWriter, ProcessOutput},
    reply::{Deferred, Settler, deferred},
    sandbox::Unheld,
};
use crate::{
    Error,
    machine::{
        Failure, OutputPolicy, Process, ProcessAction, ProcessEnd, ProcessFact, ProcessId,
        ProcessReply, RequestId,
    },
    protocol::StdStream,
    transport::Credit,
};

/// What a process gets from its sandbox, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ProcessInput {
    pub(super) events: Vec<ProcessEvent>,
    /// The leave to read more from the link, which is kept for as long as there is no room.
    pub(super) credit: Option<Credit>,
}

impl ProcessInput {
    /// Something happened.
    pub(super) fn one(event: ProcessEvent) -> Self {
        Self {
            events: vec![event],
            credit: None,
        }
    }
}

/// What happens to a process.
#[derive(Debug)]
pub(crate) enum ProcessEvent {
    /// Output came.
    Output(Vec<Chunk>),
    /// The sandbox knows something.
    Fact(ProcessFact),
    /// Somebody waits, or nobody waits any more, for a status that may stand behind the output.
    Awaited(bool),
}

/// What a process asks of its sandbox, or lets it know.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum ProcessReport {
    /// Ask the server to kill it.
    Kill(ProcessId),
    /// Send a message about it.
    Send(ProcessId, String),
    /// Send a stdin message, and say when the link took it.
    Stdin {
        process: ProcessId,
        number: u64,
        text: String,
    },
    /// It ended.
    Ended {
        process: ProcessId,
        end: ProcessEnd,
        stdin_unsent: usize,
    },
    /// Nothing more is to be said about it.
    Settled(ProcessId),
    /// Its actor is gone before that.
    Gone(ProcessId),
    /// All of these, in order.
    Several(Vec<ProcessReport>),
}

/// Reports that are sent together.
#[derive(Default)]
struct Reports(Vec<ProcessReport>);

impl Reports {
    fn push(&mut self, report: ProcessReport) {
        self.0.push(report);
    }

    fn into_one(mut self) -> Option<ProcessReport> {
        match self.0.len() {
            0 | 1 => self.0.pop(),
            _ => Some(ProcessReport::Several(self.0)),
        }
    }
}

/// Tells the sandbox when the actor goes before its process ended.
struct Obituary {
    process: ProcessId,
    sandbox: WeakAddr<SandboxActor>,
    finished: bool,
}

impl Obituary {
    fn report(&self, report: ProcessReport) {
        if let Some(sandbox) = self.sandbox.upgrade() {
            sandbox.do_send(report);
        }
    }
}

impl Drop for Obituary {
    fn drop(&mut self) {
        if !self.finished {
            self.report(ProcessReport::Gone(self.process));
        }
    }
}

/// Kill it, without an answer. Keeps the sandbox until the kill is on its way: it may be dropped, too.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct KillUnheld(pub(super) Addr<SandboxActor>);

/// A process that was started for a caller who may be gone by the time the answer is there. Dropped
/// before it is claimed, it kills the process: nobody else would have a handle to it.
pub(crate) struct Unclaimed {
    started: Option<StartedProcess>,
    sandbox: WeakAddr<SandboxActor>,
}

impl Unclaimed {
    pub(super) fn new(started: StartedProcess, sandbox: WeakAddr<SandboxActor>) -> Self {
        Self {
            started: Some(started),
            sandbox,
        }
    }

    /// Somebody has it.
    pub(crate) fn claim(mut self) -> Option<StartedProcess> {
        self.started.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let (Some(started), Some(sandbox)) = (self.started.take(), self.sandbox.upgrade()) {
            sandbox.do_send(Unheld(started.process));
        }
    }
}

enum Waiter {
    End(Settler<Result<ProcessEnd, Error>>),
    Unit(Settler<Result<(), Error>>),
}

/// What a process's actor begins with.
pub(super) struct NewProcess {
    pub(super) process: ProcessId,
    /// In a box, as it is handed on some times until the actor is where it stays.
    pub(super) machine: Box<Process>,
    pub(super) policy: OutputPolicy,
    pub(super) sandbox: WeakAddr<SandboxActor>,
    pub(super) sandbox_awaited: bool,
}

/// Owns the output, the stdin and the end of one exec.
///
/// Answers [`Wait`], [`Kill`], [`WriteStdin`], [`FlushStdin`], [`CloseStdin`] and [`GetPlace`]. It is started by [`SandboxActor`] for
/// every [`Exec`](super::Exec).
pub struct ProcessActor {
    machine: Box<Process>,
    output: OutputWriter,
    obituary: Obituary,
    waiters: BTreeMap<RequestId, Waiter>,
    next_request: u64,
    /// Somebody waits for something of the sandbox.
    sandbox_awaited: bool,
    awaited: bool,
    killed: bool,
}

impl ProcessActor {
    /// Starts the actor of a process in the current arbiter.
    pub(super) fn spawn(new: NewProcess) -> (Addr<Self>, ProcessOutput) {
        let NewProcess {
            process,
            machine,
            policy,
            sandbox,
            sandbox_awaited,
        } = new;
        let (output, reader) = OutputWriter::new(policy, machine.window());
        let actor = Self {
            machine,
            output,
            obituary: Obituary {
                process,
                sandbox,
                finished: false,
            },
            waiters: BTreeMap::new(),
            next_request: 0,
            sandbox_awaited,
            awaited: false,
            killed: false,
        };
        (actor.start(), reader)
    }

    fn request(&mut self, waiter: Waiter) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.waiters.insert(request, waiter);
        request
    }

    fn run_actions(&mut self) {
        let process = self.obituary.process;
        let mut reports = Reports::default();
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
                        (Some(Waiter::End(_)), Ok(ProcessReply::Done)) | (None, _) => {}
                    }
                }
                ProcessAction::SendKill => reports.push(ProcessReport::Kill(process)),
                ProcessAction::SendStdin { number, text } => {
                    reports.push(ProcessReport::Stdin {
                        process,
                        number,
                        text,
                    });
                }
                ProcessAction::Send(text) => {
                    reports.push(ProcessReport::Send(process, text));
                }
                ProcessAction::Ended { end, stdin_unsent } => {
                    self.output.set_end(end.clone());
                    reports.push(ProcessReport::Ended {
                        process,
                        end,
                        stdin_unsent,
                    });
                }
                ProcessAction::OutputEnded(finish) => {
                    let held = self.machine.take_held_output();
                    if !held.is_empty() {
                        // A budget that is exceeded at the end kills nothing any more.
                        let held = (0, StdStream::Stdout, held);
                        self.output.write(std::iter::once(held));
                    }
                    self.output.finish(finish);
                }
                ProcessAction::Settled => {
                    self.obituary.finished = true;
                    reports.push(ProcessReport::Settled(process));
                }
            }
        }
        if let Some(report) = reports.into_one() {
            self.obituary.report(report);
        }
        self.update_demand();
    }

    /// Lets the output know who waits for something behind it.
    fn update_demand(&mut self) {
        // In v2 no status stands behind output.
        let behind = self.sandbox_awaited && !self.machine.is_named();
        let awaited = behind || self.machine.is_awaited();
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

    /// Takes a batch of output. `false`: the budget is exceeded and the process is to be killed.
    fn take_output(&mut self, chunks: Vec<Chunk>) -> bool {
        let machine = &mut self.machine;
        if !machine.is_named() {
            let found = chunks.into_iter().flat_map(|chunk| {
                let found = machine.handle_unplaced_output(chunk.stream, chunk.data);
                found.map(|data| (0, chunk.stream, data))
            });
            let found = found.filter(|(.., data)| !data.is_empty());
            return self.output.write(found);
        }
        let new = chunks.into_iter().filter_map(|chunk| {
            let admission = machine.handle_output(chunk.stream, chunk.offset?, chunk.data.len());
            let data = chunk.data.slice(admission.skip..);
            (admission.gap > 0 || !data.is_empty()).then_some((admission.gap, chunk.stream, data))
        });
        let within = self.output.write(new);
        self.machine.handle_output_kept();
        within
    }

    /// Lets the server know what of the output readers have taken.
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

    /// Callers that stopped waiting are forgotten, so that they do not pile up, and so that no output
    /// is dropped for the sake of nobody.
    fn poll_io(&mut self, _: &mut Context<Self>, task: &mut TaskContext<'_>) {
        self.acknowledge(task);
        self.run_actions();
        let mut gone = Vec::new();
        self.waiters.retain(|&request, waiter| {
            let waits = !match waiter {
                Waiter::End(settler) => settler.is_cancelled(task),
                Waiter::Unit(settler) => settler.is_cancelled(task),
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

impl Handler<KillUnheld> for ProcessActor {
    type Result = ();

    fn handle(&mut self, KillUnheld(sandbox): KillUnheld, _: &mut Context<Self>) {
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
        let received = self.machine.received().ok_or(Failure::Unsupported {
            what: "name the process",
            feature: "process that another client could go on with",
        })?;
        let taken = self.output.hand_on(received);
        self.machine.handle_taken(taken);
        let place = self.machine.place().zip(self.machine.window());
        let place = place.map(|((exec, offsets), window)| ProcessPlace {
            exec: exec.clone(),
            offsets,
            window,
        });
        self.run_actions();
        place.ok_or_else(|| Error::actor_gone("name the process"))
    }
}
