//! What happened in each second of the run.

use std::fmt::Write;

use super::{BOTTOM, HEIGHT, LEFT, RIGHT, Scale, WIDTH, levels, line, short, svg, text};
use crate::cli::bench::{
    phase::Phase,
    report::{LatenciesReport, Report},
};

/// Maximum number of points across a plot. A longer run has several seconds in each.
const POINTS: usize = 180;

/// Plots the sandboxes that started, completed and failed in each second.
pub(in crate::cli::bench) fn throughput(report: &Report) -> String {
    let timeline = &report.timeline;
    let seconds = timeline.completed.len();
    if seconds == 0 {
        return String::new();
    }
    let group = seconds.div_ceil(POINTS);
    let rates = |counts: &[u64]| -> Vec<f64> {
        let groups = counts.chunks(group);
        let rate = |counts: &[u64]| counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        groups.map(rate).collect()
    };
    let started = rates(&timeline.started);
    let (completed, failed) = (rates(&timeline.completed), rates(&timeline.failed));
    let ended = completed.iter().zip(&failed);
    let highest = ended.clone().map(|(completed, failed)| completed + failed);
    let most = round_up(highest.chain(started.iter().copied()).fold(0.0, f64::max));
    let (across, up) = (Scale::across((0.0, seconds as f64), false), Scale::up(most));
    let names = [0.0, 0.5, 1.0].map(|share| {
        let value = share * most;
        (value, format!("{}", (value * 10.0).round() / 10.0))
    });
    let mut drawn = levels(up, &names);
    for (index, (&completed, &failed)) in ended.enumerate() {
        let from = across.at((index * group) as f64);
        let to = across.at(((index + 1) * group) as f64);
        let mut bar = |low: f64, high: f64, class: &str| {
            if high > low {
                let (top, bottom) = (up.at(high), up.at(low));
                // Leave a gap between bars that are wide enough.
                let width = (to - from) * if to - from > 3.0 { 0.9 } else { 1.0 };
                drawn += &format!(
                    "<rect x=\"{from:.2}\" y=\"{top:.1}\" width=\"{width:.2}\" height=\"{:.1}\" class=\"{class}\"/>",
                    bottom - top
                );
            }
        };
        bar(0.0, completed, "done");
        bar(completed, completed + failed, "failed");
    }
    let started: Vec<_> = started.into_iter().map(Some).collect();
    drawn += &curve(&started, group, across, up, "started");
    drawn += &seconds_below(across, seconds);
    svg(
        "Sandboxes that started, completed and failed per second",
        HEIGHT,
        &drawn,
    )
}

/// Plots percentiles of a latency in each second. Returns the plot and what it shows.
pub(in crate::cli::bench) fn latencies(report: &Report) -> Option<(String, &'static str)> {
    let has_samples = |it: &&LatenciesReport| it.p50_ms.iter().any(Option::is_some);
    let of = |phase| {
        let mut latencies = report.timeline.latencies.iter().filter(has_samples);
        latencies.find(|it| it.phase == phase)
    };
    let shown = of(Phase::Interactive).or_else(|| of(Phase::Create))?;
    let seconds = shown.p50_ms.len();
    let group = seconds.div_ceil(POINTS);
    let highest = |values: &[Option<f64>]| -> Vec<Option<f64>> {
        let groups = values.chunks(group);
        let max = |values: &[Option<f64>]| values.iter().flatten().copied().reduce(f64::max);
        groups.map(max).collect()
    };
    let (p50, p95) = (highest(&shown.p50_ms), highest(&shown.p95_ms));
    let most = round_up(p95.iter().flatten().copied().fold(0.0, f64::max));
    let (across, up) = (Scale::across((0.0, seconds as f64), false), Scale::up(most));
    let names = [0.0, 0.5, 1.0].map(|share| match share * most {
        0.0 => (0.0, "0".to_owned()),
        value => (value, short(value)),
    });
    let drawn = levels(up, &names)
        + &curve(&p95, group, across, up, "c1")
        + &curve(&p50, group, across, up, "c0")
        + &seconds_below(across, seconds);
    Some((
        svg(
            "Median and 95th percentile of the latency per second",
            HEIGHT,
            &drawn,
        ),
        shown.phase.name(),
    ))
}

/// Draws a line through the middle of each group of seconds. Leaves a gap where there is no value.
fn curve(values: &[Option<f64>], group: usize, across: Scale, up: Scale, class: &str) -> String {
    let (mut path, mut dots) = (String::new(), String::new());
    let at = |index: usize| values.get(index).copied().flatten();
    for (index, value) in values.iter().enumerate() {
        let Some(value) = *value else { continue };
        let x = across.at((index as f64 + 0.5) * group as f64);
        let y = up.at(value);
        let is_first = index.checked_sub(1).and_then(at).is_none();
        let _ = write!(path, "{}{x:.1} {y:.1}", if is_first { 'M' } else { 'L' });
        // A line with one point is invisible.
        if is_first && at(index + 1).is_none() {
            dots += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" class=\"bar {class}\"/>");
        }
    }
    format!("<path d=\"{path}\" class=\"curve {class}\"/>{dots}")
}

/// Labels the axis of time.
fn seconds_below(across: Scale, seconds: usize) -> String {
    let y = HEIGHT - BOTTOM;
    let mut drawn = line((LEFT, y), (WIDTH - RIGHT, y), "grid");
    for (share, class) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
        let value = share * seconds as f64;
        drawn += &text(across.at(value), y + 17.0, class, &format!("{value} s"));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    drawn + &text(middle, HEIGHT - 4.0, "middle", "time since measuring began")
}

/// Rounds up to 1, 2, 4, 6 or 8 times a power of ten, so that half of it is a round number, too.
fn round_up(number: f64) -> f64 {
    let power = 10f64.powf(number.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    let rounded = steps.into_iter().map(|step| step * power);
    rounded
        .into_iter()
        .find(|it| *it >= number)
        .unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(
            [0.3, 1.0, 7.0, 21.0, 260.0].map(round_up),
            [0.4, 1.0, 8.0, 40.0, 400.0]
        );
    }

    #[test]
    fn a_curve_has_a_gap_where_nothing_was_measured() {
        let (across, up) = (Scale::across((0.0, 4.0), false), Scale::up(1.0));
        let drawn = curve(
            &[Some(0.0), Some(1.0), None, Some(1.0)],
            1,
            across,
            up,
            "c0",
        );
        assert_eq!(drawn.matches('M').count(), 2, "{drawn}");
        assert_eq!(drawn.matches('L').count(), 1, "{drawn}");
        assert_eq!(drawn.matches("<circle").count(), 1, "{drawn}");
    }
}
