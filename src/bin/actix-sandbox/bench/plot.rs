//! Plots as SVG. The stylesheet of the page sets their colours.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{
    report::{PhaseReport, Report, time},
    session::Phase,
};

/// Size of a plot in its own units. A plot is about as wide as a phone, so that its text is
/// readable there.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// Number of points of a curve.
const POINTS: usize = 200;

/// Escapes text for HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // XML forbids most control characters, and HTML has no use for them.
            it if it.is_control() && it != '\n' && it != '\t' => escaped.push('\u{fffd}'),
            it => escaped.push(it),
        }
    }
    escaped
}

/// Maps values to positions in a plot.
#[derive(Clone, Copy)]
struct Scale {
    values: (f64, f64),
    places: (f64, f64),
    is_log: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let of = |it: f64| if self.is_log { it.ln() } else { it };
        let (first, last) = (of(self.values.0), of(self.values.1));
        let share = match last > first {
            true => ((of(value) - first) / (last - first)).clamp(0.0, 1.0),
            false => 0.5,
        };
        self.places.0 + share * (self.places.1 - self.places.0)
    }

    fn across(values: (f64, f64), is_log: bool) -> Self {
        Self {
            values,
            places: (LEFT, WIDTH - RIGHT),
            is_log,
        }
    }

    fn up(most: f64) -> Self {
        Self {
            values: (0.0, most),
            places: (HEIGHT - BOTTOM, TOP),
            is_log: false,
        }
    }
}

fn svg(label: &str, height: f64, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{inside}</svg>\n",
        escape(label)
    )
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>",
        escape(text)
    )
}

fn line(from: (f64, f64), to: (f64, f64), class: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{class}\"/>",
        from.0, from.1, to.0, to.1
    )
}

/// Draws horizontal grid lines, with their values on the left.
fn levels(up: Scale, levels: &[(f64, String)]) -> String {
    levels.iter().fold(String::new(), |drawn, (value, name)| {
        let y = up.at(*value);
        drawn
            + &line((LEFT, y), (WIDTH - RIGHT, y), "grid")
            + &text(LEFT - 6.0, y + 4.0, "end", name)
    })
}

/// Returns the CSS class that sets the colour of a phase.
pub(super) fn colour(phase: Phase) -> String {
    format!("c{}", phase as usize)
}

