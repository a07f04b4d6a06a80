//! PID 1 of a container: reaps orphans, and runs the command as its child.
//!
//! A process whose parent exits becomes a child of PID 1, and stays a zombie until PID 1 waits for
//! it. The command itself can't wait for every child, because it would take the exit statuses of
//! its own processes away from tokio. So PID 1 starts the same program again, and only waits and
//! forwards signals, like `tini` or `docker run --init`.

use std::process::{Command, ExitCode};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    io::Errno,
    process::{WaitOptions, wait},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::spawn_blocking,
};

/// The signals that PID 1 forwards to the command.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Maximum number of signals that wait to be forwarded.
const QUEUE: usize = 16;

/// Whether this process is PID 1.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1
}

/// Runs this program again, as a child, and reaps every orphan until that child ends. Returns the
/// child's exit code, or 128 plus the number of the signal that ended it.
///
/// # Errors
///
/// Fails if the program can't be started.
pub(crate) fn run() -> Result<ExitCode, String> {
    let failed = |error: std::io::Error| format!("cannot start as PID 1: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        // Registered before the child starts: PID 1 ignores signals without a handler.
        let mut signals = forwarded().map_err(failed)?;
        // With SIGCHLD ignored, the kernel would reap the children and drop their statuses.
        let _children = signal(SignalKind::child()).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        // `waitpid` below waits for this child as well; `Child::wait` is never called.
        let child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .spawn()
            .map_err(failed)?;
        let child = Pid::from_raw(child.id().cast_signed());
        let mut ended = spawn_blocking(move || reap_until_ended(child));
        loop {
            tokio::select! {
                code = &mut ended => return code.map_err(|error| error.to_string())?,
                Some(signal) = signals.recv() => {
                    // Fails only if the child has just ended, which `ended` reports.
                    let _ = kill(child, signal);
                }
            }
        }
    })
}

/// The stream of the signals to forward.
fn forwarded() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    for forwarded in FORWARDED {
        let mut signals = signal(SignalKind::from_raw(forwarded as i32))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(forwarded).await.is_ok() {}
        });
    }
    Ok(receiver)
}

/// Waits for every child of this process until `child` has ended.
///
/// Reads raw statuses: nix fails on a child that ended by a real-time signal, after it has reaped it.
fn reap_until_ended(child: Pid) -> Result<ExitCode, String> {
    loop {
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::INTR) => continue,
            Err(error) => return Err(format!("PID 1 cannot wait for its children: {error}")),
        };
        if pid.as_raw_pid() != child.as_raw() {
            continue;
        }
        let signaled = || status.terminating_signal().map(|signal| 128 + signal);
        if let Some(code) = status.exit_status().or_else(signaled) {
            // An exit status has eight bits, and the highest signal is 64.
            return Ok(ExitCode::from(code as u8));
        }
    }
}
