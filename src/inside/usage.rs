//! [`usage`]: what processes use, from `/proc`. Linux only.

use std::{fs, io};

use super::proc::{is_gone_or_foreign, parse_usage};
use crate::protocol::ProcessUsage;

/// Adds up what these processes use. Leaves out those that have ended.
pub(crate) fn usage(pids: impl IntoIterator<Item = i32>) -> io::Result<ProcessUsage> {
    let (mut ticks, mut pages, mut usage) = (0_u64, 0_u64, ProcessUsage::default());
    let mut peak = Some(0_u64);
    for pid in pids {
        let stat = match fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if is_gone_or_foreign(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(process) = parse_usage(&stat) else {
            continue;
        };
        ticks = ticks.saturating_add(process.ticks);
        // A dead process that its parent has not waited for has no memory.
        if process.is_dead {
            continue;
        }
        usage.processes += 1;
        pages = pages.saturating_add(process.pages);
        peak = peak
            .zip(peak_of(pid))
            .map(|(sum, it)| sum.saturating_add(it));
    }
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    usage.cpu_ms = ticks.saturating_mul(1_000) / per_second;
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
    usage.memory_bytes = pages.saturating_mul(page);
    usage.peak_memory_bytes = peak;
    Ok(usage)
}

/// The largest resident memory that a process has had, in bytes. `None` if the kernel doesn't
/// report it. 0 if the process has ended.
fn peak_of(pid: i32) -> Option<u64> {
    let Ok(status) = fs::read(format!("/proc/{pid}/status")) else {
        return Some(0);
    };
    let status = String::from_utf8_lossy(&status);
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes.saturating_mul(1_024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_this_process_is_measured() {
        let me = std::process::id().cast_signed();
        let one = usage([me]).unwrap();
        assert_eq!(one.processes, 1);
        assert!(one.memory_bytes > 1 << 20, "{one:?}");
        assert!(one.peak_memory_bytes >= Some(1 << 20), "{one:?}");
        // No process has this number.
        assert_eq!(usage([me, i32::MAX]).unwrap().processes, 1);
    }
}
