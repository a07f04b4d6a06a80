//! The arguments of `bench`, and their validation before the run.

use std::{env, path::PathBuf, time::Duration};

use actix_sandbox::{BearerToken, Language, server::Backend};
use clap::{Args, Subcommand};

use super::{
    compare::Compare,
    condition::Condition,
    outputs::{Outputs, Place},
    pace::PaceOptions,
    plan::{Plan, Target},
    session,
};
use crate::{
    failure,
    shared::{self, backend, duration, warm},
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
    /// Compares the results of two runs, which --json wrote.
    Compare(Compare),
}

#[derive(Args)]
pub(super) struct RunOptions {
    /// URL of the service: wss://…, ws://…, https://… or http://…. If the path of the URL is a
    /// secret, set the variable SANDBOX_URL instead, because every user of this machine can read
    /// arguments [default: a local server in this process].
    url: Option<String>,

    /// Backend of the local server: auto, confined, host, namespace or gvisor. The variable
    /// SANDBOX_URL is then ignored [default: auto].
    #[arg(long, conflicts_with = "url", value_parser = backend)]
    backend: Option<Backend>,

    /// Size of the warm pool of the local server. The run starts when the pool is full. The
    /// variable SANDBOX_URL is then ignored [default: 0].
    #[arg(long, value_name = "NUMBER", conflicts_with = "url", value_parser = warm)]
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

    /// File with the access token, which is sent as `Authorization: Bearer …`. The default is the
    /// token in the variable ACTIX_SANDBOX_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Fails the run if this holds, for example 'p99(create)>500ms'. On the left: p50, p90, p95,
    /// p99, p99.9, max, mean or count, with a step in parentheses (create, exec_start,
    /// first_output, interactive, end, kill, whole); failures, the number of failed steps; or rate,
    /// the completed sandboxes per second. May be given more than once. By default, any failure
    /// fails the run; a condition about failures replaces that.
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
}

/// The variable with the URL of the service.
const URL: &str = "SANDBOX_URL";

impl RunOptions {
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
        let is_local = self.backend.is_some() || self.warm.is_some();
        let url = match self.url {
            None if !is_local => from_environment()?,
            url => url,
        };
        let token = match (&url, &self.token_file) {
            (Some(_), file) => shared::token(file.as_deref())?.map(BearerToken::new),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(format!(
                    "`--token-file` needs a service: pass its URL, or set the variable {URL}"
                ));
            }
        };
        if let Some(url) = &url {
            session::check(url, token.as_ref()).map_err(|error| failure::describe(&error))?;
        }
        let plan = Plan {
            target: match url {
                Some(url) => Target::Url(url),
                None => Target::Local(
                    self.backend.unwrap_or(Backend::Auto),
                    self.warm.unwrap_or(0),
                ),
            },
            token,
            pace: self.pace.pace(self.execs)?,
            execs: self.execs,
            language: Language::from(self.language),
            code,
            timeout: self.timeout,
            reconnect: self.reconnect,
            fail_if: self.fail_if,
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

/// Returns the URL in the variable. An empty variable counts as unset.
fn from_environment() -> Result<Option<String>, String> {
    match env::var(URL) {
        Ok(url) => Ok(Some(url).filter(|url| !url.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("the variable {URL} cannot be used: {error}")),
    }
}
