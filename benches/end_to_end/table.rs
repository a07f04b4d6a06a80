//! Interleaved samples of the two sides, and the table of their medians.
//!
//! Other load on the machine affects neighbouring samples alike. So each sample of one side is
//! divided by its neighbour of the other side, and the table shows the median of these ratios.

use std::time::Duration;

use tokio::time::Instant;

/// The target of a row.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// A row of the table.
pub(crate) struct Row {
    what: String,
    ours: String,
    beside: String,
    ratio: Option<f64>,
    target: Target,
    met: Option<bool>,
}

/// Medians of interleaved samples, in units per second.
pub(crate) struct Pairs {
    pub(crate) ours: f64,
    pub(crate) beside: f64,
    /// The median of the ratios of neighbouring samples.
    pub(crate) ratio: f64,
}

impl Pairs {
    /// Creates the medians from the times of neighbouring samples, each of `units` units.
    pub(crate) fn new(times: &[(Duration, Duration)], units: f64) -> Self {
        let rate = |time: Duration| units / time.as_secs_f64();
        Self {
            ours: median(times.iter().map(|&(ours, _)| rate(ours))),
            beside: median(times.iter().map(|&(_, beside)| rate(beside))),
            ratio: median(
                times
                    .iter()
                    .map(|(ours, beside)| beside.as_secs_f64() / ours.as_secs_f64()),
            ),
        }
    }

    /// Returns a row of rates, whose ratio should be at least `target`.
    pub(crate) fn row(&self, what: &str, unit: &str, target: f64) -> Row {
        self.rated(what, unit, Target::AtLeast(target))
    }

    /// Like [`row`](Self::row), with any target or none.
    pub(crate) fn rated(&self, what: &str, unit: &str, target: Target) -> Row {
        let rate = |rate| format!("{} {unit}", short(rate));
        let row = Row::new(what, rate(self.ours), rate(self.beside));
        row.ratio(self.ratio, target)
    }
}

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        ours: impl Into<String>,
        beside: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            ours: ours.into(),
            beside: beside.into(),
            ratio: None,
            target: Target::None,
            met: None,
        }
    }

    pub(crate) fn ratio(mut self, ratio: f64, target: Target) -> Self {
        self.ratio = Some(ratio);
        self.target(ratio, target)
    }

    /// Sets the target of a measured value, which need not be the ratio.
    pub(crate) fn target(mut self, value: f64, target: Target) -> Self {
        self.target = target;
        self.met = match target {
            Target::None => None,
            Target::AtLeast(least) => Some(value >= least),
            Target::AtMost(most) => Some(value <= most),
        };
        self
    }
}

/// Takes samples of both sides alternately. Discards the first pair, which is the warm-up.
pub(crate) async fn interleave(
    samples: usize,
    mut ours: impl AsyncFnMut(),
    mut beside: impl AsyncFnMut(),
) -> Vec<(Duration, Duration)> {
    let mut times = Vec::with_capacity(samples);
    for sample in 0..=samples {
        let pair = (timed(&mut ours).await, timed(&mut beside).await);
        if sample > 0 {
            times.push(pair);
        }
    }
    times
}

async fn timed(sample: &mut impl AsyncFnMut()) -> Duration {
    let begin = Instant::now();
    sample().await;
    begin.elapsed()
}

/// Returns the median of at least one value.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Formats a number with about three significant digits.
pub(crate) fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n if n >= 10.0 => format!("{n:.0}"),
        n => format!("{n:.2}"),
    }
}

pub(crate) fn print(rows: &[Row]) {
    let header = ["", "this crate", "comparison", "ratio", "target", ""];
    let mut lines = vec![header.map(str::to_owned)];
    for row in rows {
        let number = |number: f64| format!("{number:.2}");
        let target = match row.target {
            Target::None => String::new(),
            Target::AtLeast(least) => format!("at least {}", short(least)),
            Target::AtMost(most) => format!("at most {}", short(most)),
        };
        let met = match row.met {
            None => "",
            Some(true) => "met",
            Some(false) => "missed",
        };
        lines.push([
            row.what.clone(),
            row.ours.clone(),
            row.beside.clone(),
            row.ratio.map(number).unwrap_or_default(),
            target,
            met.to_owned(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<usize> = (0..header.len()).map(|it| width(it).unwrap_or(0)).collect();
    println!();
    for (at, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("| {} |", cells.join(" | "));
        if at == 0 {
            let dashes: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            println!("| {} |", dashes.join(" | "));
        }
    }
}
