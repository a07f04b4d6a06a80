//! [`Condition`]: an expression of `--fail-if`, such as `p99(create)>500ms`.

use std::time::Duration;

use serde::Serialize;

use super::{phase::Phase, statistics::PhaseReport};

/// A condition under which a run fails.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    text: String,
    metric: Metric,
    bound: Bound,
}

/// The side on which a number must not be, and the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    Above(f64),
    Below(f64),
}

/// A number of a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Metric {
    /// A statistic of the latency of a step, in milliseconds.
    Latency(&'static str, Phase),
    Count(Phase),
    Failures,
    /// Completed sandboxes per second.
    Rate,
}

/// The numbers of a report that a [`Metric`] can name.
#[derive(Clone, Copy)]
pub(super) struct Figures<'a> {
    pub(super) phases: &'a [PhaseReport],
    pub(super) failures: u64,
    pub(super) sandboxes_per_second: f64,
}

/// The result of a condition.
#[derive(Serialize)]
pub(super) struct Verdict {
    pub(super) expression: String,
    /// The measured number, in milliseconds if it is a time. `None` if the step has no samples.
    pub(super) measured: Option<f64>,
    /// Whether the condition holds or can't be checked. Either fails the run.
    pub(super) failed: bool,
    /// The result as a sentence.
    #[serde(skip)]
    pub(super) text: String,
}

const STATISTICS: [&str; 7] = ["p50", "p90", "p95", "p99", "p99.9", "max", "mean"];

const EXAMPLE: &str = "for example p99(create)>500ms";

impl Condition {
    /// Parses an expression. Ignores spaces.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (metric, is_above, limit) = split(text)?;
        let metric = Metric::parse(metric)?;
        let limit = match metric {
            Metric::Latency(..) => milliseconds(limit)?,
            Metric::Count(_) | Metric::Failures | Metric::Rate => number(limit)?,
        };
        Ok(Self {
            text: text.trim().to_owned(),
            metric,
            bound: Bound::new(is_above, limit),
        })
    }

    /// Whether the condition limits the number of failures.
    pub(super) fn limits_failures(&self) -> bool {
        self.metric == Metric::Failures
    }

    pub(super) fn verdict(&self, figures: Figures<'_>) -> Verdict {
        let measured = self.metric.value(figures);
        let failed = measured.is_none_or(|it| self.bound.is_crossed_by(it));
        let expression = &self.text;
        let text = match (measured, self.metric) {
            (Some(it), metric) => format!(
                "`--fail-if {expression}` {}: {} is {}",
                if failed { "holds" } else { "does not hold" },
                metric.name(),
                metric.shown(it)
            ),
            (None, metric) => format!(
                "`--fail-if {expression}` cannot be checked: nothing was measured for {}",
                metric.name()
            ),
        };
        Verdict {
            expression: expression.clone(),
            measured,
            failed,
            text,
        }
    }
}

impl Bound {
    pub(super) fn new(is_above: bool, limit: f64) -> Self {
        match is_above {
            true => Self::Above(limit),
            false => Self::Below(limit),
        }
    }

    pub(super) fn is_crossed_by(self, value: f64) -> bool {
        match self {
            Self::Above(limit) => value > limit,
            Self::Below(limit) => value < limit,
        }
    }
}

