//! [`Sampler`]: measures sandboxes again and again, and stays attached to them in between.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use actix_sandbox::{Error, ErrorKind, Metrics, Sandbox};
use futures::{
    StreamExt,
    future::{join_all, try_join},
    stream,
};
use serde::Serialize;
use tokio::time::timeout;

use crate::cli::{
    failure::{self, Failure},
    inspect::Process,
    kept::Kept,
    known::{self, FREE_WITHIN},
    service::{Service, ServiceArguments},
    usage::now_ms,
};

/// How many sandboxes are measured concurrently.
const AT_ONCE: usize = 16;
/// How long to wait for the measurements of a sandbox, for example while its link is lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What sandboxes use at a time.
#[derive(Serialize)]
pub(super) struct Sample {
    /// In milliseconds since 1970-01-01 UTC.
    time_ms: u64,
    pub(super) sandboxes: Vec<Usage>,
}

/// What a sandbox uses.
#[derive(Serialize)]
pub(super) struct Usage {
    pub(super) id: String,
    service: String,
    pub(super) state: State,
    /// Why the state is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The share of one processor since the last sample. `None` in the first sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) processes: Option<Vec<Process>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Running,
    /// Another client is attached.
    InUse,
    /// The service doesn't list it.
    NotRunning,
    /// The service, or the sandbox, doesn't answer.
    Unknown,
}

/// An attachment to a sandbox.
struct Attached {
    sandbox: Sandbox,
    last: Option<Metrics>,
}

/// The URL of a service and the id of a sandbox on it.
type Key = (String, String);

pub(super) struct Sampler {
    /// The only sandbox to measure, as the user named it.
    id: Option<String>,
    service: ServiceArguments,
    attached: HashMap<Key, Attached>,
    /// How long to wait for sandboxes that are in use. An earlier command of the user may have
    /// ended just before the first sample.
    patience: Duration,
}

/// The ids that a service lists, or why it lists none.
type Listed = Result<HashSet<String>, String>;

impl Sampler {
    pub(super) fn new(id: Option<String>, service: ServiceArguments) -> Self {
        Self {
            id,
            service,
            attached: HashMap::new(),
            patience: FREE_WITHIN,
        }
    }

    /// Measures the sandboxes. Fails if the only sandbox can't be measured.
    pub(super) async fn sample(&mut self) -> Result<Sample, Failure> {
        let kept = match &self.id {
            Some(id) => vec![known::find(id, &self.service)?],
            None => known::all(&self.service)?,
        };
        let is_single = self.id.is_some();
        let listed = match is_single {
            true => HashMap::new(),
            false => self.listed(&kept).await?,
        };
        let patience = std::mem::take(&mut self.patience);
        let mut usages = Vec::new();
        let measured = kept.iter().map(|kept| {
            let attached = self.attached.remove(&key(kept));
            let listed = listed.get(&kept.service.url);
            async move {
                let measured = measure(kept, attached, listed, patience, is_single).await?;
                Ok::<_, Failure>((key(kept), measured))
            }
        });
        // Attachments to sandboxes that are no longer kept are dropped with the rest.
        let measured: Vec<_> = stream::iter(measured.collect::<Vec<_>>())
            .buffered(AT_ONCE)
            .collect()
            .await;
        self.attached.clear();
        for measured in measured {
            let (key, (usage, attached)) = measured?;
            usages.push(usage);
            if let Some(attached) = attached {
                self.attached.insert(key, attached);
            }
        }
        Ok(Sample {
            time_ms: now_ms(),
            sandboxes: usages,
        })
    }

    /// Asks the services of sandboxes without an attachment which sandboxes they have. An attach
    /// would restore those that are checkpointed.
    async fn listed(&self, kept: &[Kept]) -> Result<HashMap<String, Listed>, Failure> {
        let detached = kept
            .iter()
            .filter(|it| !self.attached.contains_key(&key(it)));
        let services: HashMap<&str, &Service> = detached
            .map(|it| (it.service.url.as_str(), &it.service))
            .collect();
        let asked = services.into_iter().map(|(url, service)| async move {
            let list = service.list()?;
            let ids = match timeout(ANSWER_WITHIN, list.into_future()).await {
                Ok(Ok(all)) => Ok(all
                    .into_iter()
                    .map(|it| it.id.as_str().to_owned())
                    .collect()),
                Ok(Err(error)) => Err(failure::describe(&error)),
                Err(_) => Err(no_answer()),
            };
            Ok((url.to_owned(), ids))
        });
        join_all(asked).await.into_iter().collect()
    }
}

