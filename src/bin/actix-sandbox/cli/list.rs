//! `actix-sandbox list`: the sandboxes of a service, or those of this user.

use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
};

use actix_sandbox::{ListedState, SandboxInfo};
use clap::Args;
use serde::Serialize;

use crate::cli::{
    failure::{Failure, STATUS},
    kept::Kept,
    known,
    output::{self, Format},
    runtime,
    service::{Service, ServiceArguments},
    shared::{Assignment, label},
    usage::age,
};

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct List {
    /// Lists your sandboxes, on every service or only on that of --url: those of `create`, `--keep`
    /// and `attach --sandbox-token-file`, and those of `run` and `shell` that haven't ended.
    #[arg(long)]
    mine: bool,

    /// Lists only sandboxes with this label. May be given more than once: a sandbox must then have
    /// all of them.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<Assignment>,

    /// Format of the output: a table, or a JSON array.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    service: ServiceArguments,
}

/// A line of the list.
#[derive(Serialize)]
struct Listed {
    id: String,
    state: &'static str,
    created_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    service: String,
}

impl List {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|mut signals| async move { signals.or(self.list()).await })
    }

    async fn list(self) -> Result<ExitCode, Failure> {
        let listed = match self.mine {
            true => self.mine().await?,
            false => {
                let service = self.service.require()?;
                let all = self.of(&service).await?;
                all.into_iter()
                    .map(|it| Listed::new(it, &service))
                    .collect()
            }
        };
        match self.output {
            Format::Json => output::print_json(&listed)?,
            Format::Text => output::print(&table(&listed))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The sandboxes of a service with the labels.
    async fn of(&self, service: &Service) -> Result<Vec<SandboxInfo>, Failure> {
        let mut list = service.list()?;
        for (key, value) in &self.label {
            list = list.label(key, value);
        }
        Ok(list.await?)
    }

    /// The sandboxes of this user, with what their services say about them.
    async fn mine(&self) -> Result<Vec<Listed>, Failure> {
        // The services are asked one after the other: most users have one or two.
        let mut answers: HashMap<String, Option<HashMap<String, SandboxInfo>>> = HashMap::new();
        let mut listed = Vec::new();
        for kept in known::all(&self.service)? {
            let service = kept.service.clone();
            if !answers.contains_key(&service.url) {
                let all = self.of(&service).await.ok();
                let by_id = |all: Vec<SandboxInfo>| {
                    let pairs = all.into_iter().map(|it| (it.id.as_str().to_owned(), it));
                    pairs.collect()
                };
                answers.insert(service.url.clone(), all.map(by_id));
            }
            let answer = answers.get_mut(&service.url).and_then(Option::as_mut);
            match answer.map(|all| all.remove(&kept.id)) {
                Some(Some(info)) => listed.push(Listed::new(info, &service)),
                // It lacks the labels, or it doesn't run.
                Some(None) if !self.label.is_empty() => {}
                Some(None) => listed.push(Listed::kept(kept, NOT_RUNNING, &service)),
                None => listed.push(Listed::kept(kept, UNKNOWN, &service)),
            }
        }
        Ok(listed)
    }
}

impl Listed {
    fn new(info: SandboxInfo, service: &Service) -> Self {
        Self {
            id: info.id.as_str().to_owned(),
            state: state(info.state),
            created_ms: info.created_ms,
            ends_at_ms: info.ends_at_ms,
            labels: info.labels,
            service: service.shown(),
        }
    }

    /// A sandbox about which its service says nothing.
    fn kept(kept: Kept, state: &'static str, service: &Service) -> Self {
        Self {
            id: kept.id,
            state,
            created_ms: kept.created_ms,
            ends_at_ms: None,
            labels: BTreeMap::new(),
            service: service.shown(),
        }
    }
}

fn table(listed: &[Listed]) -> String {
    let heading = ["ID", "STATE", "AGE", "LABELS", "SERVICE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for it in listed {
        let labels = it
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        rows.push(vec![
            it.id.clone(),
            it.state.to_owned(),
            age(it.created_ms),
            labels.collect::<Vec<_>>().join(","),
            it.service.clone(),
        ]);
    }
    output::table(&rows)
}

/// The state of a sandbox that its service doesn't list: it has ended, or it is checkpointed.
const NOT_RUNNING: &str = "not running";
/// The state of a sandbox whose service can't be asked.
pub(crate) const UNKNOWN: &str = "unknown";

/// The name of a state.
pub(crate) fn state(state: ListedState) -> &'static str {
    match state {
        ListedState::Starting => "starting",
        ListedState::Attached => "attached",
        ListedState::Detached => "detached",
        ListedState::Ending => "ending",
        _ => UNKNOWN,
    }
}
