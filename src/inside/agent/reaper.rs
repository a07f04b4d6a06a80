//! The reaper of an exec: a process between the agent and the main process of the exec. It starts
//! the main process and adopts all orphaned descendants of that process. So every process of the
//! exec is a descendant of the reaper as long as the reaper runs, even if that process has changed
//! its session, its process group, its environment and its parent.
//!
//! Code may stop a reaper, so the agent never blocks on one. A reaper ends by itself when it has no
//! descendants left.

use std::{
    io::{self, PipeReader, PipeWriter, Write},
    os::fd::AsRawFd,
};

use nix::{
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::Pid,
};
use rustix::{
    io::Errno,
    process::{WaitOptions, set_child_subreaper, wait},
};

use crate::inside::{
    messages::{Failure, Limits, Start},
    spawn,
};

/// What a reaper reports to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The main process was started.
    Started,
    /// The main process could not be started: what failed, and the error number.
    NotStarted(Failure, i32),
    /// The main process has ended: its status, as wait(2) returns it.
    Ended(i32),
}

impl Report {
    pub(super) const BYTES: usize = 8;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let (kind, value) = match self {
            Self::Started => (0, 0),
            Self::NotStarted(Failure::Directory, error) => (1, error),
            Self::NotStarted(Failure::DirectoryDenied, error) => (2, error),
            Self::NotStarted(Failure::Program | Failure::Setup, error) => (3, error),
            Self::Ended(status) => (4, status),
        };
        (u64::from(value.cast_unsigned()) << 32 | kind).to_ne_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = u64::from_ne_bytes(bytes);
        let value = ((number >> 32) as u32).cast_signed();
        match number & 0xff {
            0 => Self::Started,
            1 => Self::NotStarted(Failure::Directory, value),
            2 => Self::NotStarted(Failure::DirectoryDenied, value),
            3 => Self::NotStarted(Failure::Program, value),
            _ => Self::Ended(value),
        }
    }
}

/// The ends of the pipes that the main process gets.
pub(super) struct Stdio {
    pub(super) stdin: PipeReader,
    pub(super) stdout: PipeWriter,
    pub(super) stderr: PipeWriter,
}

/// Starts a reaper, which starts the program and reports to `reports`. Returns the PID of the
/// reaper.
pub(super) fn start(
    start: &Start,
    limits: Limits,
    stdio: Stdio,
    mut reports: PipeWriter,
) -> io::Result<Pid> {
    let keep = [
        stdio.stdin.as_raw_fd(),
        stdio.stdout.as_raw_fd(),
        stdio.stderr.as_raw_fd(),
        reports.as_raw_fd(),
    ];
    spawn::fork(&keep, move || {
        let mut report = |report: Report| {
            let _ = reports.write_all(&report.to_bytes());
        };
        match start_main(start, limits, stdio) {
            Ok(main) => {
                report(Report::Started);
                reap(main, &mut report);
            }
            Err((failure, error)) => {
                report(Report::NotStarted(
                    failure,
                    error.raw_os_error().unwrap_or_default(),
                ));
            }
        }
    })
}

/// Starts the main process. Runs in the reaper.
fn start_main(start: &Start, limits: Limits, stdio: Stdio) -> Result<u32, (Failure, io::Error)> {
    let program = |error: io::Error| (Failure::Program, error);
    // Any PID as the argument turns this on.
    let adopts = set_child_subreaper(Some(rustix::process::Pid::INIT));
    adopts.map_err(|error| program(error.into()))?;
    // The reaper blocks all signals. SIGKILL and SIGSTOP can't be blocked, so code can still send
    // these two. The main process starts with an empty mask.
    let blocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    blocked.map_err(|error| program(error.into()))?;
    std::env::set_current_dir(&start.cwd).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => (Failure::DirectoryDenied, error),
        _ => (Failure::Directory, error),
    })?;
    let mut command = spawn::limited_command(&start.program, limits.of_processes());
    command
        .args(&start.args)
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&start.cwd)
        .stdin(stdio.stdin)
        .stdout(stdio.stdout)
        .stderr(stdio.stderr);
    let main = command.spawn().map_err(program)?;
    Ok(main.id())
    // The drop of `command` closes this process's ends of the pipes.
}

/// Reaps the main process and its orphaned descendants until none is left. Runs in the reaper.
fn reap(main: u32, report: &mut impl FnMut(Report)) {
    let main = main.cast_signed();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == main => {
                report(Report::Ended(status.as_raw()));
            }
            Err(Errno::CHILD) => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_their_encoding() {
        for report in [
            Report::Started,
            Report::NotStarted(Failure::Directory, 2),
            Report::NotStarted(Failure::DirectoryDenied, 13),
            Report::NotStarted(Failure::Program, 13),
            Report::Ended(0),
            Report::Ended(-1),
            Report::Ended(0x7f00),
        ] {
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
    }
}
