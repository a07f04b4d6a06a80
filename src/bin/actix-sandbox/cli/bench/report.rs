//! [`Report`]: the results of a run. As JSON, it is what `--json` writes and `bench compare` reads.

use std::time::Duration;

use serde::Serialize;

use super::{
    condition::{Figures, Verdict},
    load::Stopped,
    machine::Machine,
    measure::{Counts, Measured},
    pace::Mode,
    phase::Phase,
    plan::Plan,
    statistics::PhaseReport,
    subject::{LocalReport, Subject},
    timeline::{LATENCIES, Latency, Timeline},
};

/// Marks a file as the results of this command.
pub(super) const FORMAT: &str = "actix-sandbox bench";

/// The version of the JSON. A program reads only the versions that it knows.
pub(super) const FORMAT_VERSION: u64 = 1;

/// The results of a run.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) format: &'static str,
    pub(super) format_version: u64,
    pub(super) target: String,
    /// When the run ended, in UTC.
    pub(super) at: String,
    /// The version of this program.
    pub(super) version: &'static str,
    pub(super) environment: Environment,
    pub(super) plan: PlanReport,
    /// How the run ended: `done`, `interrupted`, `unreachable` or `server_lost`.
    pub(super) stopped: &'static str,
    /// The reason, if `stopped` is `unreachable` or `server_lost`.
    pub(super) why: Option<String>,
    pub(super) measured_seconds: f64,
    pub(super) sandboxes: Sandboxes,
    pub(super) execs: u64,
    pub(super) output_bytes: u64,
    pub(super) sandboxes_per_second: f64,
    pub(super) execs_per_second: f64,
    pub(super) output_bytes_per_second: f64,
    /// Whether the latencies omit sandboxes that were due but never started. Then they are lower
    /// than the real latencies.
    pub(super) times_too_good: bool,
    pub(super) phases: Vec<PhaseReport>,
    pub(super) errors: Vec<ErrorReport>,
    /// The conditions of `--fail-if`. Empty if the run ended early.
    pub(super) fail_if: Vec<Verdict>,
    pub(super) connections: Connections,
    pub(super) timeline: TimelineReport,
}

/// Where and how the benchmark ran.
#[derive(Serialize)]
pub(super) struct Environment {
    /// `debug` or `release`.
    pub(super) build: &'static str,
    /// The machine of the benchmark, and also of the local server.
    pub(super) machine: Machine,
    /// The local server. `None` for a service with a URL: the benchmark doesn't know its machine.
    pub(super) local_server: Option<LocalReport>,
}

/// The plan of the run.
#[derive(Serialize)]
pub(super) struct PlanReport {
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub(super) kind: &'static str,
    pub(super) mode: Option<Mode>,
    /// Arrivals per second. `None` in a closed loop and in a burst.
    pub(super) rate: Option<f64>,
    pub(super) concurrency: usize,
    pub(super) sandboxes: Option<u64>,
    pub(super) duration_seconds: Option<f64>,
    pub(super) ramp_seconds: Option<f64>,
    pub(super) warm_up_seconds: f64,
    pub(super) execs: u32,
    pub(super) language: String,
    pub(super) script: String,
    pub(super) timeout_seconds: f64,
    pub(super) reconnect: bool,
}

/// Number of sandboxes, by outcome.
#[derive(Serialize)]
pub(super) struct Sandboxes {
    pub(super) completed: u64,
    pub(super) failed: u64,
    /// Stopped before their end, because the run stopped.
    pub(super) cancelled: u64,
    /// Started during the warm-up, and not measured.
    pub(super) warm_up: u64,
    /// Due during the run, but never started because `concurrency` was reached.
    pub(super) never_begun: u64,
    pub(super) longest_wait_ms: f64,
}

/// Failures of one kind in one step.
#[derive(Serialize)]
pub(super) struct ErrorReport {
    pub(super) phase: Phase,
    pub(super) kind: String,
    pub(super) count: u64,
    pub(super) example: String,
}

/// Connections that were lost, and those that were reconnected (`--reconnect`).
#[derive(Serialize)]
pub(super) struct Connections {
    pub(super) lost: u64,
    pub(super) reconnected: u64,
}

/// What happened in each second of the run.
#[derive(Serialize)]
pub(super) struct TimelineReport {
    /// The width of a bin: 1.
    pub(super) width_seconds: u64,
    pub(super) started: Vec<u64>,
    pub(super) completed: Vec<u64>,
    pub(super) failed: Vec<u64>,
    pub(super) execs: Vec<u64>,
    pub(super) latencies: Vec<LatenciesReport>,
}

