//! `actix-sandbox attach`: resumes a process, restores a sandbox, or adds one to those of this user.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::cli::{
    attached,
    failure::Failure,
    kept::{Kept, KeptSandboxes, record},
    known, output, process, runtime,
    service::ServiceArguments,
    shared,
    signals::Signals,
};

const STATUS: &str = "Exit status: that of the process, or 128 plus the number of the signal that \
    ended it; 125 if this command failed; 2 for wrong arguments. Ctrl-C interrupts the process. A \
    second Ctrl-C after more than two seconds, SIGTERM and SIGHUP end only this command: the \
    process keeps running.";

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Attach {
    /// Id of one of your sandboxes, or an unambiguous prefix of it. With --sandbox-token-file, the
    /// whole id. Restores the sandbox if it was checkpointed.
    id: String,

    /// Id of a process in the sandbox, or an unambiguous prefix of it. Connects standard input and
    /// output to the process. The output continues where the last reader stopped.
    process: Option<String>,

    /// File with the token of a sandbox that another program has created. Adds the sandbox to your
    /// sandboxes.
    #[arg(long, value_name = "FILE")]
    sandbox_token_file: Option<PathBuf>,

    #[command(flatten)]
    service: ServiceArguments,
}

impl Attach {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run_program(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let kept = match &self.sandbox_token_file {
            Some(file) => Kept {
                id: self.id.clone(),
                token: shared::sandbox_token(file)?,
                service: self.service.require()?,
                created_ms: 0,
                checkpoint: None,
                processes: Vec::new(),
            },
            None => known::find(&self.id, &self.service)?,
        };
        let sandbox = signals.or(known::attach(&kept)).await?;
        if self.sandbox_token_file.is_some() {
            record(Kept::new(&sandbox, &kept.service, None)).await?;
        }
        let Some(id) = &self.process else {
            output::print_line(&format!("{} is running", kept.id))?;
            return Ok(ExitCode::SUCCESS);
        };
        let resumed = async {
            let reference = process::find(&sandbox, &kept, id).await?;
            let process = sandbox.attach_process(&reference).await?;
            Ok((process, reference.exec_id().to_owned()))
        };
        let (process, id) = signals.or(resumed).await?;
        let end = attached::run(&process, &mut signals).await?;
        KeptSandboxes::open()?.remove_process(&kept, &id).await?;
        Ok(attached::status(&end))
    }
}
