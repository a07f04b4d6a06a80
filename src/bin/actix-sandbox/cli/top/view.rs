//! A sample as text.

use std::time::Duration;

use super::sample::{Sample, State, Usage};
use crate::cli::{
    escape::escaped,
    output,
    usage::{bytes, short},
};

const HEADING: [&str; 7] = [
    "SANDBOX",
    "STATE",
    "CPU",
    "CPU TIME",
    "MEMORY",
    "DISK",
    "PROCESSES",
];
const PROCESSES: [&str; 3] = ["PROCESS", "PROGRAM", "RUNNING"];

pub(super) fn text(sample: &Sample) -> String {
    let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
    rows.extend(sample.sandboxes.iter().map(row));
    let mut text = output::table(&rows);
    for it in &sample.sandboxes {
        if let Some(reason) = &it.reason {
            text += &format!("{}: {}\n", it.id, escaped(reason));
        }
        if let Some(processes) = &it.processes {
            let mut rows = vec![PROCESSES.map(str::to_owned).to_vec()];
            rows.extend(processes.iter().map(|it| {
                let running = short(Duration::from_millis(it.running_ms));
                vec![it.id.clone(), it.program.clone(), running]
            }));
            text.push('\n');
            text += &output::table(&rows);
        }
    }
    text
}

fn row(usage: &Usage) -> Vec<String> {
    let state = match usage.state {
        State::Running => "running",
        State::InUse => "in use",
        State::NotRunning => "not running",
        State::Unknown => "unknown",
    };
    let mut row = vec![usage.id.clone(), state.to_owned()];
    if let Some(metrics) = &usage.metrics {
        let percent = usage.cpu_percent.map(|it| format!("{it:.1}%"));
        row.push(percent.unwrap_or_else(|| "-".to_owned()));
        row.push(format!("{:.1} s", metrics.cpu_time().as_secs_f64()));
        let limits = &metrics.limits;
        row.push(of(metrics.usage.memory_bytes, limits.memory_bytes));
        row.push(of(metrics.disk_bytes, limits.disk_bytes));
        row.push(metrics.usage.processes.to_string());
    }
    row
}

/// A number of bytes and its limit.
fn of(number: u64, limit: Option<u64>) -> String {
    match limit {
        Some(limit) => format!("{} of {}", bytes(number), bytes(limit)),
        None => bytes(number),
    }
}
