//! The main process of an exec: its pipes, its user, its start, and reports about it.

use std::{
    io::{self, PipeReader, PipeWriter, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::unistd::Pid;
use rustix::{
    io::Errno,
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::inside::{
    filter,
    messages::{Failure, Limits, Start},
    spawn::{self, Leads},
};

/// What is reported to the agent about a main process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The main process was started: its PID.
    Started(i32),
    /// The main process could not be started: what failed, and the error number.
    NotStarted(Failure, i32),
    /// The main process has ended: its status, as wait(2) returns it.
    Ended(i32),
    /// A keeper has sent a signal that was typed.
    Signaled,
}

impl Report {
    pub(super) const BYTES: usize = 8;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let (kind, value) = match self {
            Self::Started(pid) => (0, pid),
            Self::NotStarted(Failure::Directory, error) => (1, error),
            Self::NotStarted(Failure::DirectoryDenied, error) => (2, error),
            Self::NotStarted(Failure::Program | Failure::Setup, error) => (3, error),
            Self::Ended(status) => (4, status),
            Self::Signaled => (5, 0),
        };
        (u64::from(value.cast_unsigned()) << 32 | kind).to_ne_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = u64::from_ne_bytes(bytes);
        let value = ((number >> 32) as u32).cast_signed();
        match number & 0xff {
            0 => Self::Started(value),
            1 => Self::NotStarted(Failure::Directory, value),
            2 => Self::NotStarted(Failure::DirectoryDenied, value),
            3 => Self::NotStarted(Failure::Program, value),
            5 => Self::Signaled,
            _ => Self::Ended(value),
        }
    }

    pub(super) fn write(self, mut reports: &PipeWriter) {
        // This fails only if the agent has ended. Then the kernel also ends this process.
        let _ = reports.write_all(&self.to_bytes());
    }
}

/// What failed at the start of a main process, and why.
pub(super) struct NotStarted(pub(super) Failure, pub(super) io::Error);

impl NotStarted {
    pub(super) fn report(&self) -> Report {
        Report::NotStarted(self.0, self.1.raw_os_error().unwrap_or_default())
    }
}

impl<E: Into<io::Error>> From<E> for NotStarted {
    fn from(error: E) -> Self {
        Self(Failure::Program, error.into())
    }
}

/// The main process's ends of its pipes.
pub(super) struct Stdio {
    pub(super) stdin: PipeReader,
    pub(super) stdout: PipeWriter,
    pub(super) stderr: PipeWriter,
}

impl Stdio {
    /// The descriptors that a forked child keeps: these and the pipe for reports.
    pub(super) fn fds_with(&self, reports: &PipeWriter) -> [RawFd; 4] {
        [
            self.stdin.as_raw_fd(),
            self.stdout.as_raw_fd(),
            self.stderr.as_raw_fd(),
            reports.as_raw_fd(),
        ]
    }
}

/// Enters the working directory. Returns the command of the main process, which holds the pipes.
pub(super) fn command(
    start: &Start,
    (path, args): (&str, &[String]),
    limits: Limits,
    stdio: Stdio,
    leads: Leads,
) -> Result<Command, NotStarted> {
    std::env::set_current_dir(&start.cwd).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => NotStarted(Failure::DirectoryDenied, error),
        _ => NotStarted(Failure::Directory, error),
    })?;
    let mut command = spawn::limited_command(path, limits.of_processes(), leads);
    command
        .args(args)
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&start.cwd)
        .stdin(stdio.stdin)
        .stdout(stdio.stdout)
        .stderr(stdio.stderr);
    Ok(command)
}

/// The user that a main process runs as in gVisor, and the supplementary group that marks the
/// processes of its exec.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) user: u32,
    pub(super) group: u32,
    /// Keeps code in the group.
    pub(super) filter: &'a filter::Program,
}

impl Identity<'_> {
    /// Calls `create` with the user ID of code, so that code owns what `create` makes. Code can
    /// open a pipe by a path such as `/dev/stdout` only if it owns the pipe. Meanwhile, code can't
    /// signal this process: the real and saved user IDs decide that, and they stay 0.
    pub(super) fn as_user<T>(self, create: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        set_thread_res_uid(Uid::ROOT, Uid::from_raw(self.user), Uid::ROOT)?;
        let created = create();
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        created
    }

    /// Makes this process run as the user, with only the supplementary group. It loses all
    /// privileges.
    pub(super) fn assume(self) -> io::Result<()> {
        self.assume_with(&[Gid::from_raw(self.group)])
    }

    /// [`assume`](Self::assume) without the supplementary group, so that a kill of the exec doesn't
    /// find this process.
    pub(super) fn assume_without_group(self) -> io::Result<()> {
        self.assume_with(&[])
    }

    fn assume_with(self, groups: &[Gid]) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.user), Gid::from_raw(self.user));
        set_thread_groups(groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        filter::apply(self.filter).map_err(|_| Errno::PERM.into())
    }
}

/// Forks a child and returns its PID. The child executes the program. If it can't, it writes a
/// report to `reports`. Otherwise, `reports` ends without a report.
pub(super) fn start(
    start: &Start,
    program: (&str, &[String]),
    limits: Limits,
    identity: Identity<'_>,
    stdio: Stdio,
    reports: PipeWriter,
) -> io::Result<Pid> {
    spawn::fork(&stdio.fds_with(&reports), move |closed| {
        let not_started = closed
            .and_then(|()| identity.assume())
            .map_err(NotStarted::from)
            .and_then(|()| command(start, program, limits, stdio, Leads::Session))
            .map_or_else(|failed| failed, |mut command| command.exec().into());
        not_started.report().write(&reports);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_their_encoding() {
        for report in [
            Report::Started(7),
            Report::NotStarted(Failure::Directory, 2),
            Report::NotStarted(Failure::DirectoryDenied, 13),
            Report::NotStarted(Failure::Program, 13),
            Report::Ended(0),
            Report::Ended(-1),
            Report::Ended(0x7f00),
            Report::Signaled,
        ] {
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
    }
}
