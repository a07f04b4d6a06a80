//! Runs one sandbox of a benchmark, from its creation to its kill, and measures each step.

use std::{cell::Cell, rc::Rc, time::Duration};

use actix::{Actor, Context, Handler, Recipient};
use actix_sandbox::{
    Error, ErrorKind, NewSandbox, ProcessEnd, Runtime, Sandbox, SandboxBuilder, SandboxEvent,
};
use futures::future::try_join3;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{heard::Heard, phase::Phase, plan::Plan, schedule::Arrival};
use crate::cli::failure;

/// Why a step failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) phase: Phase,
    /// The kind of error. Failures are counted by kind.
    pub(super) kind: String,
    pub(super) text: String,
    /// Whether later creations are likely to fail as well.
    pub(super) is_fatal: Fatal,
}

/// What a failure says about later creations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fatal {
    No,
    /// The server can't be reached, perhaps only now.
    Unreachable,
    /// Every creation fails, because the URL or an option is invalid.
    Always,
}

/// The result of one sandbox.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) arrival: Arrival,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) steps: Vec<(Phase, Duration)>,
    pub(super) failures: Vec<Failure>,
    pub(super) output_bytes: u64,
    /// Whether the sandbox was created.
    pub(super) created: bool,
    /// Whether the run stopped the sandbox before its end.
    pub(super) cancelled: bool,
}

/// The state that all sandboxes of a run share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) plan: Rc<Shared>,
    pub(super) events: Recipient<SandboxEvent>,
    /// Becomes `true` when the run stops.
    pub(super) stopping: watch::Receiver<bool>,
    /// Whether any sandbox was created.
    pub(super) any_created: Rc<Cell<bool>>,
}

/// The part of the plan that applies to each sandbox.
pub(super) struct Shared {
    builder: SandboxBuilder<NewSandbox>,
    pub(super) code: String,
    pub(super) language: actix_sandbox::Language,
    pub(super) execs: u32,
    pub(super) timeout: Duration,
}

impl Shared {
    /// `builder` has the URL and the credentials of the service.
    pub(super) fn new(plan: &Plan, builder: SandboxBuilder<NewSandbox>, runtime: &Runtime) -> Self {
        let builder = builder
            .runtime(runtime)
            .auto_reconnect(plan.reconnect)
            .debug(false)
            .connect_timeout(plan.timeout)
            .create_timeout(plan.timeout)
            .exec_timeout(plan.timeout)
            // The kill step has its own timeout in `Common::step`. The kill that cleans up may take
            // longer.
            .kill_timeout(plan.timeout.max(LAST_KILL));
        Self {
            builder,
            code: plan.code.clone(),
            language: plan.language.clone(),
            execs: plan.execs,
            timeout: plan.timeout,
        }
    }
}

/// Why a step has no result.
enum Broken {
    Cancelled,
    Failed(Failure),
}

/// Runs one sandbox, and returns its result.
pub(super) async fn run(common: Common, arrival: Arrival) -> Session {
    let began = Instant::now();
    let mut session = Session {
        arrival,
        began,
        ended: began,
        steps: Vec::new(),
        failures: Vec::new(),
        output_bytes: 0,
        created: false,
        cancelled: false,
    };
    let done = session.run(&common).await;
    session.ended = Instant::now();
    match done {
        Ok(()) => session.step(Phase::Whole, arrival.due),
        Err(Broken::Cancelled) => session.cancelled = true,
        Err(Broken::Failed(failure)) => session.failures.push(failure),
    }
    session
}

impl Session {
    fn step(&mut self, phase: Phase, since: Instant) {
        self.steps.push((phase, since.elapsed()));
    }

    async fn run(&mut self, common: &Common) -> Result<(), Broken> {
        let plan = &*common.plan;
        let sandbox = common
            .step(Phase::Create, plan.builder.clone().into_future())
            .await?;
        self.created = true;
        common.any_created.set(true);
        self.step(Phase::Create, self.arrival.due);
        let done = self.use_it(common, &sandbox).await;
        let begin = Instant::now();
        let done = match done {
            Ok(()) => common.step(Phase::Kill, sandbox.kill()).await,
            Err(broken) => Err(broken),
        };
        if done.is_err() {
            // Delete the sandbox after any failure. Report the first failure, not that of the
            // deletion.
            let _ = timeout(LAST_KILL, sandbox.kill()).await;
            return done;
        }
        self.step(Phase::Kill, begin);
        Ok(())
    }

