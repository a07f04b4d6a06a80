//! The arguments of `bench`, and their validation before the run.

use std::{path::PathBuf, time::Duration};

use actix_sandbox::{BearerToken, Language, server::Backend};
use clap::Args;

use super::{
    outputs::{Outputs, Place},
    plan::{Plan, Target},
    session,
};
use crate::{
    service,
    shared::{self, backend},
};

#[derive(Args)]
pub(crate) struct Bench {
    /// URL of the service: wss://…, ws://…, https://… or http://…. If the path of the URL is a
    /// secret, set the variable ACTIX_SANDBOX_URL instead, because every user of this machine can
    /// read arguments [default: a local server in this process].
    #[arg(env = "ACTIX_SANDBOX_URL", hide_env = true)]
    url: Option<String>,

    /// Backend of the local server: auto, confined, host, namespace or gvisor [default: auto].
    #[arg(long, conflicts_with = "url", value_parser = backend)]
    backend: Option<Backend>,

    /// Number of sandboxes to measure [default: 100, or no limit with --duration].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    sandboxes: Option<u64>,

    /// How long to start and measure sandboxes, for example 30s. The benchmark then waits for the
    /// sandboxes that still run.
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    duration: Option<Duration>,

    /// Maximum number of concurrent sandboxes. Without --rate, this many run all the time: a new
    /// one starts whenever one ends (a closed loop).
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,

    /// Number of sandboxes that arrive per second, whether or not earlier ones are done (an open
    /// loop). If --concurrency makes a sandbox wait, its latencies still count from its arrival, so
    /// that they show the wait.
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,

    /// How long to run sandboxes before measuring starts, for example 5s.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    warm_up: Duration,

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
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = some_time)]
    timeout: Duration,

    /// Reconnects lost connections and reports their number. Without this, a lost connection is an
    /// error.
    #[arg(long)]
    reconnect: bool,

    /// File with the access token, which is sent as `Authorization: Bearer …`. The default is the
    /// token in the variable ACTIX_SANDBOX_TOKEN.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,

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
}

/// Default number of sandboxes to measure.
const SANDBOXES: u64 = 100;

/// Maximum arrivals per second: one per microsecond.
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
        Ok(Duration::ZERO) => Err("expected a time longer than 0".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

impl Bench {
    /// Validates the arguments. Returns the plan and the outputs, or an error before anything runs.
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
            session::check(url, token.as_ref()).map_err(|error| service::failed(&error))?;
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
