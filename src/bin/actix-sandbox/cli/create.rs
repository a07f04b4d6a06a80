//! `actix-sandbox create`: a sandbox that outlives the command.

use std::{process::ExitCode, time::Duration};

use actix_sandbox::{NewSandbox, Sandbox, SandboxBuilder};
use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use crate::cli::{
    failure::{Failure, STATUS},
    kept::{Kept, forget, record},
    output::{self, Format},
    runtime,
    service::ServiceArguments,
    session::{created, kill},
    shared::{Assignment, assignment, duration, label, positive_u64, say, size},
    signals::Signals,
};

const LIMITS: &str = "Limits (protocol v2)";

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Create {
    /// Adds a label. May be given more than once. Needs protocol v2.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<Assignment>,

    /// Sets an environment variable of every process in the sandbox. NAME alone takes the value
    /// from the environment of this command. May be given more than once. Needs protocol v2.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = assignment)]
    env: Vec<Assignment>,

    /// Starts with the files of this filesystem snapshot.
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,

    /// The service deletes the sandbox after this time without a process or a client.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    idle_timeout: Duration,

    /// The service deletes the sandbox after this time [default: no limit].
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = LIMITS)]
    max_lifetime: Option<Duration>,

    /// Lets `actix-sandbox checkpoint` store this sandbox.
    #[arg(long)]
    checkpoint: bool,

    /// Checkpoints the sandbox at the idle timeout instead of deleting it. Implies --checkpoint.
    #[arg(long)]
    checkpoint_when_idle: bool,

    /// Lets another server that shares the same storage (`serve --state`) take over this sandbox.
    #[arg(long)]
    handoff: bool,

    /// Maximum memory of the sandbox [default: the limit of the service].
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    memory: Option<ByteSize>,

    /// Maximum number of processes and threads [default: the limit of the service].
    #[arg(long, value_name = "NUMBER", value_parser = positive_u64, help_heading = LIMITS)]
    processes: Option<u64>,

    /// Maximum size of all files of the sandbox on disk [default: the limit of the service].
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    disk: Option<ByteSize>,

    /// Format of the output: the id, or a JSON object.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    service: ServiceArguments,
}

impl Create {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let service = self.service.require()?;
        let builder = service.configure(Sandbox::create(&service.url))?;
        let sandbox = created(self.options(builder), &mut signals).await?;
        let id = sandbox.sandbox_id();
        let recorded = record(Kept::new(&sandbox, &service, Some(self.can_checkpoint()))).await;
        let printed = match &recorded {
            Ok(()) => match self.output {
                Format::Text => output::print_line(id.as_str()),
                Format::Json => output::print_json(&json!({
                    "id": id.as_str(),
                    "service": service.shown(),
                    "protocol": sandbox.protocol_version().to_string(),
                })),
            },
            Err(reason) => Err(reason.clone().into()),
        };
        if printed.is_err() {
            // Its id is not known to the user, or its token is not stored.
            match kill(&sandbox, &mut signals).await {
                Ok(()) if recorded.is_ok() => {
                    forget(id.as_str(), &service).await.unwrap_or_else(say);
                }
                Ok(()) => {}
                Err(failure) => drop(failure.report()),
            }
        }
        printed.map(|()| ExitCode::SUCCESS)
    }

    fn can_checkpoint(&self) -> bool {
        self.checkpoint || self.checkpoint_when_idle
    }

    fn options(&self, mut builder: SandboxBuilder<NewSandbox>) -> SandboxBuilder<NewSandbox> {
        builder = builder
            .idle_timeout(self.idle_timeout)
            .checkpoint(self.can_checkpoint())
            .checkpoint_when_idle(self.checkpoint_when_idle)
            .handoff(self.handoff);
        for (key, value) in &self.label {
            builder = builder.label(key, value);
        }
        for (name, value) in &self.env {
            builder = builder.env(name, value);
        }
        if let Some(name) = &self.snapshot {
            builder = builder.snapshot(name);
        }
        if let Some(lifetime) = self.max_lifetime {
            builder = builder.max_lifetime(lifetime);
        }
        if let Some(size) = self.memory {
            builder = builder.memory_limit(size.as_u64());
        }
        if let Some(number) = self.processes {
            builder = builder.process_limit(number);
        }
        if let Some(size) = self.disk {
            builder = builder.disk_limit(size.as_u64());
        }
        builder
    }
}
