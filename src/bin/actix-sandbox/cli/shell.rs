//! `actix-sandbox shell`: a terminal in a sandbox.

use std::process::ExitCode;

use actix_sandbox::{Sandbox, TerminalBuilder};
use clap::Args;

use crate::cli::{
    attached,
    failure::Failure,
    known, runtime,
    session::{Session, SessionArguments},
    shared::{Assignment, assignment},
    signals::Signals,
    terminal,
};

const STATUS: &str = "Exit status: that of the program; 125 if this command failed; 2 for wrong \
    arguments. Control characters such as Ctrl-C go to the program. If the connection is lost, the \
    command reconnects and loses nothing that was typed or shown.";

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Shell {
    /// Id of one of your sandboxes, or an unambiguous prefix of it, with or without `sandbox-`
    /// [default: a new sandbox, which ends with this command].
    id: Option<String>,

    /// Program and its arguments [default: a login shell].
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<String>,

    /// Sets an environment variable of the program. NAME alone takes the value from the environment
    /// of this command. May be given more than once.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = assignment)]
    env: Vec<Assignment>,

    /// Starts a new sandbox with the files of this filesystem snapshot. Needs a service.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    snapshot: Option<String>,

    /// Keeps the new sandbox until it is idle for 1h, and prints its id to standard error. Needs a
    /// service.
    #[arg(long, conflicts_with = "id")]
    keep: bool,

    #[command(flatten)]
    session: SessionArguments,
}

impl Shell {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run_program(|signals| self.start(signals))
    }

    async fn start(mut self, mut signals: Signals) -> Result<ExitCode, Failure> {
        if let Some(id) = &self.id {
            if self.session.is_local() {
                return Err(
                    "`--backend` and `--network` are for a new sandbox: leave them out, or leave out \
                     the id"
                        .into(),
                );
            }
            let kept = known::find(id, self.session.service_arguments())?;
            let sandbox = signals.or(known::attach(&kept)).await?;
            return self.open(&sandbox, &mut signals).await;
        }
        let snapshot = self.snapshot.take();
        let session = Session::create(&self.session, snapshot, self.keep, &mut signals).await?;
        let done = self.open(&session.sandbox, &mut signals).await;
        match self.keep {
            true => session.keep(done, &mut signals).await,
            false => session.end_after(done, &mut signals).await,
        }
    }

    async fn open(&self, sandbox: &Sandbox, signals: &mut Signals) -> Result<ExitCode, Failure> {
        let builder = self.builder(sandbox);
        let terminal = match signals.while_creating(builder.open()).await {
            Ok(opened) => opened?,
            Err((stopped, opened)) => {
                if let Some(Ok(terminal)) = opened {
                    attached::kill(terminal.process(), signals).await;
                }
                return Err(stopped);
            }
        };
        let process = terminal.process().clone();
        let connected = terminal::connect(terminal, signals).await;
        if connected.is_err() && (self.id.is_some() || self.keep) {
            // The sandbox lives on, but its program must not.
            attached::kill(&process, signals).await;
        }
        Ok(attached::status(&connected?))
    }

    fn builder(&self, sandbox: &Sandbox) -> TerminalBuilder {
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        let mut builder = sandbox.terminal().size(columns, rows);
        if let Some((program, arguments)) = self.program.split_first() {
            builder = builder.program(program).args(arguments.iter().cloned());
        }
        // The program draws for this terminal.
        if let Ok(kind) = std::env::var("TERM") {
            builder = builder.env("TERM", kind);
        }
        for (name, value) in &self.env {
            builder = builder.env(name, value);
        }
        builder
    }
}
