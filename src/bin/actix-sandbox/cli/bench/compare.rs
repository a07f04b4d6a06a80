//! `bench compare`: the results of two runs side by side.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    condition::{self, Bound, Figures, Metric},
    phase::Phase,
    report::{FORMAT, FORMAT_VERSION},
    statistics::{PhaseReport, time},
};
use crate::cli::{escape::escaped_lines, failure::Failure, output, shared};

#[derive(Args)]
pub(super) struct Compare {
    /// Results of the run to compare with, which `bench --json` wrote.
    #[arg(value_name = "A.json")]
    a: PathBuf,

    /// Results of the other run.
    #[arg(value_name = "B.json")]
    b: PathBuf,

    /// Ends with status 1 if this holds for B divided by A, for example
    /// 'ratio(p99(create))>1.2'. The measurements are those of `bench --fail-if`. May be given more
    /// than once.
    #[arg(long, value_name = "EXPRESSION", value_parser = Ratio::parse)]
    fail_if: Vec<Ratio>,
}

/// A condition on a measurement of B divided by that of A.
#[derive(Clone)]
struct Ratio {
    text: String,
    metric: Metric,
    bound: Bound,
}

/// The part of a report that is compared.
#[derive(Deserialize)]
struct Results {
    target: String,
    at: String,
    version: String,
    stopped: String,
    times_too_good: bool,
    environment: Map<String, Value>,
    plan: Map<String, Value>,
    sandboxes_per_second: f64,
    phases: Vec<PhaseReport>,
    errors: Vec<Errors>,
}

#[derive(Deserialize)]
struct Errors {
    count: u64,
}

impl Compare {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (a, b) = (Results::read(&self.a)?, Results::read(&self.b)?);
        let mut text = String::new();
        for (name, path, results) in [("A", &self.a, &a), ("B", &self.b, &b)] {
            let path = path.display();
            let Results {
                target,
                at,
                version,
                ..
            } = results;
            let _ = writeln!(
                text,
                "{name}: {path}: {target}, {at}, actix-sandbox {version}"
            );
        }
        for warning in warnings(&a, &b) {
            let _ = writeln!(text, "Warning: {warning}");
        }
        text += &table(&a, &b);
        output::print(&escaped_lines(&text))?;
        let mut status = ExitCode::SUCCESS;
        for said in self.fail_if.iter().filter_map(|it| it.failure(&a, &b)) {
            shared::say(said);
            status = ExitCode::FAILURE;
        }
        Ok(status)
    }
}

impl Results {
    fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the results in {shown}: {error}"))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("{shown} is not JSON: {error}"))?;
        if value["format"] != FORMAT {
            return Err(format!(
                "{shown} is not a result of `bench`: it has no \"format\": \"{FORMAT}\"; \
                 `bench --json FILE` writes one"
            ));
        }
        if value["format_version"] != FORMAT_VERSION {
            return Err(format!(
                "{shown} has the format version {}, and this program reads version \
                 {FORMAT_VERSION}: use the version of actix-sandbox that wrote it",
                value["format_version"]
            ));
        }
        serde_json::from_value(value)
            .map_err(|error| format!("{shown} is not a complete result of `bench`: {error}"))
    }

    fn figures(&self) -> Figures<'_> {
        Figures {
            phases: &self.phases,
            failures: self.errors.iter().map(|it| it.count).sum(),
            sandboxes_per_second: self.sandboxes_per_second,
        }
    }
}

