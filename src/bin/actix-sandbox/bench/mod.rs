//! `actix-sandbox bench`: runs many sandboxes at once, and measures how long each step takes.

mod arguments;
mod load;
mod measure;
mod outputs;
mod page;
mod plan;
mod plot;
mod report;
mod schedule;
mod session;

pub(crate) use arguments::Bench;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use actix_sandbox::{LocalServer, server::ServerError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::shared;
use load::Stopped;
use measure::Measured;
use outputs::Outputs;
use plan::{Plan, Target};
use report::Report;

/// The exit status that a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        let (plan, outputs) = self.plan()?;
        shared::raise_open_files();
        actix::System::new().block_on(bench(plan, outputs))
    }
}

async fn bench(plan: Plan, outputs: Outputs) -> Result<ExitCode, String> {
    let cannot = |error: ServerError| {
        format!(
            "cannot start a local server: {}",
            shared::not_started(&error)
        )
    };
    let (server, url) = match &plan.target {
        Target::Url(url) => (None, url.clone()),
        Target::Local(backend) => {
            let server = LocalServer::builder()
                .backend(backend.clone())
                .max_sandboxes(plan.concurrency.saturating_mul(2).max(1_000))
                .max_connections(plan.concurrency.saturating_mul(2).max(25_000))
                .start()
                .await
                .map_err(cannot)?;
            let url = server.url().to_owned();
            (Some(server), url)
        }
    };
    let name = match &server {
        Some(server) => format!("a local server (backend {})", server.backend()),
        None => shared::shown_url(&url),
    };
    let bar = progress(&plan, outputs.quiet);
    bar.set_message(name.clone());
    let (measured, stopped) = load::run(&plan, &url, &bar).await?;
    bar.finish_and_clear();
    if let Some(server) = server {
        server.stop().await;
    }
    finish(
        &Report::new(&plan, name, &measured, &stopped),
        &outputs,
        &measured,
        &stopped,
    )
}

/// Writes the results, including those of a run that ended early, and returns the exit status.
fn finish(
    report: &Report,
    outputs: &Outputs,
    measured: &Measured,
    stopped: &Stopped,
) -> Result<ExitCode, String> {
    outputs.write(report, measured)?;
    let counts = measured.counts();
    match stopped {
        Stopped::Done if counts.completed + counts.failed == 0 => Err(format!(
            "nothing was measured: {}; try a longer --duration, a shorter --warm-up, or a lower --rate",
            report.outcome()
        )),
        Stopped::Done if measured.failures() == 0 => Ok(ExitCode::SUCCESS),
        Stopped::Done => Err(format!(
            "{} steps failed; the errors are listed above",
            measured.failures()
        )),
        Stopped::Interrupted => {
            shared::say("interrupted; the results up to then are listed above");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Stopped::Unreachable(why) => Err(format!("no sandbox could be created: {why}")),
        Stopped::ServerLost(why) => Err(format!(
            "the server is gone: {why}; the results up to then are listed above"
        )),
    }
}

fn progress(plan: &Plan, quiet: bool) -> ProgressBar {
    let bar = match (plan.sandboxes, plan.duration) {
        (Some(count), _) => ProgressBar::new(count),
        (None, Some(duration)) => {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            ProgressBar::new(millis(duration.saturating_add(plan.warm_up)))
        }
        (None, None) => ProgressBar::new_spinner(),
    };
    if quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {prefix} {elapsed}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
