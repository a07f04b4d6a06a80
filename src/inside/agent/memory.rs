//! The limit on the memory of each process in gVisor.
//!
//! gVisor can limit the address space and the heap of a process, but not the memory that the
//! process uses. Java and WebAssembly reserve far more address space than they use. So the agent
//! measures the processes and kills those that exceed the limit. A process can exceed it between
//! two measurements. The server's limit on the memory of the whole sandbox bounds by how much.

use std::{fs, io, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::inside::proc::{is_gone_or_foreign, pids};

/// The assumed maximum of bytes that all processes of a sandbox together allocate in a second.
const BYTES_PER_SECOND: u64 = 2 << 30;

/// The shortest and the longest time between two measurements.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Kills each process that has more than `limit` bytes of memory. Returns when to measure next;
/// `None` if there is no process besides this one.
pub(super) fn enforce(limit: u64) -> io::Result<Option<Duration>> {
    let this = std::process::id().cast_signed();
    let mut largest = None;
    for pid in pids()?.into_iter().filter(|&pid| pid != this) {
        let bytes = match fs::read_to_string(format!("/proc/{pid}/statm")) {
            Ok(statm) => resident_bytes(&statm),
            Err(error) if is_gone_or_foreign(&error) => continue,
            Err(error) => return Err(error),
        };
        if bytes > limit {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        largest = largest.max(Some(bytes));
    }
    Ok(largest.map(|largest| next_after(limit.saturating_sub(largest))))
}

/// The time until a process with `room` bytes left can exceed its limit, within the bounds above.
fn next_after(room: u64) -> Duration {
    let millis = room.saturating_mul(1_000) / BYTES_PER_SECOND;
    Duration::from_millis(millis).clamp(SHORTEST, LONGEST)
}

/// The resident memory of a process, in bytes, from its file `statm`.
fn resident_bytes(statm: &str) -> u64 {
    let pages = statm.split_whitespace().nth(1);
    let pages: u64 = pages.and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_near_its_limit_is_measured_sooner() {
        assert_eq!(next_after(0), SHORTEST);
        assert_eq!(next_after(1 << 30), Duration::from_millis(500));
        assert_eq!(next_after(u64::MAX), LONGEST);
    }

    #[test]
    fn the_memory_of_this_process_is_read() {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        let bytes = resident_bytes(&statm);
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
        assert_eq!(resident_bytes(""), 0);
    }
}
