//! The arguments of `bench`, and their validation before the run.

use std::{path::PathBuf, time::Duration};

use actix_sandbox::{Language, Sandbox, server::Backend};
use clap::{Args, Subcommand};

use super::{
    compare::Compare,
    condition::Condition,
    outputs::{Outputs, Place},
    pace::PaceOptions,
    plan::{Plan, Target},
};
use crate::cli::{
    failure::Failure,
    service::ServiceArguments,
    shared::{LOCAL_SERVER, backend, duration, warm},
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(super) command: Option<BenchCommand>,

    #[command(flatten)]
    pub(super) run: RunOptions,
}

#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// Compares the results of two runs.
    Compare(Compare),
}

#[derive(Args)]
pub(super) struct RunOptions {
    /// Measures a local server with this backend, even if a service is named: confined, gvisor,
    /// namespace, auto or host [default: auto, if no service is named].
    #[arg(long, conflicts_with = "url", value_parser = backend, help_heading = LOCAL_SERVER)]
    backend: Option<Backend>,

    /// Measures a local server with a warm pool of this size, even if a service is named. The run
    /// starts when the pool is full [default: 0].
    #[arg(long, value_name = "NUMBER", conflicts_with = "url", value_parser = warm, help_heading = LOCAL_SERVER)]
    warm: Option<usize>,

    #[command(flatten)]
    pace: PaceOptions,

    /// How many times each sandbox runs the script, in sequence; at most 10000.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    execs: u32,

    /// Language of the script.
    #[arg(long, value_name = "NAME", default_value = "bash")]
    language: String,

    /// Code that each sandbox runs [default: code that prints a line].
    #[arg(long, value_name = "CODE", conflicts_with = "script_file")]
    script: Option<String>,

    /// File with the code that each sandbox runs.
    #[arg(long, value_name = "FILE")]
    script_file: Option<PathBuf>,

    /// Timeout of each step of a sandbox, for example 60s.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,

    /// Reconnects lost connections and reports their number. Without this, a lost connection is an
    /// error.
    #[arg(long)]
    reconnect: bool,

    /// Fails the run if this expression holds, for example 'p99(create)>500ms'. May be given more
    /// than once. By default, any failure fails the run.
    ///
    /// On the left of < or >: p50, p90, p95, p99, p99.9, max, mean or count, with a step in
    /// parentheses (create, exec_start, first_output, interactive, end, kill, whole); failures, the
    /// number of failed steps; or rate, the completed sandboxes per second. An expression about
    /// failures replaces the default.
    #[arg(long, value_name = "EXPRESSION", value_parser = Condition::parse)]
    fail_if: Vec<Condition>,

    /// Writes the results to this file as JSON. With -, the JSON goes to standard output and the
    /// table to standard error.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Writes the results to this file as a web page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Hides the progress bar.
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    service: ServiceArguments,
}

impl RunOptions {
    /// Validates the arguments. Returns the plan and the outputs, or an error before anything runs.
    pub(super) fn plan(self) -> Result<(Plan, Outputs), Failure> {
        let code = match (self.script, &self.script_file) {
            (Some(code), _) => code,
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read the script {}: {error}", file.display()))?,
            (None, None) => match self.language.as_str() {
                "python" => "print('hello')".to_owned(),
                _ => "echo hello".to_owned(),
            },
        };
        let is_local = self.backend.is_some() || self.warm.is_some();
        let target = match is_local {
            true => None,
            false => self.service.find()?,
        };
        let target = match target {
            Some(service) => {
                // The URL and the token are checked before anything runs.
                let builder = service.configure(Sandbox::create(&service.url))?;
                builder.into_actor()?;
                Target::Service(service)
            }
            None => {
                self.service.check_unused()?;
                let backend = self.backend.unwrap_or(Backend::Auto);
                Target::Local(backend, self.warm.unwrap_or(0))
            }
        };
        let plan = Plan {
            target,
            pace: self.pace.pace(self.execs)?,
            execs: self.execs,
            language: Language::from(self.language),
            code,
            timeout: self.timeout,
            reconnect: self.reconnect,
            fail_if: self.fail_if,
        };
        if self.json.is_some() && self.json == self.html {
            return Err("--json and --html name the same file".into());
        }
        let outputs = Outputs {
            json: self.json.map(Place::open).transpose()?,
            html: self.html.map(Place::open).transpose()?,
            quiet: self.quiet,
        };
        Ok((plan, outputs))
    }
}