/// Measures a sandbox, and attaches to it first if necessary. `is_single` is whether it is the only
/// sandbox: then it is an error if it can't be used, and its processes are listed.
async fn measure(
    kept: &Kept,
    attached: Option<Attached>,
    listed: Option<&Listed>,
    patience: Duration,
    is_single: bool,
) -> Result<(Usage, Option<Attached>), Failure> {
    let mut usage = Usage {
        id: kept.id.clone(),
        service: kept.service.shown(),
        state: State::Unknown,
        reason: None,
        cpu_percent: None,
        metrics: None,
        processes: None,
    };
    let attached = match (attached, listed) {
        (Some(attached), _) => Ok(attached),
        (None, Some(Err(reason))) => {
            usage.reason = Some(reason.clone());
            return Ok((usage, None));
        }
        (None, Some(Ok(ids))) if !ids.contains(&kept.id) => {
            usage.state = State::NotRunning;
            return Ok((usage, None));
        }
        (None, _) => known::try_attach_within(kept, patience)
            .await?
            .map(|sandbox| Attached {
                sandbox,
                last: None,
            }),
    };
    let mut attached = match attached {
        Ok(attached) => attached,
        Err(error) if error.kind() == ErrorKind::InUse => {
            usage.state = State::InUse;
            return Ok((usage, None));
        }
        Err(error) if is_single => return Err(known::describe(kept, &error)),
        Err(error) => {
            usage.reason = Some(failure::describe(&error));
            return Ok((usage, None));
        }
    };
    match timeout(ANSWER_WITHIN, ask(&attached.sandbox, is_single)).await {
        Ok(Ok((metrics, processes))) => {
            usage.state = State::Running;
            usage.cpu_percent = attached.last.as_ref().and_then(|last| cpu(last, &metrics));
            attached.last = Some(metrics.clone());
            usage.metrics = Some(metrics);
            usage.processes = processes;
        }
        Ok(Err(error)) if is_single => return Err(error.into()),
        // The next sample attaches again, if the service still lists the sandbox.
        Ok(Err(error)) => {
            usage.reason = Some(failure::describe(&error));
            return Ok((usage, None));
        }
        Err(_) => usage.reason = Some(no_answer()),
    }
    Ok((usage, Some(attached)))
}

async fn ask(
    sandbox: &Sandbox,
    with_processes: bool,
) -> Result<(Metrics, Option<Vec<Process>>), Error> {
    let processes = async {
        match with_processes {
            true => Ok(Some(sandbox.processes().await?)),
            false => Ok(None),
        }
    };
    let (metrics, processes) = try_join(sandbox.metrics(), processes).await?;
    let processes = processes.map(|all| all.into_iter().map(Process::from).collect());
    Ok((metrics, processes))
}

/// The share of one processor between two samples, in percent. `None` if no time has passed, for
/// example because the sandbox was restored on another server.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of less than 2^52")]
fn cpu(last: &Metrics, now: &Metrics) -> Option<f64> {
    let passed = now
        .uptime_ms
        .checked_sub(last.uptime_ms)
        .filter(|it| *it > 0)?;
    // The time of ended processes may be missing in the newer sample.
    let used = now.usage.cpu_ms.saturating_sub(last.usage.cpu_ms);
    Some(used as f64 * 100.0 / passed as f64)
}

fn no_answer() -> String {
    format!("no answer within {ANSWER_WITHIN:?}")
}

fn key(kept: &Kept) -> Key {
    (kept.service.url.clone(), kept.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(cpu_ms: u64, uptime_ms: u64) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.usage.cpu_ms = cpu_ms;
        metrics.uptime_ms = uptime_ms;
        metrics
    }

    #[test]
    fn cpu_is_a_share_of_the_time_between_samples() {
        let last = metrics(1_000, 10_000);
        assert_eq!(cpu(&last, &metrics(2_000, 12_000)), Some(50.0));
        assert_eq!(cpu(&last, &metrics(5_000, 12_000)), Some(200.0));
        assert_eq!(cpu(&last, &metrics(0, 12_000)), Some(0.0));
        assert_eq!(cpu(&last, &metrics(2_000, 10_000)), None);
        assert_eq!(cpu(&last, &metrics(0, 100)), None);
    }
}
