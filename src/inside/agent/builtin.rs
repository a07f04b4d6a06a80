//! Runs a builtin in a process of its own: a fork of the agent that executes no other program.
//!
//! A kill doesn't send this process a signal at first, but closes a pipe that the process watches.
//! So the process can remove an unfinished file before it ends. If it doesn't end in time, it gets
//! SIGKILL: code runs as the same user and may have stopped it.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsRawFd,
    path::Path,
};

use nix::unistd::Pid;

use super::main_process::{Identity, NotStarted, Report, Stdio};
use crate::{
    inside::{
        builtin::{Streams, serve},
        messages::Limits,
        spawn,
    },
    protocol::Builtin,
};

/// The umask of builtins.
const UMASK: u32 = 0o022;

/// Forks a child that runs a builtin, and returns its PID. The child ends soon after the other end
/// of `stop` is closed.
pub(super) fn start(
    builtin: &Builtin,
    home: &str,
    limits: Limits,
    identity: Option<Identity<'_>>,
    stdio: Stdio,
    stop: PipeReader,
    reports: PipeWriter,
) -> io::Result<Pid> {
    let mut keep = stdio.fds_with(&reports).to_vec();
    keep.push(stop.as_raw_fd());
    spawn::fork(&keep, move |closed| {
        let streams = closed
            .and_then(|()| Streams::new(stdio.stdin.into(), stdio.stdout.into(), stop.into()))
            .and_then(|streams| prepare(limits, identity).map(|()| streams));
        let mut streams = match streams {
            Ok(streams) => streams,
            Err(error) => return NotStarted::from(error).report().write(&reports),
        };
        Report::Started(std::process::id().cast_signed()).write(&reports);
        // If this fails, the server notices that there is no outcome.
        let _ = serve(builtin, Path::new(home), &mut streams, &stdio.stderr);
        Report::Ended(0).write(&reports);
    })
}

/// Gives this process the user and the limits of code.
fn prepare(limits: Limits, identity: Option<Identity<'_>>) -> io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    // The agent blocks SIGXFSZ, so a write beyond the limit on file sizes fails with an error.
    spawn::lower_limits(limits.of_processes())?;
    identity.map_or(Ok(()), Identity::assume_without_group)
}
