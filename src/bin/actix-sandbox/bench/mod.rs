//! `actix-sandbox bench`: runs many sandboxes at once, and measures how long each step takes.

mod arguments;
mod compare;
mod condition;
mod heard;
mod load;
mod machine;
mod measure;
mod outputs;
mod pace;
mod page;
mod phase;
mod plan;
mod plot;
mod report;
mod schedule;
mod service;
mod session;
mod statistics;
mod text;
mod timeline;

pub(crate) use arguments::Bench;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::Signal;

use crate::{shared, signals::Signals};
use arguments::BenchCommand;
use condition::Condition;
use load::Stopped;
use measure::Measured;
use outputs::{Outputs, PIPE_CLOSED, Printed};
use plan::Plan;
use report::Report;
use service::Service;

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        if let Some(BenchCommand::Compare(compare)) = self.command {
            return compare.run();
        }
        let (plan, outputs) = self.run.plan()?;
        shared::raise_open_files();
        actix::System::new().block_on(bench(plan, outputs))
    }
}

async fn bench(plan: Plan, outputs: Outputs) -> Result<ExitCode, String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let mut service = tokio::select! {
        service = Service::start(&plan) => service?,
        signal = signals.next() => {
            shared::say("interrupted before the first sandbox; nothing was measured");
            return Ok(interrupted_by(signal));
        }
    };
    let bar = progress(&plan, outputs.quiet);
    bar.set_message(service.name.clone());
    let run = load::run(&plan, &service.url, &bar, &mut signals).await;
    bar.finish_and_clear();
    service.stop().await;
    let (measured, stopped) = run?;
    let report = Report::new(&plan, &service, &measured, &stopped);
    match outputs.write(&report, &measured)? {
        Printed::Done => finish(&plan, &report, &measured, &stopped),
        Printed::PipeClosed => Ok(ExitCode::from(PIPE_CLOSED)),
    }
}

/// Reports how the run ended, and returns the exit status.
fn finish(
    plan: &Plan,
    report: &Report,
    measured: &Measured,
    stopped: &Stopped,
) -> Result<ExitCode, String> {
    let counts = measured.counts();
    match stopped {
        Stopped::Done if counts.completed + counts.failed == 0 => Err(format!(
            "nothing was measured: {}; try a longer --duration, a shorter --warm-up, or a lower --rate",
            report.outcome()
        )),
        Stopped::Done => check(plan, report, measured),
        Stopped::Interrupted(signal) => {
            shared::say("interrupted; the results up to then are listed above");
            Ok(interrupted_by(*signal))
        }
        Stopped::Unreachable(why) => Err(format!("no sandbox could be created: {why}")),
        Stopped::ServerLost(why) => Err(format!(
            "the server is gone: {why}; the results up to then are listed above"
        )),
    }
}

/// The exit status that shells report for a program that this signal ended.
fn interrupted_by(signal: Signal) -> ExitCode {
    ExitCode::from(128 + signal as u8)
}

/// Reports the conditions of `--fail-if` that hold, and failures that none of them allows.
fn check(plan: &Plan, report: &Report, measured: &Measured) -> Result<ExitCode, String> {
    let mut status = ExitCode::SUCCESS;
    for verdict in report.fail_if.iter().filter(|it| it.failed) {
        shared::say(&verdict.text);
        status = ExitCode::FAILURE;
    }
    let are_limited = plan.fail_if.iter().any(Condition::limits_failures);
    match measured.failures() {
        failures if failures > 0 && !are_limited => Err(format!(
            "{failures} steps failed; the errors are listed above"
        )),
        _ => Ok(status),
    }
}

fn progress(plan: &Plan, quiet: bool) -> ProgressBar {
    let pace = &plan.pace;
    let bar = match (pace.sandboxes, pace.duration) {
        (Some(count), _) => ProgressBar::new(count),
        (None, Some(duration)) => {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            ProgressBar::new(millis(duration.saturating_add(pace.warm_up)))
        }
        (None, None) => ProgressBar::new_spinner(),
    };
    if quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {prefix} {elapsed}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
