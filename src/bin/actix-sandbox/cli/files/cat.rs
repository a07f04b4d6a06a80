//! `actix-sandbox cat`: the content of files of a sandbox.

use std::process::ExitCode;

use clap::Args;

use super::place::RemotePath;
use crate::cli::{
    failure::{Failure, STATUS},
    known, operation, output, runtime,
    service::ServiceArguments,
    signals::Signals,
};

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Cat {
    /// Files. ID is the id of one of your sandboxes, or an unambiguous prefix of it. The command stops
    /// at the first file that can't be read.
    #[arg(required = true, value_name = "ID:PATH", value_parser = RemotePath::parser())]
    files: Vec<RemotePath>,

    #[command(flatten)]
    service: ServiceArguments,
}

impl Cat {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let mut current = None;
        for file in &self.files {
            let kept = file.find(&self.service)?;
            let sandbox = match current.take() {
                Some((id, sandbox)) if id == kept.id => sandbox,
                _ => signals.or(known::attach(&kept)).await?,
            };
            let copied = async {
                let content = sandbox.files().open(file.path()).await?;
                output::copy_to_stdout(content, |_| Ok(())).await
            };
            operation::run(&sandbox, &mut signals, copied).await?;
            current = Some((kept.id, sandbox));
        }
        Ok(ExitCode::SUCCESS)
    }
}
