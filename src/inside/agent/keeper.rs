//! The keeper of a terminal in gVisor: a process between the agent and the main process. It leads
//! the session of the terminal, and sends the signals that the terminals of gVisor, unlike those of
//! Linux, don't send.
//!
//! In gVisor, a terminal doesn't turn Ctrl-C, Ctrl-\ and Ctrl-Z into signals, a new size causes no
//! SIGWINCH, and only a process of the session can find out which processes are in the foreground.
//! So the agent passes the signals for them to the keeper: see [`Keeper`]. The keeper runs as the
//! user of code. If code kills it, the agent kills the exec.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::AsRawFd,
};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, setsid},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{WaitOptions, ioctl_tiocsctty, waitpid},
    stdio::{stdin, stdout},
    termios::{LocalModes, QueueSelector, SpecialCodeIndex, tcflush, tcgetattr, tcgetpgrp},
};

use super::main_process::{self, Identity, NotStarted, Report, Stdio};
use crate::inside::{
    messages::{Limits, Start},
    spawn::{self, Leads},
    terminal::Terminal,
};

/// Makes `poll` return at once.
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The agent's end of the pipe to a keeper.
pub(super) struct Keeper(PipeWriter);

impl Keeper {
    /// Sends a signal to the processes in the foreground. `typed` is the control character that the
    /// user typed, or 0. Returns whether the keeper accepted the request. It doesn't if it has
    /// ended, or has been stopped until its pipe was full. After a typed signal, the keeper writes
    /// [`Report::Signaled`].
    pub(super) fn signal(&self, signal: Signal, typed: u8) -> bool {
        (&self.0).write(&[signal as u8, typed]).is_ok()
    }
}

/// Finds the first byte of input for which the terminal sends a signal.
pub(super) fn find_signal(terminal: &Terminal, input: &[u8]) -> Option<(usize, Signal)> {
    let termios = tcgetattr(terminal).ok()?;
    if !termios.local_modes.contains(LocalModes::ISIG) {
        return None;
    }
    let signals = [
        (SpecialCodeIndex::VINTR, Signal::SIGINT),
        (SpecialCodeIndex::VQUIT, Signal::SIGQUIT),
        (SpecialCodeIndex::VSUSP, Signal::SIGTSTP),
    ];
    input.iter().enumerate().find_map(|(at, &byte)| {
        let is_typed = |code| byte != 0 && termios.special_codes[code] == byte;
        let signal = signals.into_iter().find(|(code, _)| is_typed(*code));
        signal.map(|(_, signal)| (at, signal))
    })
}

/// Forks a keeper, which starts the program and reports to `reports`. Returns the PID of the
/// keeper, and the pipe to it.
pub(super) fn start(
    start: &Start,
    program: (&str, &[String]),
    limits: Limits,
    identity: Identity<'_>,
    stdio: Stdio,
    reports: PipeWriter,
) -> io::Result<(Pid, Keeper)> {
    let (commands, keeper) = io::pipe()?;
    rustix::io::ioctl_fionbio(&keeper, true)?;
    let mut keep = stdio.fds_with(&reports).to_vec();
    keep.push(commands.as_raw_fd());
    let pid = spawn::fork(&keep, move |closed| {
        let started = closed
            .and_then(|()| identity.assume())
            .map_err(NotStarted::from)
            .and_then(|()| start_main(start, program, limits, stdio));
        match started {
            Ok((main, children)) => {
                Report::Started(main.as_raw()).write(&reports);
                serve(main, &children, commands, &reports);
            }
            Err(failed) => failed.report().write(&reports),
        }
    })?;
    Ok((pid, Keeper(keeper)))
}

/// Takes the terminal and starts the main process in its foreground. Runs in the keeper, like the
/// functions below.
fn start_main(
    start: &Start,
    program: (&str, &[String]),
    limits: Limits,
    stdio: Stdio,
) -> Result<(Pid, SignalFd), NotStarted> {
    setsid().map_err(io::Error::from)?;
    rustix::stdio::dup2_stdin(&stdio.stdin)?;
    rustix::stdio::dup2_stdout(&stdio.stdout)?;
    ioctl_tiocsctty(stdin())?;
    // The keeper must not get the signals of the terminal, which are for the foreground.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).map_err(io::Error::from)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
    let children = children.map_err(io::Error::from)?;
    let mut command = main_process::command(start, program, limits, stdio, Leads::Foreground)?;
    let main = command.spawn()?.id().cast_signed();
    Ok((Pid::from_raw(main), children))
}

/// Passes signals to the foreground until the main process has ended.
fn serve(main: Pid, children: &SignalFd, mut commands: PipeReader, reports: &PipeWriter) {
    loop {
        let mut ready = [
            PollFd::new(children, PollFlags::IN),
            PollFd::new(&commands, PollFlags::IN),
        ];
        let _ = poll(&mut ready, None);
        let has_command = !ready[1].revents().is_empty();
        let _ = children.read_signal();
        let pid = rustix::process::Pid::from_raw(main.as_raw());
        match waitpid(pid, WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => {}
            Ok(Some((_, status))) => return Report::Ended(status.as_raw()).write(reports),
            Err(_) => return,
        }
        if has_command {
            let mut command = [0; 2];
            // The pipe closes when the agent ends, and the sandbox ends with the agent.
            if commands.read_exact(&mut command).is_err() {
                return;
            }
            signal(command);
            if command[1] != 0 {
                Report::Signaled.write(reports);
            }
        }
    }
}

/// Sends a signal to the foreground. If the signal was typed, first discards unread input (where
/// the kernel can do that), and afterwards echoes the control character, like a terminal of Linux.
fn signal([signal, typed]: [u8; 2]) {
    let modes = tcgetattr(stdin()).map(|termios| termios.local_modes);
    let modes = modes.unwrap_or(LocalModes::NOFLSH);
    if typed != 0 && !modes.contains(LocalModes::NOFLSH) {
        let _ = tcflush(stdin(), QueueSelector::IFlush);
    }
    if let Ok(foreground) = tcgetpgrp(stdin()) {
        let _ = spawn::send_signal(-foreground.as_raw_nonzero().get(), signal.into());
    }
    // The terminal may be full.
    let out = stdout();
    let mut has_room = [PollFd::new(&out, PollFlags::OUT)];
    if typed != 0 && modes.contains(LocalModes::ECHO) && poll(&mut has_room, Some(&NOW)) == Ok(1) {
        let _ = rustix::io::write(out, &[b'^', typed ^ 0x40]);
    }
}