/// The latency of a step in each second, of the sandboxes that ended in it. `None` if there are
/// none.
#[derive(Serialize)]
pub(super) struct LatenciesReport {
    pub(super) phase: Phase,
    pub(super) p50_ms: Vec<Option<f64>>,
    pub(super) p95_ms: Vec<Option<f64>>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        subject: &Subject,
        measured: &Measured,
        stopped: &Stopped,
    ) -> Self {
        let seconds = measured.elapsed().as_secs_f64();
        let per_second = |count: u64| match seconds > 0.0 {
            true => count as f64 / seconds,
            false => 0.0,
        };
        let Counts {
            completed,
            failed,
            cancelled,
            warm_up,
            never_begun,
            interactive,
            execs,
            output_bytes,
            links_lost,
            links_back,
        } = measured.counts();
        let (stopped, why) = match stopped {
            Stopped::Done => ("done", None),
            Stopped::Interrupted(_) => ("interrupted", None),
            Stopped::Unreachable(why) => ("unreachable", Some(why.clone())),
            Stopped::ServerLost(why) => ("server_lost", Some(why.clone())),
        };
        let errors = measured.by_kind().iter();
        let histograms = measured.histograms().iter();
        let mut phases: Vec<_> = histograms
            .map(|(&phase, histogram)| PhaseReport::new(phase, histogram))
            .collect();
        let ended = completed + failed;
        let row = phases
            .iter_mut()
            .find(|it| it.phase == Phase::Interactive && ended > 0);
        if let Some(row) = row {
            row.success_rate = Some(interactive as f64 / ended as f64);
        }
        let figures = Figures {
            phases: &phases,
            failures: measured.failures(),
            sandboxes_per_second: per_second(completed),
        };
        let conditions = plan.fail_if.iter().filter(|_| stopped == "done");
        let fail_if = conditions.map(|it| it.verdict(figures)).collect();
        #[allow(clippy::disallowed_methods, reason = "the wall clock, shown to users")]
        let now = std::time::SystemTime::now();
        Self {
            format: FORMAT,
            format_version: FORMAT_VERSION,
            target: subject.name.clone(),
            at: humantime::format_rfc3339_seconds(now).to_string(),
            version: env!("CARGO_PKG_VERSION"),
            environment: Environment {
                build: match cfg!(debug_assertions) {
                    true => "debug",
                    false => "release",
                },
                machine: Machine::here(),
                local_server: subject.local.clone(),
            },
            plan: PlanReport::new(plan),
            stopped,
            why,
            measured_seconds: seconds,
            sandboxes: Sandboxes {
                completed,
                failed,
                cancelled,
                warm_up,
                never_begun,
                longest_wait_ms: millis(measured.longest_wait()),
            },
            execs,
            output_bytes,
            sandboxes_per_second: per_second(completed),
            execs_per_second: per_second(execs),
            output_bytes_per_second: per_second(output_bytes),
            times_too_good: never_begun > 0,
            phases,
            fail_if,
            errors: errors
                .map(|((phase, kind), failures)| ErrorReport {
                    phase: *phase,
                    kind: kind.clone(),
                    count: failures.count,
                    example: failures.example.clone(),
                })
                .collect(),
            connections: Connections {
                lost: links_lost,
                reconnected: links_back,
            },
            timeline: TimelineReport::new(measured.timeline()),
        }
    }

    pub(super) fn json(&self) -> Result<String, String> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| format!("cannot write the results as JSON: {error}"))?;
        Ok(text + "\n")
    }
}

impl TimelineReport {
    fn new(timeline: &Timeline) -> Self {
        let bins = timeline.bins();
        let latencies = LATENCIES.into_iter().enumerate().map(|(index, phase)| {
            let each = |of: fn(Latency) -> f64| {
                let latencies = bins.iter().map(|bin| bin.latencies[index].map(of));
                latencies.collect()
            };
            LatenciesReport {
                phase,
                p50_ms: each(|it| it.p50),
                p95_ms: each(|it| it.p95),
            }
        });
        Self {
            width_seconds: 1,
            started: bins.iter().map(|bin| bin.started).collect(),
            completed: bins.iter().map(|bin| bin.completed).collect(),
            failed: bins.iter().map(|bin| bin.failed).collect(),
            execs: bins.iter().map(|bin| bin.execs).collect(),
            latencies: latencies.collect(),
        }
    }
}

impl PlanReport {
    fn new(plan: &Plan) -> Self {
        let pace = &plan.pace;
        Self {
            kind: if pace.rate.is_some() {
                "open"
            } else {
                "closed"
            },
            mode: pace.mode,
            rate: pace.rate.filter(|rate| rate.is_finite()),
            concurrency: pace.concurrency,
            sandboxes: pace.sandboxes,
            duration_seconds: pace.duration.map(|time| time.as_secs_f64()),
            ramp_seconds: pace.ramp.map(|time| time.as_secs_f64()),
            warm_up_seconds: pace.warm_up.as_secs_f64(),
            execs: plan.execs,
            language: plan.language.to_string(),
            script: plan.code.clone(),
            timeout_seconds: plan.timeout.as_secs_f64(),
            reconnect: plan.reconnect,
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
