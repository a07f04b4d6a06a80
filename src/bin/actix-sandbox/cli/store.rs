//! `actix-sandbox snapshot` and `actix-sandbox checkpoint`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::{
    failure::{Failure, STATUS},
    known::{self, KnownSandbox},
    output, runtime,
};

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Snapshot {
    #[command(flatten)]
    sandbox: KnownSandbox,

    /// Name of the snapshot, for `--snapshot` of `create`, `run` and `shell`.
    name: String,
}

impl Snapshot {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|mut signals| async move {
            let stored = async {
                let sandbox = self.sandbox.attach().await?;
                Ok(sandbox.snapshot_filesystem(&self.name).await?)
            };
            signals.or(stored).await?;
            output::print_line(&format!("stored {}", self.name))?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    sandbox: KnownSandbox,
}

impl Checkpoint {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|mut signals| async move {
            let kept = self.sandbox.find()?;
            if kept.checkpoint == Some(false) {
                return Err(format!(
                    "cannot checkpoint {}: it was created without `--checkpoint`",
                    kept.id
                )
                .into());
            }
            let stored = async {
                let sandbox = known::attach(&kept).await?;
                sandbox.checkpoint().await?;
                Ok(sandbox.sandbox_id().clone())
            };
            let id = signals.or(stored).await?;
            output::print_line(&format!(
                "checkpointed {id}; the next command that uses it restores it"
            ))?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