    async fn use_it(&mut self, common: &Common, sandbox: &Sandbox) -> Result<(), Broken> {
        let events = sandbox.subscribe(common.events.clone());
        common.step(Phase::Create, events).await?;
        for index in 0..common.plan.execs {
            self.exec(common, sandbox, index == 0).await?;
        }
        Ok(())
    }

    async fn exec(
        &mut self,
        common: &Common,
        sandbox: &Sandbox,
        is_first: bool,
    ) -> Result<(), Broken> {
        let plan = &*common.plan;
        let begin = Instant::now();
        let command = sandbox.command(plan.language.clone(), plan.code.clone());
        let process = common.step(Phase::ExecStart, command.spawn()).await?;
        self.step(Phase::ExecStart, begin);

        let heard = Heard::default();
        let all = try_join3(
            heard.all(process.stdout(), |_| {}),
            heard.all(process.stderr(), |piece| heard.keep_last(piece)),
            process.wait(),
        );
        let ended = common.step(Phase::End, all).await;
        self.output_bytes += heard.bytes.get();
        if let Some(first) = heard.first.get() {
            self.steps.push((Phase::FirstOutput, first - begin));
        }
        let ((), (), end) = ended?;
        self.step(Phase::End, begin);
        match end {
            // Protocol v1 doesn't report how a process ended.
            ProcessEnd::Exited(0) | ProcessEnd::Unknown => {
                if let Some(first) = heard.first.get().filter(|_| is_first) {
                    let since_arrival = first - self.arrival.due;
                    self.steps.push((Phase::Interactive, since_arrival));
                }
            }
            end => self.failures.push(Failure {
                phase: Phase::End,
                kind: ErrorKind::ProcessFailed.to_string(),
                text: match heard.last_line() {
                    Some(line) => format!("the script {end}; the last line of its stderr: {line}"),
                    None => format!("the script {end}; it wrote nothing to stderr"),
                },
                is_fatal: Fatal::No,
            }),
        }
        Ok(())
    }
}

/// Timeout of the kill that cleans up after a failure.
const LAST_KILL: Duration = Duration::from_secs(5);

impl Common {
    /// Runs one step with the timeout of the plan. Cancels it when the run stops.
    async fn step<T>(
        &self,
        phase: Phase,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Broken> {
        let mut stopping = self.stopping.clone();
        let limit = self.plan.timeout;
        tokio::select! {
            biased;
            _ = stopping.wait_for(|&stopping| stopping) => Err(Broken::Cancelled),
            done = timeout(limit, step) => match done {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(error)) => Err(Broken::Failed(Failure::new(phase, &error))),
                Err(_elapsed) => Err(Broken::Failed(Failure {
                    phase,
                    kind: ErrorKind::Timeout.to_string(),
                    text: format!("timed out after {limit:?}"),
                    is_fatal: Fatal::No,
                })),
            },
        }
    }
}

impl Failure {
    fn new(phase: Phase, error: &Error) -> Self {
        let is_fatal = match error.kind() {
            _ if phase != Phase::Create => Fatal::No,
            ErrorKind::InvalidUrl | ErrorKind::InvalidOption => Fatal::Always,
            ErrorKind::Resolve
            | ErrorKind::Connect
            | ErrorKind::Tls
            | ErrorKind::NoToken
            | ErrorKind::UpgradeRefused
            | ErrorKind::NotWebSocket => Fatal::Unreachable,
            _ => Fatal::No,
        };
        Self {
            phase,
            kind: error.kind().to_string(),
            text: failure::describe(error),
            is_fatal,
        }
    }
}

/// Counts lost and reconnected connections.
#[derive(Default)]
pub(super) struct Reconnects {
    pub(super) lost: Rc<Cell<u64>>,
    pub(super) back: Rc<Cell<u64>>,
}

/// Mailbox capacity for the events of all sandboxes.
const EVENTS: usize = 65_536;

impl Actor for Reconnects {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(EVENTS);
    }
}

impl Handler<SandboxEvent> for Reconnects {
    type Result = ();

    fn handle(&mut self, event: SandboxEvent, _: &mut Self::Context) {
        match event {
            SandboxEvent::Reconnecting { attempt: 1, .. } => self.lost.set(self.lost.get() + 1),
            SandboxEvent::Reconnected => self.back.set(self.back.get() + 1),
            _ => {}
        }
    }
}
