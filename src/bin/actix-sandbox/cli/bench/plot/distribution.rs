//! The distribution of the latencies of each step.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{
    BOTTOM, HEIGHT, LEFT, RIGHT, Scale, TOP, WIDTH, colour, levels, line, short, svg, text,
};
use crate::cli::bench::phase::Phase;

/// Number of points of a curve.
const POINTS: usize = 200;

/// Plots the cumulative distribution of the latencies of each phase.
pub(in crate::cli::bench) fn distribution<'a>(
    phases: impl Iterator<Item = (Phase, &'a Histogram<u64>)> + Clone,
) -> String {
    let histograms = phases.clone().map(|(_, histogram)| histogram);
    let (shortest, longest) = histograms.fold((u64::MAX, 1), |(shortest, longest), it| {
        (shortest.min(it.min().max(1)), longest.max(it.max()))
    });
    if shortest == u64::MAX {
        return String::new();
    }
    let (shortest, longest) = (shortest as f64, (longest as f64).max(shortest as f64 * 2.0));
    let across = Scale::across((shortest, longest), true);
    let up = Scale::up(1.0);
    let shares = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0];
    let names = shares.map(|share| (share, format!("{:.0} %", share * 100.0)));
    let mut drawn = levels(up, &names);
    let mut last = f64::MIN;
    for value in decades(shortest, longest) {
        let x = across.at(value);
        drawn += &line((x, TOP), (x, HEIGHT - BOTTOM), "grid");
        if x - last > 56.0 && x < WIDTH - 24.0 {
            drawn += &text(x, HEIGHT - BOTTOM + 17.0, "middle", &short(value / 1000.0));
            last = x;
        }
    }
    for (phase, histogram) in phases {
        let mut path = String::new();
        for point in 0..=POINTS {
            let share = point as f64 / POINTS as f64;
            let micros = histogram.value_at_quantile(share).max(1) as f64;
            let step = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.1} {:.1}", across.at(micros), up.at(share));
        }
        let class = colour(phase);
        drawn += &format!(
            "<path d=\"{path}\" class=\"curve {class}\"><title>{}</title></path>",
            phase.name()
        );
    }
    drawn += &text(
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 4.0,
        "middle",
        "latency",
    );
    svg(
        "Cumulative distribution of the latency of each step",
        HEIGHT,
        &drawn,
    )
}

/// Returns the ticks between two values: 1, 2 and 5 times each power of ten.
fn decades(least: f64, most: f64) -> impl Iterator<Item = f64> {
    let first = least.log10().floor() as i32;
    let last = most.log10().ceil() as i32;
    let values = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|it| it * 10f64.powi(power)));
    values.filter(move |value| (least..=most).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let ticks: Vec<_> = decades(900.0, 5_000.0).collect();
        assert_eq!(ticks, [1_000.0, 2_000.0, 5_000.0]);
    }
}
