//! [`Report`]: the results of a run, as a table and as JSON.

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    load::Stopped,
    measure::{Counts, Measured},
    plan::Plan,
    session::Phase,
};

/// The percentiles to report.
pub(super) const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
];

/// The results of a run.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) target: String,
    /// When the run ended, in UTC.
    pub(super) at: String,
    /// The version of this program.
    pub(super) version: &'static str,
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
    pub(super) connections: Connections,
    pub(super) timeline: TimelineReport,
}

/// The plan of the run.
#[derive(Serialize)]
pub(super) struct PlanReport {
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub(super) kind: &'static str,
    pub(super) rate: Option<f64>,
    pub(super) concurrency: usize,
    pub(super) sandboxes: Option<u64>,
    pub(super) duration_seconds: Option<f64>,
    pub(super) warm_up_seconds: f64,
    pub(super) execs: u32,
    pub(super) language: String,
    pub(super) script: String,
    pub(super) timeout_seconds: f64,
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

/// The latency of a step, in milliseconds.
#[derive(Serialize)]
pub(super) struct PhaseReport {
    pub(super) phase: Phase,
    pub(super) count: u64,
    pub(super) mean_ms: f64,
    pub(super) min_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    #[serde(rename = "p99.9_ms")]
    pub(super) p99_9_ms: f64,
    pub(super) max_ms: f64,
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

/// Counters for each slot of time.
#[derive(Serialize)]
pub(super) struct TimelineReport {
    pub(super) width_seconds: f64,
    pub(super) completed: Vec<u64>,
    pub(super) failed: Vec<u64>,
    pub(super) execs: Vec<u64>,
}

impl Report {
    pub(super) fn new(plan: &Plan, target: String, measured: &Measured, stopped: &Stopped) -> Self {
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
            execs,
            output_bytes,
            links_lost,
            links_back,
        } = measured.counts();
        let (stopped, why) = match stopped {
            Stopped::Done => ("done", None),
            Stopped::Interrupted => ("interrupted", None),
            Stopped::Unreachable(why) => ("unreachable", Some(why.clone())),
            Stopped::ServerLost(why) => ("server_lost", Some(why.clone())),
        };
        let errors = measured.by_kind().iter();
        let slots = measured.timeline().slots();
        #[allow(clippy::disallowed_methods, reason = "the wall clock, shown to users")]
        let now = std::time::SystemTime::now();
        Self {
            target,
            at: humantime::format_rfc3339_seconds(now).to_string(),
            version: env!("CARGO_PKG_VERSION"),
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
            phases: measured
                .histograms()
                .iter()
                .map(|(&phase, histogram)| PhaseReport::new(phase, histogram))
                .collect(),
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
            timeline: TimelineReport {
                width_seconds: measured.timeline().width().as_secs_f64(),
                completed: slots.iter().map(|slot| slot.completed).collect(),
                failed: slots.iter().map(|slot| slot.failed).collect(),
                execs: slots.iter().map(|slot| slot.execs).collect(),
            },
        }
    }

    pub(super) fn json(&self) -> Result<String, String> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| format!("cannot write the results as JSON: {error}"))?;
        Ok(text + "\n")
    }

    /// The plan, in one line.
    pub(super) fn headline(&self) -> String {
        let plan = &self.plan;
        let how = match plan.rate {
            Some(rate) => format!(
                "{rate} arrive per second (open loop), at most {} at once",
                plan.concurrency
            ),
            None => format!("{} at once (closed loop)", plan.concurrency),
        };
        let runs = match plan.execs {
            1 => "each runs the script once".to_owned(),
            execs => format!("each runs the script {execs} times"),
        };
        format!("Sandboxes on {}: {how}, {runs}", self.target)
    }

    /// The number of sandboxes by outcome, in one line.
    pub(super) fn outcome(&self) -> String {
        let Sandboxes {
            completed,
            failed,
            cancelled,
            warm_up,
            never_begun,
            longest_wait_ms,
        } = self.sandboxes;
        let mut text = format!("{completed} completed, {failed} failed");
        let more = [
            (cancelled, "stopped"),
            (warm_up, "during the warm-up"),
            (never_begun, "never started (--concurrency was reached)"),
        ];
        for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} {what}");
        }
        if longest_wait_ms >= 1.0 && self.plan.rate.is_some() {
            text += &format!(", the longest wait to start was {}", time(longest_wait_ms));
        }
        text
    }

    /// The throughput, in one line.
    pub(super) fn throughput(&self) -> String {
        let bytes = ByteSize::b(self.output_bytes_per_second as u64);
        format!(
            "{:.1} sandboxes, {:.1} execs and {bytes} of output per second, over {:.1} s",
            self.sandboxes_per_second, self.execs_per_second, self.measured_seconds
        )
    }

    /// A warning if the latencies omit sandboxes.
    pub(super) fn caution(&self) -> Option<String> {
        self.times_too_good.then(|| {
            format!(
                "The latencies are too low: they omit {} sandboxes that were due but never started; \
                 raise --concurrency or lower --rate",
                self.sandboxes.never_begun
            )
        })
    }

    /// The numbers of lost and reconnected connections, in one line.
    pub(super) fn connections(&self) -> String {
        let Connections { lost, reconnected } = self.connections;
        format!("{lost} connections lost, {reconnected} reconnected")
    }
}

