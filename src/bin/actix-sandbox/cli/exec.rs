//! `actix-sandbox exec`: runs a program in a sandbox.

use std::{process::ExitCode, time::Duration};

use actix_sandbox::{Command, Language, Process, Sandbox};
use clap::Args;

use crate::cli::{
    attached,
    failure::Failure,
    kept::{Kept, KeptSandboxes},
    known::{self, KnownSandbox},
    output, runtime,
    shared::{Assignment, assignment, duration},
    signals::Signals,
};

const STATUS: &str = "Exit status: that of the program, or 128 plus the number of the signal that \
    ended it; 124 after --timeout; 125 if this command failed; 2 for wrong arguments. Ctrl-C \
    interrupts the program; after more than two seconds, a second Ctrl-C kills it.";

#[derive(Args)]
#[command(
    after_help = STATUS,
    override_usage = "actix-sandbox exec [OPTIONS] ID PROGRAM [ARGS]...\n       \
                      actix-sandbox exec [OPTIONS] ID -c CODE [ARGS]..."
)]
pub(crate) struct Exec {
    #[command(flatten)]
    sandbox: KnownSandbox,

    /// Program and its arguments.
    #[arg(
        required_unless_present = "code",
        trailing_var_arg = true,
        value_name = "PROGRAM"
    )]
    program: Vec<String>,

    /// Runs this code instead of a program. The words that follow are arguments of the code. Write
    /// `--` before arguments that start with a dash.
    #[arg(short = 'c', long, value_name = "CODE", allow_hyphen_values = true)]
    code: Option<String>,

    /// Language of the code: python or bash.
    #[arg(long, value_name = "NAME", default_value = "python", requires = "code")]
    language: String,

    /// Starts the program, prints the id of its process and ends. `attach` shows its output.
    #[arg(short, long)]
    detach: bool,

    /// Working directory of the program [default: the home directory of the sandbox].
    #[arg(long, value_name = "DIRECTORY")]
    cwd: Option<String>,

    /// Sets an environment variable of the program. NAME alone takes the value from the environment
    /// of this command. May be given more than once.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = assignment)]
    env: Vec<Assignment>,

    /// Kills the program after this time, for example 30s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

impl Exec {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run_program(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let kept = self.sandbox.find()?;
        let sandbox = signals.or(known::attach(&kept)).await?;
        let started = attached::spawn(self.command(&sandbox), &sandbox);
        let process = attached::started(started, &mut signals).await?;
        if self.detach {
            let detached = detach(&process, &kept).await;
            if detached.is_err() {
                attached::kill(&process, &mut signals).await;
            }
            return detached.map(|()| ExitCode::SUCCESS);
        }
        attached::run_to_the_end(&process, &mut signals).await
    }

    fn command(&self, sandbox: &Sandbox) -> Command {
        let mut words = self.program.iter().cloned();
        let command = match &self.code {
            Some(code) => sandbox.command(Language::from(self.language.clone()), code),
            // clap requires a word.
            None => sandbox.program(words.next().unwrap_or_default()),
        };
        let mut command = command.args(words).envs(self.env.iter().cloned());
        if let Some(directory) = &self.cwd {
            command = command.cwd(directory);
        }
        if let Some(timeout) = self.timeout {
            command = command.timeout(timeout);
        }
        command
    }
}

/// Stores a reference to a process and prints its id.
async fn detach(process: &Process, kept: &Kept) -> Result<(), Failure> {
    let reference = process.to_ref().await?;
    let id = reference.exec_id().to_owned();
    KeptSandboxes::open()?.add_process(kept, reference).await?;
    output::print_line(&id)
}