/// Plots the cumulative distribution of the latencies of each phase.
pub(super) fn distribution<'a>(
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
        if x - last > 48.0 && x < WIDTH - 24.0 {
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

/// Formats a tick, given in milliseconds, with a unit.
fn short(millis: f64) -> String {
    let whole = |number: f64, unit: &str| format!("{} {unit}", (number * 10.0).round() / 10.0);
    match millis {
        it if it >= 1000.0 => whole(it / 1000.0, "s"),
        it if it >= 1.0 => whole(it, "ms"),
        it => whole(it * 1000.0, "µs"),
    }
}

/// Rounds up to 1, 2, 2.5 or 5 times a power of ten.
fn round_up(number: f64) -> f64 {
    let power = 10f64.powf(number.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let rounded = steps.into_iter().map(|step| step * power);
    rounded
        .into_iter()
        .find(|it| *it >= number)
        .unwrap_or(number)
}

/// Plots the completed and failed sandboxes per second over the run.
pub(super) fn throughput(report: &Report) -> String {
    let timeline = &report.timeline;
    let count = timeline.completed.len();
    if count == 0 {
        return String::new();
    }
    let rate = |count: u64| count as f64 / timeline.width_seconds;
    let pairs = timeline.completed.iter().zip(&timeline.failed);
    let most = pairs.clone().map(|(done, failed)| rate(done + failed));
    let most = round_up(most.fold(0.0, f64::max));
    let up = Scale::up(most);
    let length = count as f64 * timeline.width_seconds;
    let across = Scale::across((0.0, length), false);
    let names = [0.0, 0.5, 1.0].map(|share| {
        let value = share * most;
        (value, format!("{}", (value * 10.0).round() / 10.0))
    });
    let mut drawn = levels(up, &names);
    for (index, (&done, &failed)) in pairs.enumerate() {
        let from = across.at(index as f64 * timeline.width_seconds);
        let to = across.at((index + 1) as f64 * timeline.width_seconds);
        let mut bar = |from_rate: f64, to_rate: f64, class: &str| {
            if to_rate > from_rate {
                let (top, bottom) = (up.at(to_rate), up.at(from_rate));
                // Leave a gap between bars that are wide enough.
                let width = (to - from) * if to - from > 3.0 { 0.9 } else { 1.0 };
                drawn += &format!(
                    "<rect x=\"{from:.2}\" y=\"{top:.1}\" width=\"{width:.2}\" height=\"{:.1}\" class=\"{class}\"/>",
                    bottom - top
                );
            }
        };
        bar(0.0, rate(done), "done");
        bar(rate(done), rate(done + failed), "failed");
    }
    for share in [0.0, 0.5, 1.0] {
        let value = share * length;
        let class = ["start", "middle", "end"][(share * 2.0) as usize];
        let name = format!("{} s", (value * 10.0).round() / 10.0);
        drawn += &text(across.at(value), HEIGHT - BOTTOM + 17.0, class, &name);
    }
    drawn += &text(
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 4.0,
        "middle",
        "time since measuring began",
    );
    svg("Sandboxes per second over the run", HEIGHT, &drawn)
}

/// Plots the steps of a sandbox in sequence. A bar shows the median of a step, and a whisker its
/// 90th percentile.
pub(super) fn waterfall(report: &Report) -> String {
    const ROW: f64 = 34.0;
    const NAMES: f64 = 92.0;
    let find = |phase: Phase| report.phases.iter().find(|it| it.phase == phase);
    let mut rows: Vec<(&PhaseReport, f64)> = Vec::new();
    let mut at = 0.0;
    if let Some(create) = find(Phase::Create) {
        rows.push((create, 0.0));
        at += create.p50_ms;
    }
    // These phases count from the request to run the script.
    let of_exec = [Phase::ExecStart, Phase::FirstOutput, Phase::End];
    rows.extend(of_exec.into_iter().filter_map(find).map(|it| (it, at)));
    at += find(Phase::End).map_or(0.0, |it| it.p50_ms);
    rows.extend(find(Phase::Kill).map(|it| (it, at)));
    let ends = rows.iter().map(|(phase, from)| from + phase.p90_ms);
    let most = ends.fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let across = Scale {
        values: (0.0, most),
        places: (NAMES, WIDTH - RIGHT),
        is_log: false,
    };
    let mut drawn = String::new();
    for (index, (phase, from)) in rows.iter().enumerate() {
        let y = 4.0 + index as f64 * ROW;
        let (start, median) = (across.at(*from), across.at(from + phase.p50_ms));
        let (p90, class) = (across.at(from + phase.p90_ms), colour(phase.phase));
        let middle = y + 10.0;
        drawn += &text(NAMES - 8.0, y + 14.0, "end", phase.phase.name());
        drawn += &format!(
            "<rect x=\"{start:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"20\" rx=\"2\" class=\"bar {class}\"/>",
            (median - start).max(1.0)
        );
        drawn += &line((median, middle), (p90, middle), &format!("whisker {class}"));
        drawn += &line(
            (p90, middle - 6.0),
            (p90, middle + 6.0),
            &format!("whisker {class}"),
        );
        let said = time(phase.p50_ms);
        // Put the label behind the whisker, before the bar or on the bar, wherever it fits.
        drawn += &match p90 < WIDTH - 74.0 {
            true => text(p90 + 6.0, y + 14.0, "start", &said),
            false if start > NAMES + 74.0 => text(start - 6.0, y + 14.0, "end", &said),
            false => text(start + 6.0, y + 14.0, "start on", &said),
        };
    }
    svg(
        "The steps of a sandbox, in sequence",
        8.0 + rows.len() as f64 * ROW,
        &drawn,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_are_escaped() {
        assert_eq!(
            escape("<script>\"&'\u{0}</script>"),
            "&lt;script&gt;&quot;&amp;&#39;\u{fffd}&lt;/script&gt;"
        );
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(
            [0.3, 1.0, 7.0, 21.0, 260.0].map(round_up),
            [0.5, 1.0, 10.0, 25.0, 500.0]
        );
        let ticks: Vec<_> = decades(900.0, 5_000.0).collect();
        assert_eq!(ticks, [1_000.0, 2_000.0, 5_000.0]);
    }
}