impl PlanReport {
    fn new(plan: &Plan) -> Self {
        Self {
            kind: if plan.rate.is_some() {
                "open"
            } else {
                "closed"
            },
            rate: plan.rate,
            concurrency: plan.concurrency,
            sandboxes: plan.sandboxes,
            duration_seconds: plan.duration.map(|time| time.as_secs_f64()),
            warm_up_seconds: plan.warm_up.as_secs_f64(),
            execs: plan.execs,
            language: plan.language.to_string(),
            script: plan.code.clone(),
            timeout_seconds: plan.timeout.as_secs_f64(),
        }
    }
}

impl PhaseReport {
    fn new(phase: Phase, histogram: &Histogram<u64>) -> Self {
        let at = |percentile| histogram.value_at_percentile(percentile) as f64 / 1000.0;
        Self {
            phase,
            count: histogram.len(),
            mean_ms: (histogram.mean() / 1000.0 * 1000.0).round() / 1000.0,
            min_ms: histogram.min() as f64 / 1000.0,
            p50_ms: at(50.0),
            p90_ms: at(90.0),
            p95_ms: at(95.0),
            p99_ms: at(99.0),
            p99_9_ms: at(99.9),
            max_ms: histogram.max() as f64 / 1000.0,
        }
    }

    /// The columns of the table, with their headings.
    pub(super) fn columns(&self) -> [(&'static str, f64); 7] {
        let [p50, p90, p95, p99, p99_9] = PERCENTILES.map(|(name, _)| name);
        [
            (p50, self.p50_ms),
            (p90, self.p90_ms),
            (p95, self.p95_ms),
            (p99, self.p99_ms),
            (p99_9, self.p99_9_ms),
            ("max", self.max_ms),
            ("mean", self.mean_ms),
        ]
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Formats a time in milliseconds, with three significant digits and a unit.
pub(super) fn time(millis: f64) -> String {
    let (number, unit) = match millis {
        it if it >= 60_000.0 => (it / 60_000.0, "min"),
        it if it >= 1000.0 => (it / 1000.0, "s"),
        it if it >= 1.0 => (it, "ms"),
        it => (it * 1000.0, "µs"),
    };
    let decimals = match number {
        it if it >= 99.95 => 0,
        it if it >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.decimals$} {unit}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        writeln!(f, "{}", self.outcome())?;
        writeln!(f, "{}", self.throughput())?;
        if let Some(caution) = self.caution() {
            writeln!(f, "{caution}")?;
        }
        if let Some(first) = self.phases.first() {
            write!(f, "\n{:<14}{:>8}", "", "count")?;
            for (name, _) in first.columns() {
                write!(f, "{name:>10}")?;
            }
            writeln!(f)?;
        }
        for phase in &self.phases {
            write!(f, "{:<14}{:>8}", phase.phase.name(), phase.count)?;
            for (_, value) in phase.columns() {
                write!(f, "{:>10}", time(value))?;
            }
            writeln!(f)?;
        }
        if !self.errors.is_empty() {
            writeln!(f, "\nerrors")?;
        }
        for error in &self.errors {
            let ErrorReport {
                phase,
                kind,
                count,
                example,
            } = error;
            writeln!(f, "{count:>6} × {kind} in {}: {example}", phase.name())?;
        }
        if self.connections.lost > 0 {
            writeln!(f, "\n{}", self.connections())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let times = [0.0123, 1.0, 9.994, 9.996, 123.4, 1234.0, 99_000.0];
        assert_eq!(
            times.map(time),
            [
                "12.3 µs", "1.00 ms", "9.99 ms", "10.0 ms", "123 ms", "1.23 s", "1.65 min"
            ]
        );
    }
}
