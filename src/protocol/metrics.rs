//! [`Metrics`] and [`RunningExecs`]: the results of the builtins that measure a sandbox (v2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ExecId, SandboxLimits};

/// What a sandbox uses. The result of [`Builtin::Metrics`](super::Builtin::Metrics).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Metrics {
    /// What the processes of the sandbox use.
    #[serde(flatten)]
    pub usage: ProcessUsage,
    /// How many bytes the files of the sandbox take on the disk.
    pub disk_bytes: u64,
    /// How long the sandbox has been on this server, in milliseconds.
    pub uptime_ms: u64,
    /// The limits of the sandbox.
    #[serde(default)]
    pub limits: MetricsLimits,
}

impl Metrics {
    /// The CPU time of the processes.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_millis(self.usage.cpu_ms)
    }

    /// How long the sandbox has been on this server: since it was created or restored there.
    pub fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime_ms)
    }
}

/// What the processes of a sandbox use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessUsage {
    /// The CPU time in milliseconds, of all processors together. It includes processes that have
    /// ended, if a process that still runs has waited for them. On the backend `host`, the server
    /// waits for the main process of an exec, so the CPU time of ended execs is missing there.
    pub cpu_ms: u64,
    /// The resident memory of all processes, in bytes. Memory that several processes share counts
    /// for each.
    pub memory_bytes: u64,
    /// The sum of the peak resident memory of each process that still runs, in bytes. The sandbox
    /// may have used less, because the peaks need not coincide, or more, because ended processes
    /// are missing. `None` if the kernel doesn't report it (gVisor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// The number of operating-system processes, including background processes and those of the
    /// server in the sandbox. Not comparable with the limit on processes, which also counts
    /// threads.
    pub processes: u64,
}

/// The limits of a sandbox. `None`: the server doesn't limit it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricsLimits {
    /// The memory of each process, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_memory_bytes: Option<u64>,
    /// The memory of the whole sandbox, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The number of processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// The size of the files together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

impl From<SandboxLimits> for MetricsLimits {
    fn from(limits: SandboxLimits) -> Self {
        Self {
            process_memory_bytes: limits.memory,
            memory_bytes: None,
            processes: limits.processes,
            disk_bytes: limits.disk,
        }
    }
}

/// The named execs that run a program. The result of
/// [`Builtin::Processes`](super::Builtin::Processes).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningExecs {
    /// The oldest execs, the oldest first. `omitted` counts the others.
    pub execs: Vec<RunningExec>,
    /// The number of further execs.
    #[serde(default)]
    pub omitted: u64,
}

/// A named exec whose main process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningExec {
    /// The id of the exec.
    pub exec: ExecId,
    /// The interpreter of the code, or the path or the name of the program, without its arguments.
    pub program: String,
    /// For how many milliseconds it has been running.
    pub running_ms: u64,
    /// The acknowledged offset in stdout, in bytes.
    pub stdout: u64,
    /// The acknowledged offset in stderr, in bytes.
    pub stderr: u64,
    /// The window that the server uses.
    pub window: u64,
}
