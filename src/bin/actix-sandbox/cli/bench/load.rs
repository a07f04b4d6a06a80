//! Starts sandboxes on schedule, and collects their results.

use std::{cell::Cell, process, rc::Rc, time::Duration};

use actix::Actor;
use actix_sandbox::{NewSandbox, Runtime, SandboxBuilder};
use indicatif::ProgressBar;
use nix::sys::signal::Signal;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    measure::Measured,
    plan::Plan,
    schedule::Schedule,
    session::{self, Common, Fatal, Reconnects, Session, Shared},
};
use crate::cli::{
    shared,
    signals::{SAME_WITHIN, Signals},
};

/// Why a run ended.
pub(super) enum Stopped {
    Done,
    Interrupted(Signal),
    /// No sandbox could be created.
    Unreachable(String),
    /// The server went away during the run.
    ServerLost(String),
}

/// Number of creations in a row that must fail to connect before the server counts as gone.
const LOST_AFTER: u32 = 5;

/// Interval between updates of the progress bar.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

struct Load<'a> {
    plan: &'a Plan,
    bar: &'a ProgressBar,
    start: Instant,
    schedule: Schedule,
    common: Common,
    stop: watch::Sender<bool>,
    running: JoinSet<Session>,
    measured: Measured,
    /// Number of creations in a row that failed to connect.
    unreachable: u32,
    /// Why and when the run stopped starting sandboxes.
    stopped: Option<(Stopped, Instant)>,
    interrupted: Option<Instant>,
}

/// Runs the plan against a service.
pub(super) async fn run(
    plan: &Plan,
    builder: SandboxBuilder<NewSandbox>,
    bar: &ProgressBar,
    signals: &mut Signals,
) -> Result<(Measured, Stopped), String> {
    let cores = std::thread::available_parallelism().map_or(1, |it| it.get());
    let runtime = Runtime::new(cores.min(8)).map_err(|error| error.to_string())?;
    let (lost, back) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let events = Reconnects {
        lost: lost.clone(),
        back: back.clone(),
    };
    let (stop, stopping) = watch::channel(false);
    let start = Instant::now();
    let schedule = Schedule::new(plan.pace, start);
    let load = Load {
        plan,
        bar,
        start,
        common: Common {
            plan: Rc::new(Shared::new(plan, builder, &runtime)),
            events: events.start().recipient(),
            stopping,
            any_created: Rc::new(Cell::new(false)),
        },
        stop,
        running: JoinSet::new(),
        measured: Measured::new(schedule.measured_from())?,
        schedule,
        unreachable: 0,
        stopped: None,
        interrupted: None,
    };
    let (mut measured, stopped) = load.run(signals).await;
    measured.set_reconnects(lost.get(), back.get());
    Ok((measured, stopped))
}

impl Load<'_> {
    async fn run(mut self, signals: &mut Signals) -> (Measured, Stopped) {
        let mut shown = interval(SHOWN_EVERY);
        shown.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.schedule.next(Instant::now(), self.running.len());
            let next = next.filter(|_| self.stopped.is_none());
            if next.is_none() && self.running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                signal = signals.next() => self.interrupt(signal),
                Some(done) = self.running.join_next() => match done {
                    Ok(session) => self.take(session),
                    Err(error) => self.stop(Stopped::ServerLost(format!("a task of the benchmark failed: {error}"))),
                },
                () = due(next.map(|next| next.due)) => if let Some(next) = next {
                    self.schedule.begin(next);
                    self.running.spawn_local(session::run(self.common.clone(), next));
                },
                _ = shown.tick() => self.show(),
            }
        }
        let now = Instant::now();
        let (stopped, since) = self.stopped.unwrap_or((Stopped::Done, now));
        let never_begun = self.schedule.never_begun(since);
        self.measured.finish(now, never_begun);
        (self.measured, stopped)
    }

    /// The first signal stops the run and kills its sandboxes. A second one, after [`SAME_WITHIN`],
    /// exits at once.
    fn interrupt(&mut self, signal: Signal) {
        let first = *self.interrupted.get_or_insert_with(Instant::now);
        if first.elapsed() > SAME_WITHIN {
            shared::say("ended at once by a second signal; no results were written");
            process::exit(128 + signal as i32);
        }
        self.stop(Stopped::Interrupted(signal));
    }

    fn stop(&mut self, why: Stopped) {
        self.stopped.get_or_insert_with(|| (why, Instant::now()));
        self.stop.send_replace(true);
    }

    fn take(&mut self, session: Session) {
        self.measured.add(&session);
        let fatal = session.failures.iter().find(|it| it.is_fatal != Fatal::No);
        match fatal {
            Some(failure) if !self.common.any_created.get() => {
                self.stop(Stopped::Unreachable(failure.text.clone()));
            }
            Some(failure) => {
                self.unreachable += 1;
                if self.unreachable >= LOST_AFTER {
                    self.stop(Stopped::ServerLost(failure.text.clone()));
                }
            }
            None if session.created => {
                self.unreachable = 0;
            }
            None => {}
        }
    }

    fn show(&self) {
        let done = self.measured.completed();
        self.bar.set_position(match self.plan.pace.sandboxes {
            Some(_) => done,
            None => u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        let failed = self.measured.failures();
        let running = self.running.len();
        self.bar
            .set_prefix(format!("{done} done, {running} running, {failed} failed"));
    }
}

/// Waits until the next sandbox is due. Never resolves if there is none.
async fn due(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}
