//! [`PhaseReport`]: the statistics of the latency of one step.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::phase::Phase;

/// The latency of a step, in milliseconds.
#[derive(Debug, Deserialize, Serialize)]
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
    /// The share of sandboxes that reached the step `interactive`. `None` for other steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) success_rate: Option<f64>,
}

impl PhaseReport {
    pub(super) fn new(phase: Phase, histogram: &Histogram<u64>) -> Self {
        let at = |percentile| histogram.value_at_percentile(percentile) as f64 / 1000.0;
        Self {
            phase,
            count: histogram.len(),
            mean_ms: histogram.mean().round() / 1000.0,
            min_ms: histogram.min() as f64 / 1000.0,
            p50_ms: at(50.0),
            p90_ms: at(90.0),
            p95_ms: at(95.0),
            p99_ms: at(99.0),
            p99_9_ms: at(99.9),
            max_ms: histogram.max() as f64 / 1000.0,
            success_rate: None,
        }
    }

    /// The columns of the table, with their headings.
    pub(super) fn columns(&self) -> [(&'static str, f64); 7] {
        [
            ("p50", self.p50_ms),
            ("p90", self.p90_ms),
            ("p95", self.p95_ms),
            ("p99", self.p99_ms),
            ("p99.9", self.p99_9_ms),
            ("max", self.max_ms),
            ("mean", self.mean_ms),
        ]
    }
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
