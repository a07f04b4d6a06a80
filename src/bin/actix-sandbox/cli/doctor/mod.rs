//! `actix-sandbox doctor`: which backends work on this machine, what the others lack, and which
//! limits hold. With a URL: whether the service works.

mod advice;
mod backends;
mod printer;
mod report;
mod service;
mod target;

use std::{process::ExitCode, time::Duration};

use clap::Args;

use crate::cli::{
    failure::Failure, output::Format, runtime, service::ServiceArguments, shared, signals::Signals,
};
use printer::Printer;
use report::Report;
use target::Target;

/// How long one check may take. A check that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Checks which backends work on this machine, or whether a service works.
///
/// Without a URL: starts a server with each backend, creates a sandbox and runs `true` in it.
/// Prints which backends work, why the others don't work and how to fix that, and which limits the
/// backends enforce.
///
/// With a URL, from the arguments, the environment or the configuration file: connects to the
/// service, creates a sandbox, runs `true` in it and kills it. Prints the time of each step, the
/// version of the protocol and the features of the service.
///
/// The exit status is 0 if a backend that confines code works or, with a URL, if the service works.
/// Otherwise it is 1.
#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    service: ServiceArguments,

    /// Format of the report, which goes to stdout. The JSON is one object; its key `format` is the
    /// version of its layout.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        // As `serve` does, so that the limits are those of `serve`.
        shared::raise_open_files();
        let target = self.service.find()?.map(Target::new).transpose()?;
        if target.is_none() {
            self.service.check_unused()?;
        }
        runtime::run(|signals| async move {
            match Box::pin(check(target, self.output, signals)).await? {
                true => Ok(ExitCode::SUCCESS),
                false => Ok(ExitCode::FAILURE),
            }
        })
    }
}

/// Runs the checks and prints the report. Returns whether the machine or the service works.
async fn check(
    target: Option<Target>,
    format: Format,
    mut signals: Signals,
) -> Result<bool, Failure> {
    let mut printer = Printer::new(format);
    let report = match target {
        Some(target) => {
            let service = service::check(&target, &mut signals, &mut printer).await?;
            Report::of_service(service)
        }
        None => {
            let machine = backends::check(&mut signals, &mut printer).await?;
            Report::of_machine(machine)
        }
    };
    printer.end(&report)?;
    Ok(report.works)
}
