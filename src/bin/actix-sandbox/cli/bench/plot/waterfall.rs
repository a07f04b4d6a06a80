//! The steps of a sandbox, in sequence.

use super::{Scale, WIDTH, colour, line, svg, text};
use crate::cli::bench::{
    phase::Phase,
    report::Report,
    statistics::{PhaseReport, time},
};

/// Plots the steps of a sandbox in sequence. A bar shows the median of a step, and a whisker its
/// 90th percentile.
pub(in crate::cli::bench) fn waterfall(report: &Report) -> String {
    const ROW: f64 = 34.0;
    const NAMES: f64 = 92.0;
    /// Space for the median behind the longest whisker.
    const TIMES: f64 = 74.0;
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
        places: (NAMES, WIDTH - TIMES),
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
        drawn += &text(p90 + 6.0, y + 14.0, "start", &time(phase.p50_ms));
    }
    svg(
        "The steps of a sandbox, in sequence",
        8.0 + rows.len() as f64 * ROW,
        &drawn,
    )
}
