//! [`SandboxLimits`]: the limits that a client sets for its own sandbox, below those of the server.

use serde::{Deserialize, Serialize};

/// Limits of a sandbox. `None` leaves a limit to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxLimits {
    /// The maximum memory of a process, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The maximum number of processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// The maximum bytes on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

impl SandboxLimits {
    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Each limit with its name, in the order of the fields.
    pub fn named(&self) -> [(&'static str, Option<u64>); 3] {
        [
            ("memory", self.memory),
            ("processes", self.processes),
            ("disk", self.disk),
        ]
    }

    /// The lower of each limit and that of `other`. A limit that `other` lacks stays.
    pub fn lowered(self, other: Self) -> Self {
        let lower = |one: Option<u64>, two: Option<u64>| one.into_iter().chain(two).min();
        Self {
            memory: lower(self.memory, other.memory),
            processes: lower(self.processes, other.processes),
            disk: lower(self.disk, other.disk),
        }
    }
}

/// Checks limits. The error says what is wrong with them, after the name of the option.
pub(super) fn check(limits: &SandboxLimits) -> Result<(), String> {
    let mut named = limits.named().into_iter();
    match named.find(|(_, limit)| *limit == Some(0)) {
        Some((name, _)) => Err(format!("contains 0 for `{name}`")),
        None => Ok(()),
    }
}
