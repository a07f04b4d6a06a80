//! `actix-sandbox top`: what sandboxes use.

mod sample;
mod screen;
mod view;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use self::{sample::Sampler, screen::Screen};
use crate::cli::{
    failure::Failure,
    output::{self, Format},
    runtime,
    service::ServiceArguments,
    shared::duration,
};

/// The time between two samples on a terminal.
const INTERVAL: Duration = Duration::from_secs(2);

const DETAILS: &str = "Only one client at a time can be attached to a sandbox. While top runs, other \
    commands can't use the sandboxes that it shows as running, and their idle timeouts don't run. A \
    sandbox that another client uses is shown as `in use`. A sandbox that its service doesn't list is \
    shown as `not running`: it has ended, or it is checkpointed. CPU is the share of one processor \
    since the last sample.\n\n\
    Exit status: 130 after Ctrl-C, which is the normal way to end this command; 0 after one \
    sample; 1 if the command failed.";

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Top {
    /// Id of the sandbox, or an unambiguous prefix of it. Shows its running processes, too, and
    /// restores it if it was checkpointed [default: all your sandboxes].
    id: Option<String>,

    /// Time between two samples [default: 2s on a terminal; otherwise, top shows one sample].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    interval: Option<Duration>,

    /// Shows one sample and exits.
    #[arg(long, conflicts_with = "interval")]
    once: bool,

    /// Format of the output: text, or a JSON object for each sample, on a line of its own.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    service: ServiceArguments,
}

impl Top {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|mut signals| async move {
            let shown = signals.or(self.show()).await;
            shown.map_err(Failure::quiet_if_interrupted)
        })
    }

    async fn show(self) -> Result<ExitCode, Failure> {
        let is_terminal = io::stdout().is_terminal();
        let is_once = self.once || (!is_terminal && self.interval.is_none());
        let mut sampler = Sampler::new(self.id, self.service);
        let mut screen = None;
        let mut ticks = interval(self.interval.unwrap_or(INTERVAL));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sample = sampler.sample().await?;
            match self.output {
                Format::Json => output::print_json_line(&sample)?,
                Format::Text if is_terminal && !is_once => {
                    screen
                        .get_or_insert_with(Screen::enter)
                        .show(&view::text(&sample))?;
                }
                Format::Text => output::print(&view::text(&sample))?,
            }
            if is_once {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
