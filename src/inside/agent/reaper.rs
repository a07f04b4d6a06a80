//! The reaper of an exec: a process between the agent and the main process of the exec. It starts
//! the main process and adopts all orphaned descendants of that process. So every process of the
//! exec is a descendant of the reaper as long as the reaper runs, even if that process has changed
//! its session, its process group, its environment and its parent.
//!
//! Code may stop a reaper, so the agent never blocks on one. A reaper ends by itself when it has no
//! descendants left. gVisor has no child subreapers, so there an exec has no reaper.

use std::io::{self, PipeWriter};

use nix::{
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::Pid,
};
use rustix::{
    io::Errno,
    process::{WaitOptions, set_child_subreaper, wait},
};

use super::main_process::{self, NotStarted, Report, Stdio};
use crate::inside::{
    messages::{Limits, Start},
    spawn::{self, Leads},
};

/// Starts a reaper, which starts the program and reports to `reports`. Returns the PID of the
/// reaper.
pub(super) fn start(
    start: &Start,
    program: (&str, &[String]),
    limits: Limits,
    stdio: Stdio,
    reports: PipeWriter,
) -> io::Result<Pid> {
    spawn::fork(&stdio.fds_with(&reports), move |closed| {
        let started = closed.map_err(NotStarted::from);
        match started.and_then(|()| start_main(start, program, limits, stdio)) {
            Ok(main) => {
                Report::Started(main.cast_signed()).write(&reports);
                reap(main, &reports);
            }
            Err(failed) => failed.report().write(&reports),
        }
    })
}

/// Starts the main process. Runs in the reaper.
fn start_main(
    start: &Start,
    program: (&str, &[String]),
    limits: Limits,
    stdio: Stdio,
) -> Result<u32, NotStarted> {
    let leads = match start.terminal {
        None => Leads::Session,
        Some(_) => Leads::SessionWithTerminal,
    };
    // Any PID as the argument turns this on.
    set_child_subreaper(Some(rustix::process::Pid::INIT))?;
    // The reaper blocks all signals. SIGKILL and SIGSTOP can't be blocked, so code can still send
    // these two. The main process starts with an empty mask.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let mut command = main_process::command(start, program, limits, stdio, leads)?;
    Ok(command.spawn()?.id())
    // The drop of `command` closes this process's ends of the pipes.
}

/// Reaps the main process and its orphaned descendants until none is left. Runs in the reaper.
fn reap(main: u32, reports: &PipeWriter) {
    let main = main.cast_signed();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == main => {
                Report::Ended(status.as_raw()).write(reports);
            }
            Err(Errno::CHILD) => return,
            _ => {}
        }
    }
}
