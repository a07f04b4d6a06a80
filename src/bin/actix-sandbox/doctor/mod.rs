//! `actix-sandbox doctor`: which backends work on this machine, what the others lack, and which
//! limits hold. With a URL: whether the service works.

mod advice;
mod backends;
mod interrupt;
mod printer;
mod report;
mod service;
mod target;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use actix_sandbox::BearerToken;
use clap::Args;

use crate::shared;
use interrupt::{Interrupt, Stop};
use printer::{Format, Printer};
use report::Report;
use target::Target;

/// How long one check may take. A check that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Checks which backends work on this machine, or whether a service works.
///
/// Without a URL: starts a server with each backend, creates a sandbox and runs `true` in it.
/// Prints which backends work, what the others lack and how to get it, and which limits hold.
///
/// With a URL: connects to the service, creates a sandbox, runs `true` in it and kills it. Prints
/// the time of each step, the version of the protocol and the features of the service.
///
/// The exit status is 0 if a backend that confines code works or, with a URL, if the service works.
/// Otherwise it is 1.
#[derive(Args)]
pub(crate) struct Doctor {
    /// URL of a service to check: wss://…, ws://…, https://… or http://…. If the path of the URL is
    /// a secret, set the variable SANDBOX_URL instead, because every user of this machine can read
    /// arguments [default: check this machine].
    #[arg(long, value_name = "URL", env = "SANDBOX_URL", hide_env = true)]
    url: Option<String>,

    /// File with the access token, which is sent as `Authorization: Bearer …`. The default is the
    /// token in the variable ACTIX_SANDBOX_TOKEN.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,

    /// Sends a Google ID token, for a service on Cloud Run that requires authentication.
    #[cfg(feature = "google-auth")]
    #[arg(long, requires = "url", conflicts_with = "token_file")]
    google_auth: bool,

    /// Format of the report, which goes to stdout. The JSON is one object; its key `format` is the
    /// version of its layout.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,
}

impl Doctor {
    pub(crate) fn run(mut self) -> Result<ExitCode, String> {
        // As `serve` does, so that the limits are those of `serve`.
        shared::raise_open_files();
        let target = self.target()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        match runtime.block_on(check(target, self.output)) {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::FAILURE),
            Err(stop) => stop.exit(),
        }
    }

    /// The service to check. Fails if the URL or the token is invalid. An empty URL, as in
    /// `SANDBOX_URL= actix-sandbox doctor`, means none.
    fn target(&mut self) -> Result<Option<Target>, String> {
        let Some(url) = self.url.take().filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        #[cfg(feature = "google-auth")]
        let google_auth = self.google_auth;
        #[cfg(not(feature = "google-auth"))]
        let google_auth = false;
        let token = match google_auth {
            true => None,
            false => shared::token(self.token_file.as_deref())?.map(BearerToken::new),
        };
        Target::new(url, token, google_auth).map(Some)
    }
}

/// Runs the checks and prints the report. Returns whether the machine or the service works.
async fn check(target: Option<Target>, format: Format) -> Result<bool, Stop> {
    let mut interrupt = Interrupt::new()?;
    let mut printer = Printer::new(format);
    let report = match target {
        Some(target) => {
            let service = service::check(&target, &mut interrupt, &mut printer).await?;
            Report::of_service(service)
        }
        None => {
            let machine = backends::check(&mut interrupt, &mut printer).await?;
            Report::of_machine(machine)
        }
    };
    printer.end(&report)?;
    Ok(report.works)
}
