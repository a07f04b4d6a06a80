//! What a sandbox uses, as text.

use std::time::{Duration, SystemTime};

use actix_sandbox::Metrics;
use bytesize::ByteSize;

/// The names and values of metrics.
pub(crate) fn rows(metrics: &Metrics) -> Vec<(&'static str, String)> {
    let usage = &metrics.usage;
    let limits = &metrics.limits;
    let mut memory = of(bytes(usage.memory_bytes), limits.memory_bytes.map(bytes));
    if let Some(peak) = usage.peak_memory_bytes {
        memory += &format!(", peak {}", bytes(peak));
    }
    if let Some(limit) = limits.process_memory_bytes {
        memory += &format!(", at most {} in each process", bytes(limit));
    }
    vec![
        ("uptime", short(metrics.uptime())),
        (
            "cpu time",
            format!("{:.1} s", metrics.cpu_time().as_secs_f64()),
        ),
        ("memory", memory),
        (
            "disk",
            of(bytes(metrics.disk_bytes), limits.disk_bytes.map(bytes)),
        ),
        (
            "processes",
            of(
                usage.processes.to_string(),
                limits.processes.map(|it| it.to_string()),
            ),
        ),
    ]
}

/// A value and its limit.
fn of(value: String, limit: Option<String>) -> String {
    match limit {
        Some(limit) => format!("{value} of {limit}"),
        None => value,
    }
}

/// A number of bytes with a unit.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// The current time, in milliseconds since 1970-01-01 UTC.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The time since then, in milliseconds since 1970-01-01 UTC, with two units.
pub(crate) fn age(since_ms: u64) -> String {
    short(Duration::from_millis(now_ms().saturating_sub(since_ms)))
}

/// A duration in whole seconds, with its two largest units.
pub(crate) fn short(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A time, in milliseconds since 1970-01-01 UTC, in RFC 3339.
pub(crate) fn time(ms: u64) -> String {
    // Later times can't be represented in RFC 3339.
    let last = Duration::from_secs(253_402_300_799);
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms).min(last);
    humantime::format_rfc3339_seconds(time).to_string()
}
