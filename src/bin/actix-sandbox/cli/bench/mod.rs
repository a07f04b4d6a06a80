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
mod session;
mod statistics;
mod subject;
mod text;
mod timeline;

pub(crate) use arguments::Bench;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{
    failure::Failure,
    shared,
    signals::{Signals, status_of},
};
use arguments::BenchCommand;
use condition::Condition;
use load::Stopped;
use measure::Measured;
use outputs::Outputs;
use plan::Plan;
use report::Report;
use subject::Subject;

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        if let Some(BenchCommand::Compare(compare)) = self.command {
            return compare.run();
        }
        let (plan, outputs) = self.run.plan()?;
        shared::raise_open_files();
        actix::System::new().block_on(bench(plan, outputs))
    }
}

async fn bench(plan: Plan, outputs: Outputs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let mut subject = tokio::select! {
        subject = Subject::start(&plan) => subject?,
        signal = signals.next() => {
            let text = "interrupted before the first sandbox; nothing was measured";
            return Err(Failure::new(status_of(signal as i32), text));
        }
    };
    let bar = progress(&plan, outputs.quiet);
    bar.set_message(subject.name.clone());
    let run = load::run(&plan, subject.builder.clone(), &bar, &mut signals).await;
    bar.finish_and_clear();
    subject.stop().await;
    let (measured, stopped) = run?;
    let report = Report::new(&plan, &subject, &measured, &stopped);
    outputs.write(&report, &measured)?;
    match stopped {
        Stopped::Done => check(&plan, &report, &measured),
        Stopped::Interrupted(signal) => {
            let text = "interrupted; the results up to then are listed above";
            Err(Failure::new(status_of(signal as i32), text))
        }
        Stopped::Unreachable(why) => Err(format!("no sandbox could be created: {why}").into()),
        Stopped::ServerLost(why) => Err(format!(
            "the server is gone: {why}; the results up to then are listed above"
        )
        .into()),
    }
}

/// Fails if nothing was measured, or if a condition of `--fail-if` holds, or after failures that no
/// condition allows.
fn check(plan: &Plan, report: &Report, measured: &Measured) -> Result<ExitCode, Failure> {
    let counts = measured.counts();
    if counts.completed + counts.failed == 0 {
        return Err(format!(
            "nothing was measured: {}; try a longer --duration, a shorter --warm-up, or a lower --rate",
            report.outcome()
        )
        .into());
    }
    let mut status = ExitCode::SUCCESS;
    for verdict in report.fail_if.iter().filter(|it| it.failed) {
        shared::say(&verdict.text);
        status = ExitCode::FAILURE;
    }
    let are_limited = plan.fail_if.iter().any(Condition::limits_failures);
    match measured.failures() {
        failures if failures > 0 && !are_limited => {
            Err(format!("{failures} steps failed; the errors are listed above").into())
        }
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
