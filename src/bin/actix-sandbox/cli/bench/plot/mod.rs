//! Plots as SVG. The stylesheet of the page sets their colours.

mod distribution;
mod over_time;
mod waterfall;

pub(super) use distribution::distribution;
pub(super) use over_time::{latencies, throughput};
pub(super) use waterfall::waterfall;

use super::phase::Phase;

/// Size of a plot in its own units. A plot is about as wide as a phone, so that its text is
/// readable there.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

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

/// Formats a tick, given in milliseconds, with a unit.
fn short(millis: f64) -> String {
    let whole = |number: f64, unit: &str| format!("{} {unit}", (number * 10.0).round() / 10.0);
    match millis {
        it if it >= 1000.0 => whole(it / 1000.0, "s"),
        it if it >= 1.0 => whole(it, "ms"),
        it => whole(it * 1000.0, "µs"),
    }
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
}
