//! `actix-sandbox kill`: ends sandboxes, or a process in one.

use std::process::ExitCode;

use actix_sandbox::{ErrorKind, SandboxEnd, Signal};
use clap::Args;
use futures::{StreamExt, stream};

use crate::cli::{
    failure::{Failure, STATUS},
    kept::{Kept, forget},
    known, output, process, runtime,
    service::ServiceArguments,
    shared::say,
};

/// How many sandboxes are killed concurrently.
const AT_ONCE: usize = 16;

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Kill {
    /// Ids of your sandboxes, or unambiguous prefixes of them, with or without `sandbox-`.
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,

    /// Kills all your sandboxes, on every service or only on that of --url. Needs --mine.
    #[arg(long, requires = "mine", conflicts_with = "ids")]
    all: bool,

    /// Confirms that --all means the sandboxes that `list --mine` shows.
    #[arg(long, requires = "all")]
    mine: bool,

    /// Kills only this process in the sandbox: its id, or an unambiguous prefix of it. `inspect`
    /// and `top ID` show the ids.
    #[arg(long, value_name = "PROCESS", conflicts_with = "all")]
    process: Option<String>,

    /// Sends this signal to the process instead of killing it, for example TERM or 15.
    #[arg(long, value_name = "SIGNAL", requires = "process")]
    signal: Option<Signal>,

    /// Removes sandboxes that can't be killed from your sandboxes. Their tokens are lost, even if
    /// they still run.
    #[arg(long, conflicts_with = "process")]
    forget: bool,

    #[command(flatten)]
    service: ServiceArguments,
}

impl Kill {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|mut signals| async move { signals.or(self.kill()).await })
    }

    async fn kill(self) -> Result<ExitCode, Failure> {
        let kept = match self.all {
            true => known::all(&self.service)?,
            false => self
                .ids
                .iter()
                .map(|id| known::find(id, &self.service))
                .collect::<Result<_, _>>()?,
        };
        if let Some(id) = &self.process {
            let [kept] = &kept[..] else {
                return Err("`--process` needs one sandbox".into());
            };
            let sandbox = known::attach(kept).await?;
            let process = process::find(&sandbox, kept, id).await?;
            let process = sandbox.attach_process(&process).await?;
            match self.signal {
                Some(signal) => process.signal(signal).await?,
                None => process.kill().await?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut failures = 0;
        let kills = kept.iter().map(|kept| self.end(kept));
        let mut kills = stream::iter(kills).buffered(AT_ONCE);
        while let Some(killed) = kills.next().await {
            match killed {
                Ok(said) => output::print_line(&said)?,
                Err(failure) => {
                    failure.report();
                    failures += 1;
                }
            }
        }
        if kept.is_empty() {
            say("you have no sandboxes to kill");
        }
        match failures {
            0 => Ok(ExitCode::SUCCESS),
            _ => Err(format!("{failures} of {} sandboxes may still run", kept.len()).into()),
        }
    }

    /// Kills a sandbox and forgets it. Returns what happened.
    async fn end(&self, kept: &Kept) -> Result<String, Failure> {
        let id = &kept.id;
        let mut killed = kill(kept).await;
        if matches!(killed, Killed::NotFound) {
            // A service with several instances may have asked another one.
            killed = kill(kept).await;
        }
        let said = match killed {
            Killed::Done => format!("killed {id}"),
            Killed::NotFound => format!("{id} was already gone"),
            Killed::Failed(failure) if self.forget => format!("forgot {id}: {}", failure.reason()),
            Killed::Failed(failure) => return Err(failure),
        };
        forget(id, &kept.service).await?;
        Ok(said)
    }
}

enum Killed {
    Done,
    NotFound,
    Failed(Failure),
}

async fn kill(kept: &Kept) -> Killed {
    let killed = match known::try_attach(kept).await {
        Ok(Ok(sandbox)) => sandbox.kill().await,
        Ok(Err(error)) => Err(error),
        Err(failure) => return Killed::Failed(failure),
    };
    match killed {
        Ok(()) => Killed::Done,
        Err(error) if error.kind() == ErrorKind::NotFound => Killed::NotFound,
        Err(error) if error.sandbox_end() == Some(&SandboxEnd::LifetimeEnded) => Killed::NotFound,
        Err(error) => Killed::Failed(known::describe(kept, &error)),
    }
}
