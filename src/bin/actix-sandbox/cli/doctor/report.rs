//! [`Report`]: the results of the checks. Its JSON form is part of the interface of the command.

use std::{path::PathBuf, time::Duration};

use actix_sandbox::server::{CodeUser, SystemCalls};
use serde::Serialize;

/// The version of the layout of the JSON. It changes if a key is removed or changes its meaning.
const FORMAT: u32 = 1;

/// The results of all checks.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) format: u32,
    /// The version of this program.
    pub(super) version: &'static str,
    /// Whether a backend that confines code works or, with a URL, whether the service works.
    pub(super) works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) machine: Option<MachineReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<ServiceReport>,
}

impl Report {
    pub(super) fn of_machine(machine: MachineReport) -> Self {
        let mut backends = machine.backends.iter();
        Self {
            works: backends.any(|it| it.works && it.confines),
            machine: Some(machine),
            ..Self::empty()
        }
    }

    pub(super) fn of_service(service: ServiceReport) -> Self {
        Self {
            works: service.works,
            service: Some(service),
            ..Self::empty()
        }
    }

    fn empty() -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            works: false,
            machine: None,
            service: None,
        }
    }
}

#[derive(Serialize)]
pub(super) struct MachineReport {
    pub(super) backends: Vec<BackendReport>,
    /// The backend that `--backend auto` selects. `None` if the server doesn't start.
    pub(super) auto: Option<String>,
    /// The backend that `--backend confined` selects. `None` if the server doesn't start.
    pub(super) confined: Option<String>,
    pub(super) open_files: OpenFiles,
}

#[derive(Serialize)]
pub(super) struct BackendReport {
    pub(super) backend: &'static str,
    pub(super) works: bool,
    /// Whether the backend confines code.
    pub(super) confines: bool,
    /// The program that the backend uses, if it is installed.
    pub(super) program: Option<Program>,
    /// How long the server took to start.
    pub(super) start_ms: Option<f64>,
    /// From the request to create a sandbox to the end of `true` in it.
    pub(super) create_and_run_ms: Option<f64>,
    /// Why the backend doesn't work.
    pub(super) problem: Option<String>,
    /// What to install or change.
    pub(super) advice: Vec<String>,
    pub(super) limits: Option<Limits>,
    pub(super) bash: Option<Interpreter>,
    pub(super) python3: Option<Interpreter>,
}

#[derive(Serialize)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) version: Option<String>,
}

/// An interpreter in the sandboxes.
#[derive(Serialize)]
pub(super) struct Interpreter {
    pub(super) version: Option<String>,
    pub(super) path: Option<String>,
    /// Why it doesn't run.
    pub(super) problem: Option<String>,
}

/// What a backend enforces on each sandbox. `None` means no limit.
#[derive(Serialize)]
pub(super) struct Limits {
    /// Of each process.
    pub(super) memory_bytes: Option<u64>,
    pub(super) sandbox_memory_bytes: Option<u64>,
    pub(super) cpus: Option<f64>,
    pub(super) processes: Option<u64>,
    pub(super) disk_bytes: Option<u64>,
    pub(super) file_size_bytes: Option<u64>,
    /// Of each process.
    pub(super) open_files: Option<u64>,
    pub(super) user: User,
    pub(super) system_calls: Calls,
    pub(super) network: bool,
    /// Why no cgroup limits the sandboxes.
    pub(super) no_cgroup: Option<String>,
}

/// The user ID of this machine that code runs as: that of the server, one that all sandboxes share,
/// or a different one for each sandbox.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum User {
    Server,
    Shared,
    Own,
    Unknown,
}

impl From<CodeUser> for User {
    fn from(user: CodeUser) -> Self {
        match user {
            CodeUser::Server => Self::Server,
            CodeUser::Shared => Self::Shared,
            CodeUser::Own => Self::Own,
            _ => Self::Unknown,
        }
    }
}

/// What handles the system calls of code.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Calls {
    Unfiltered,
    Filtered,
    OwnKernel,
    Unknown,
}

impl From<SystemCalls> for Calls {
    fn from(calls: SystemCalls) -> Self {
        match calls {
            SystemCalls::Unfiltered => Self::Unfiltered,
            SystemCalls::Filtered => Self::Filtered,
            SystemCalls::OwnKernel => Self::OwnKernel,
            _ => Self::Unknown,
        }
    }
}

#[derive(Serialize)]
pub(super) struct OpenFiles {
    /// The limit of this process (`ulimit -Hn`).
    pub(super) limit: u64,
    /// How many connections `serve` accepts with this limit.
    pub(super) max_connections: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct ServiceReport {
    /// The URL without its path, which may be a secret.
    pub(super) url: String,
    pub(super) works: bool,
    /// The version of the protocol: `v1` or `v2`.
    pub(super) protocol: Option<String>,
    /// The features that the service lists. v1 has none.
    pub(super) features: Vec<String>,
    /// Whether the lift works. `None` if the service speaks v2, which needs no lift.
    pub(super) lift: Option<bool>,
    pub(super) steps: Vec<Step>,
}

/// One step of the check of a service.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) step: &'static str,
    pub(super) works: bool,
    pub(super) ms: f64,
    pub(super) detail: Option<String>,
    /// Why the step failed.
    pub(super) problem: Option<String>,
    /// What to do.
    pub(super) advice: Vec<String>,
}

/// Milliseconds, with microseconds as decimals.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
