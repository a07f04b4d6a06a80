//! The resource limits of every process that the server starts. `reset` runs between fork and exec,
//! so it only makes system calls (see `spawn`).

use std::io;

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

const MIB: u64 = 1 << 20;
const UNLIMITED: Option<u64> = None;

/// The soft and hard limits of every process: the usual limits of a login shell.
const LIMITS: [(Resource, Option<u64>, Option<u64>); 16] = [
    (Resource::As, UNLIMITED, UNLIMITED),
    (Resource::Core, Some(0), Some(0)),
    (Resource::Cpu, UNLIMITED, UNLIMITED),
    (Resource::Data, UNLIMITED, UNLIMITED),
    (Resource::Fsize, UNLIMITED, UNLIMITED),
    (Resource::Locks, UNLIMITED, UNLIMITED),
    (Resource::Memlock, Some(8 * MIB), Some(8 * MIB)),
    (Resource::Msgqueue, Some(819_200), Some(819_200)),
    (Resource::Nice, Some(0), Some(0)),
    (Resource::Nofile, Some(1_024), Some(524_288)),
    (Resource::Nproc, UNLIMITED, UNLIMITED),
    (Resource::Rss, UNLIMITED, UNLIMITED),
    (Resource::Rtprio, Some(0), Some(0)),
    (Resource::Rttime, UNLIMITED, UNLIMITED),
    (Resource::Sigpending, UNLIMITED, UNLIMITED),
    (Resource::Stack, Some(8 * MIB), UNLIMITED),
];

/// Sets every limit.
pub(super) fn reset() -> io::Result<()> {
    for (resource, soft, hard) in LIMITS {
        let current = getrlimit(resource);
        set_limit(resource, current, limit(soft, hard, current.maximum))?;
    }
    Ok(())
}

/// Sets a limit. gVisor has some limits that no process can change. If the kernel refuses, a
/// current limit that allows no more than the wanted one is kept; one that allows more is an error.
fn set_limit(resource: Resource, current: Rlimit, wanted: Rlimit) -> io::Result<()> {
    if current == wanted {
        return Ok(());
    }
    match setrlimit(resource, wanted) {
        Err(Errno::PERM | Errno::INVAL) if !allows_more(current, wanted) => Ok(()),
        set => Ok(set?),
    }
}

/// Whether one limit allows more than the other, by its soft or its hard value.
fn allows_more(one: Rlimit, other: Rlimit) -> bool {
    let exceeds = |one: Option<u64>, other: Option<u64>| {
        other.is_some_and(|other| one.is_none_or(|one| one > other))
    };
    exceeds(one.current, other.current) || exceeds(one.maximum, other.maximum)
}

/// Caps a limit at the hard limit of the server, which an administrator may have lowered.
fn limit(soft: Option<u64>, hard: Option<u64>, most: Option<u64>) -> Rlimit {
    let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let hard = least(hard, most);
    Rlimit {
        current: least(soft, hard),
        maximum: hard,
    }
}

/// Lowers limits to the given values. Never raises a limit.
pub(super) fn lower<const N: usize>(limits: [(Resource, u64); N]) -> io::Result<()> {
    for (resource, most) in limits {
        let current = getrlimit(resource);
        set_limit(
            resource,
            current,
            limit(Some(most), Some(most), current.maximum),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_allows_more_in_either_value_is_found() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let asked = limit(Some(1), Some(2));
        for more in [
            limit(Some(2), Some(2)),
            limit(Some(1), Some(3)),
            limit(Some(1), None),
            limit(None, None),
        ] {
            assert!(allows_more(more, asked), "{more:?}");
        }
        for no_more in [asked, limit(Some(0), Some(2)), limit(Some(1), Some(1))] {
            assert!(!allows_more(no_more, asked), "{no_more:?}");
        }
        let unlimited = limit(None, None);
        assert!(!allows_more(unlimited, unlimited));
    }
}
