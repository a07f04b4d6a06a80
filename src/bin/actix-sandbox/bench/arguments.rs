//! The arguments of `bench`, and what is made of them before anything runs.

use std::{path::PathBuf, time::Duration};

use actix_sandbox::{BearerToken, Language, server::Backend};
use clap::Args;

use super::{
    outputs::{Outputs, Place},
    plan::{Plan, Target},
    session,
};
use crate::shared::{self, backend};

#[derive(Args)]
pub(crate) struct Bench {
    /// The service, as wss://…, ws://…, https://… or http://…, or the variable ACTIX_SANDBOX_URL:
    /// every user of this machine can read arguments, and the path of the URL may be a secret
    /// [default: a local server in this process].
    #[arg(env = "ACTIX_SANDBOX_URL", hide_env = true)]
    url: Option<String>,

    /// What runs the code of the local server: auto, host, namespace or gvisor [default: auto].
    #[arg(long, conflicts_with = "url", value_parser = backend)]
    backend: Option<Backend>,

    /// How many sandboxes to measure [default: 100, or as many as --duration permits].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    sandboxes: Option<u64>,

    /// How long to measure, for example 30s. What runs then is waited for.
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    duration: Option<Duration>,

    /// Most sandboxes at once. Without --rate: exactly so many, each followed by the next (a closed loop).
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,

    /// Sandboxes that arrive in a second, whether the ones before are done or not (an open loop). One that has to wait because
    /// --concurrency is reached is measured from its arrival, so that a slow server cannot hide it.
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,

    /// How long to run before anything is measured, for example 5s.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    warm_up: Duration,

    /// How often each sandbox runs the script, one after the other; at most 10000, whose times are held until its end.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    execs: u32,

    /// The language of the script.
    #[arg(long, value_name = "NAME", default_value = "bash")]
    language: String,

    /// The code that each sandbox runs [default: one that prints a line].
    #[arg(long, value_name = "CODE", conflicts_with = "script_file")]
    script: Option<String>,

    /// A file with that code.
    #[arg(long, value_name = "FILE")]
    script_file: Option<PathBuf>,

    /// Longest time of each step of a sandbox, for example 60s.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = some_time)]
    timeout: Duration,

    /// Reconnects a lost connection, and counts it, where otherwise it is an error.
    #[arg(long)]
    reconnect: bool,

    /// A file with the token that the service wants as `Authorization: Bearer …`. Or the variable ACTIX_SANDBOX_TOKEN.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,

    /// Writes the results as JSON, to a file or, for -, to the standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Writes the results as a web page with plots, in one file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Shows no progress.
    #[arg(long)]
    quiet: bool,
}

/// Sandboxes that are measured where nothing else is said.
const SANDBOXES: u64 = 100;

/// A rate above which arrivals have no time between them.
const MAX_RATE: f64 = 1_000_000.0;

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= MAX_RATE => Ok(rate),
        _ => Err(format!(
            "expected a number above 0 and up to {MAX_RATE}, for example 2.5"
        )),
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than no time".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

impl Bench {
    /// What is to be done, and where the results go. Everything that can be wrong is wrong before anything runs.
    pub(super) fn plan(self) -> Result<(Plan, Outputs), String> {
        let code = match (self.script, &self.script_file) {
            (Some(code), _) => code,
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read the script {}: {error}", file.display()))?,
            (None, None) => match self.language.as_str() {
                "python" => "print('hello')".to_owned(),
                _ => "echo hello".to_owned(),
            },
        };
        let token = match self.url {
            Some(_) => shared::token(self.token_file.as_deref())?.map(BearerToken::new),
            None => None,
        };
        if let Some(url) = &self.url {
            session::check(url, token.as_ref()).map_err(|error| shared::failed(&error))?;
        }
        let plan = Plan {
            target: match self.url {
                Some(url) => Target::Url(url),
                None => Target::Local(self.backend.unwrap_or(Backend::Auto)),
            },
            token,
            sandboxes: match (self.sandboxes, self.duration) {
                (None, None) => Some(SANDBOXES),
                (sandboxes, _) => sandboxes,
            },
            duration: self.duration,
            concurrency: usize::try_from(self.concurrency).unwrap_or(usize::MAX),
            rate: self.rate,
            warm_up: self.warm_up,
            execs: self.execs,
            language: Language::from(self.language),
            code,
            timeout: self.timeout,
            reconnect: self.reconnect,
        };
        if self.json.is_some() && self.json == self.html {
            return Err("--json and --html name the same file".to_owned());
        }
        let outputs = Outputs {
            json: self.json.map(Place::open).transpose()?,
            html: self.html.map(Place::open).transpose()?,
            quiet: self.quiet,
        };
        Ok((plan, outputs))
    }
}