impl Ratio {
    fn parse(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (left, is_above, limit) = condition::split(text)?;
            let metric = left
                .strip_prefix("ratio(")
                .and_then(|it| it.strip_suffix(')'));
            let metric = metric.ok_or_else(|| format!("`{left}` is not a ratio"))?;
            Ok((
                Metric::parse(metric.trim())?,
                Bound::new(is_above, condition::number(limit)?),
            ))
        };
        let (metric, bound) = parsed().map_err(|error: String| {
            format!("{error}; a ratio is B divided by A, for example ratio(p99(create))>1.2")
        })?;
        Ok(Self {
            text: text.trim().to_owned(),
            metric,
            bound,
        })
    }

    /// Returns why the comparison fails, if it does.
    fn failure(&self, a: &Results, b: &Results) -> Option<String> {
        let values = [a, b].map(|it| self.metric.value(it.figures()));
        let (text, name) = (&self.text, self.metric.name());
        match values {
            // No failures in both runs, for example.
            [Some(a), Some(b)] if a > 0.0 || b == 0.0 => {
                let ratio = if b == a { 1.0 } else { b / a };
                let fails = self.bound.is_crossed_by(ratio);
                fails
                    .then(|| format!("`--fail-if {text}` holds: the ratio of {name} is {ratio:.3}"))
            }
            _ => Some(format!(
                "`--fail-if {text}` cannot be checked: {name} is missing in A or B, or 0 in A"
            )),
        }
    }
}

/// Returns why the results may not be comparable.
fn warnings(a: &Results, b: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, results) in [("A", a), ("B", b)] {
        if results.stopped != "done" {
            warnings.push(format!("{name} ended early ({})", results.stopped));
        }
        if results.times_too_good {
            warnings.push(format!(
                "the latencies of {name} are too low: they omit sandboxes that never started"
            ));
        }
        if results
            .environment
            .get("build")
            .is_some_and(|it| it == "debug")
        {
            warnings.push(format!("{name} is from a debug build"));
        }
    }
    if a.target != b.target {
        let (a, b) = (&a.target, &b.target);
        warnings.push(format!("different targets: {a} in A, {b} in B"));
    }
    differences("", &a.environment, &b.environment, &mut warnings);
    differences("", &a.plan, &b.plan, &mut warnings);
    warnings
}

/// Adds a warning for each value that differs.
fn differences(
    prefix: &str,
    a: &Map<String, Value>,
    b: &Map<String, Value>,
    warnings: &mut Vec<String>,
) {
    let only_b = b.keys().filter(|key| !a.contains_key(*key));
    for key in a.keys().chain(only_b) {
        let name = format!("{prefix}{key}").replace('_', " ");
        match (&a.get(key), &b.get(key)) {
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                differences(&format!("{name}: "), a, b, warnings);
            }
            (a, b) if a != b => {
                let [a, b] = [a, b].map(|it| it.map_or("nothing".to_owned(), shortened));
                warnings.push(format!("different {name}: {a} in A, {b} in B"));
            }
            _ => {}
        }
    }
}

fn shortened(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn table(a: &Results, b: &Results) -> String {
    let mut table = format!(
        "\n{:<20}{:>12}{:>12}{:>10}{:>14}\n",
        "", "A", "B", "ratio", "difference"
    );
    let mut row = |name: &str, metric: Metric, shown: fn(f64) -> String| {
        let [a, b] = [a, b].map(|it| metric.value(it.figures()));
        let of = |value: Option<f64>| value.map_or("-".to_owned(), shown);
        let both = a.zip(b);
        let ratio = both.filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a);
        let ratio = ratio.map_or("-".to_owned(), |it| format!("{it:.2}"));
        let difference = both.map_or("-".to_owned(), |(a, b)| {
            let sign = if b < a { '-' } else { '+' };
            format!("{sign}{}", shown((b - a).abs()))
        });
        let (a, b) = (of(a), of(b));
        let _ = writeln!(table, "{name:<20}{a:>12}{b:>12}{ratio:>10}{difference:>14}");
    };
    let is_measured = |phase: &Phase| {
        let mut phases = a.phases.iter().chain(&b.phases);
        phases.any(|it| it.phase == *phase)
    };
    for phase in Phase::ALL.into_iter().filter(is_measured) {
        for statistic in ["p50", "p95", "p99"] {
            let name = format!("{:<14}{statistic}", phase.name());
            row(&name, Metric::Latency(statistic, phase), time);
        }
    }
    row("per second", Metric::Rate, |it| format!("{it:.2}"));
    row("failures", Metric::Failures, |it| format!("{it}"));
    table
}
