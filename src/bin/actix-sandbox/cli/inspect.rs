//! `actix-sandbox inspect`: what is known about a sandbox.

use std::{collections::BTreeMap, process::ExitCode};

use actix_sandbox::{ErrorKind, ListeningPort, Metrics, RunningProcess, Sandbox, SandboxInfo};
use clap::Args;
use serde::Serialize;

use crate::cli::{
    failure::{Failure, STATUS},
    kept::Kept,
    known::{self, KnownSandbox},
    list::{UNKNOWN, state},
    output::{self, Format},
    runtime,
    usage::{self, age, short},
};

/// Shows the state, usage, processes and ports of a sandbox.
///
/// The command attaches to the sandbox, unless another client is attached. So it restores a
/// sandbox that is checkpointed, and the idle timeout starts anew.
#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Inspect {
    #[command(flatten)]
    sandbox: KnownSandbox,

    /// Shows the token of the sandbox, too. It is a secret: with it, everyone who can reach the
    /// service can use the sandbox.
    #[arg(long)]
    show_token: bool,

    /// Format of the output.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Serialize)]
struct Inspected {
    id: String,
    service: String,
    created_ms: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at_ms: Option<u64>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    processes: Vec<Process>,
    /// The ids of detached processes that have ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ended: Vec<String>,
    ports: Vec<ListeningPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// A running process.
#[derive(Serialize)]
pub(crate) struct Process {
    pub(crate) id: String,
    pub(crate) program: String,
    pub(crate) running_ms: u64,
}

impl From<RunningProcess> for Process {
    fn from(it: RunningProcess) -> Self {
        Self {
            id: it.process.exec_id().to_owned(),
            program: it.program,
            running_ms: u64::try_from(it.running.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Inspect {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|mut signals| async move {
            let inspected = signals.or(self.inspect()).await?;
            match self.output {
                Format::Json => output::print_json(&inspected)?,
                Format::Text => output::print(&inspected.text())?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn inspect(&self) -> Result<Inspected, Failure> {
        let kept = self.sandbox.find()?;
        let listed = what_is_listed(&kept).await;
        let mut inspected = Inspected {
            id: kept.id.clone(),
            service: kept.service.shown(),
            created_ms: listed.as_ref().map_or(kept.created_ms, |it| it.created_ms),
            state: listed.as_ref().map_or(UNKNOWN, |it| state(it.state)),
            protocol: None,
            ends_at_ms: listed.as_ref().and_then(|it| it.ends_at_ms),
            labels: listed.map(|it| it.labels).unwrap_or_default(),
            metrics: None,
            processes: Vec::new(),
            ended: Vec::new(),
            ports: Vec::new(),
            token: self.show_token.then(|| kept.token.clone()),
        };
        match known::try_attach(&kept).await? {
            Ok(sandbox) => {
                // The attach has restored it if it was checkpointed.
                if inspected.state == UNKNOWN
                    && let Some(listed) = what_is_listed(&kept).await
                {
                    inspected.created_ms = listed.created_ms;
                    inspected.ends_at_ms = listed.ends_at_ms;
                    inspected.labels = listed.labels;
                }
                inspected.look_inside(&sandbox).await?;
                inspected.add_detached(&kept);
            }
            // Another command uses it, so only its service can tell something.
            Err(error) if error.kind() == ErrorKind::InUse => inspected.state = "attached",
            Err(error) => return Err(known::describe(&kept, &error)),
        }
        Ok(inspected)
    }
}

/// What the service says about the sandbox. `None` if it doesn't list it.
async fn what_is_listed(kept: &Kept) -> Option<SandboxInfo> {
    let all = kept.service.list().ok()?.await.ok()?;
    all.into_iter().find(|it| it.id.as_str() == kept.id)
}

impl Inspected {
    async fn look_inside(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        if self.state == UNKNOWN {
            self.state = "running";
        }
        self.protocol = Some(sandbox.protocol_version().to_string());
        let inside = async {
            let metrics = sandbox.metrics().await?;
            let processes = sandbox.processes().await?;
            Ok::<_, actix_sandbox::Error>((metrics, processes, sandbox.ports().await?))
        };
        match inside.await {
            Ok((metrics, processes, ports)) => {
                self.metrics = Some(metrics);
                self.processes = processes.into_iter().map(Process::from).collect();
                self.ports = ports;
                Ok(())
            }
            // A service that speaks only v1.
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds the detached processes that have ended, and whose output may not have been read.
    fn add_detached(&mut self, kept: &Kept) {
        for detached in &kept.processes {
            let id = detached.exec_id();
            if self.processes.iter().all(|it| it.id != id) {
                self.ended.push(id.to_owned());
            }
        }
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row("id", self.id.clone());
        row("service", self.service.clone());
        row("state", self.state.to_owned());
        if let Some(protocol) = &self.protocol {
            row("protocol", protocol.clone());
        }
        row("age", age(self.created_ms));
        if let Some(end) = self.ends_at_ms {
            row("ends at", usage::time(end));
        }
        for (key, value) in &self.labels {
            row("label", format!("{key}={value}"));
        }
        if let Some(metrics) = &self.metrics {
            for (name, value) in usage::rows(metrics) {
                row(name, value);
            }
        }
        for it in &self.processes {
            let running = std::time::Duration::from_secs(it.running_ms / 1_000);
            row(
                "process",
                format!("{}  {}  {}", it.id, it.program, short(running)),
            );
        }
        for id in &self.ended {
            row("process", format!("{id}  ended; `attach` shows its output"));
        }
        for port in &self.ports {
            row("port", format!("{} on {}", port.port, port.address));
        }
        if let Some(token) = &self.token {
            row("token", token.clone());
        }
        output::table(&rows)
    }
}