impl Metric {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "failures" => return Ok(Self::Failures),
            "rate" => return Ok(Self::Rate),
            _ => {}
        }
        let Some((statistic, step)) = text.strip_suffix(')').and_then(|it| it.split_once('('))
        else {
            return Err(format!(
                "`{text}` is not a measurement: expected a statistic with a step in parentheses, \
                 failures or rate, {EXAMPLE}"
            ));
        };
        let step = step.trim().replace([' ', '-'], "_");
        let phase = Phase::ALL.into_iter().find(|it| it.key() == step);
        let phase = phase.ok_or_else(|| {
            let steps = Phase::ALL.map(Phase::key).join(", ");
            format!("`{step}` is not a step: expected one of {steps}, {EXAMPLE}")
        })?;
        if statistic == "count" {
            return Ok(Self::Count(phase));
        }
        let known = STATISTICS.into_iter().find(|it| *it == statistic);
        let known = known.ok_or_else(|| {
            let statistics = STATISTICS.join(", ");
            format!("`{statistic}` is not a statistic: expected one of {statistics} and count, {EXAMPLE}")
        })?;
        Ok(Self::Latency(known, phase))
    }

    /// The measured number. `None` if the step has no samples.
    pub(super) fn value(self, figures: Figures<'_>) -> Option<f64> {
        let find = |phase| figures.phases.iter().find(|it| it.phase == phase);
        match self {
            Self::Latency(statistic, phase) => {
                let columns = find(phase)?.columns();
                let column = columns.into_iter().find(|(name, _)| *name == statistic);
                column.map(|(_, value)| value)
            }
            Self::Count(phase) => Some(find(phase).map_or(0.0, |it| it.count as f64)),
            Self::Failures => Some(figures.failures as f64),
            Self::Rate => Some(figures.sandboxes_per_second),
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Latency(statistic, phase) => format!("{statistic}({})", phase.key()),
            Self::Count(phase) => format!("count({})", phase.key()),
            Self::Failures => "failures".to_owned(),
            Self::Rate => "rate".to_owned(),
        }
    }

    /// Formats a value in the units of expressions.
    fn shown(self, value: f64) -> String {
        match self {
            Self::Latency(..) => {
                let time = Duration::from_micros((value * 1000.0).round() as u64);
                humantime::format_duration(time).to_string()
            }
            Self::Count(_) | Self::Failures => value.to_string(),
            Self::Rate => format!("{value:.3} per second"),
        }
    }
}

/// Splits an expression at `<` or `>`. Returns both sides without spaces, and whether it is `>`.
pub(super) fn split(text: &str) -> Result<(&str, bool, &str), String> {
    let at = text.find(['<', '>']);
    let (Some(at), false) = (at, text.contains('=')) else {
        return Err(format!("expected one `<` or `>` before a limit, {EXAMPLE}"));
    };
    let (left, right) = text.split_at(at);
    Ok((left.trim(), right.starts_with('>'), right[1..].trim()))
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let time = humantime::parse_duration(text).map_err(|error| {
        format!("`{text}` is not a time with a unit: {error}; expected us, ms, s or m, {EXAMPLE}")
    })?;
    Ok(time.as_secs_f64() * 1000.0)
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    let number = number.filter(|it: &f64| it.is_finite() && *it >= 0.0);
    number.ok_or_else(|| {
        format!("`{text}` is not a number of at least 0, for example failures>0 or rate<9.5")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    fn verdict(text: &str) -> Verdict {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record_n(500_250, 2).unwrap();
        let phase = PhaseReport::new(Phase::Create, &histogram);
        Condition::parse(text).unwrap().verdict(Figures {
            phases: &[phase],
            failures: 2,
            sandboxes_per_second: 9.5,
        })
    }

    #[test]
    fn conditions_hold_only_beyond_their_limit() {
        for (text, failed) in [
            ("p99(create)>400ms", true),
            ("p99.9( create ) > 0.4s", true),
            ("mean(create)>1m", false),
            ("max(create)<1s", true),
            ("count(create)<2", false),
            ("count(create)>1", true),
            ("count(first-output)<1", true),
            ("failures>1", true),
            ("failures > 2", false),
            ("rate<9.6", true),
            ("rate<9.5", false),
        ] {
            assert_eq!(verdict(text).failed, failed, "{text}");
        }
    }

    #[test]
    fn a_step_without_samples_fails_the_run() {
        let verdict = verdict("p50(kill)<1h");
        assert!(verdict.failed && verdict.measured.is_none());
        assert!(verdict.text.contains("nothing was measured"));
    }

    #[test]
    fn errors_name_what_was_expected() {
        for (text, part) in [
            ("p99(create)", "one `<` or `>`"),
            ("p99(create)>=5ms", "one `<` or `>`"),
            ("p99>5ms", "`p99` is not a measurement"),
            ("p98(create)>5ms", "`p98` is not a statistic"),
            ("p99(creat)>5ms", "`creat` is not a step"),
            ("p99(create)>5", "`5` is not a time"),
            ("p99(create)>", "`` is not a time"),
            ("failures>none", "`none` is not a number"),
            ("rate<NaN", "`NaN` is not a number"),
            ("rate<-1", "`-1` is not a number"),
        ] {
            let error = Condition::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.contains("for example"), "{text}: {error}");
        }
    }
}
