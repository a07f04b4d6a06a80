//! Runs a process in a sandbox with the standard streams of this command.

use actix_sandbox::{Process, ProcessEnd, Signal as SandboxSignal};
use futures::FutureExt;
use nix::sys::signal::Signal;
use std::{pin::pin, process::ExitCode};
use tokio::time::Instant;

use crate::{
    failure::{COMMAND_FAILED, Failure, TIMED_OUT},
    input, output,
    shared::say,
    signals::{SAME_WITHIN, Signals, ended_by},
};

/// Connects the standard streams to a process until it ends, and returns the exit status. Kills the
/// process if the command ends earlier.
pub(crate) async fn run_to_the_end(
    process: &Process,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let ended = run(process, signals).await;
    if ended.is_err() {
        // If this fails, the reason for it is the same, or the process has ended.
        let _ = process.kill().await;
    }
    ended.map(|end| status(&end))
}

/// Connects the standard streams to a process until it ends. SIGINT goes to the process group of
/// the process. A SIGINT that comes more than two seconds after the first, and other signals, end
/// the command.
pub(crate) async fn run(process: &Process, signals: &mut Signals) -> Result<ProcessEnd, Failure> {
    let outputs = output::copy_outputs(process.stdout(), process.stderr());
    let mut outputs = pin!(outputs);
    let mut input = pin!(input::copy_to(process).fuse());
    let mut interrupted = None;
    loop {
        tokio::select! {
            copied = &mut outputs => {
                copied?;
                break;
            }
            () = &mut input => {}
            signal = signals.next() => {
                if signal != Signal::SIGINT {
                    return Err(ended_by(signal));
                }
                let first = *interrupted.get_or_insert_with(Instant::now);
                if first.elapsed() > SAME_WITHIN {
                    return Err(ended_by(signal));
                }
                interrupt(process).await?;
            }
        }
    }
    signals.or(async { Ok(process.wait().await?) }).await
}

/// Sends SIGINT to the process group. Under protocol v1, which has no signals, kills the process.
async fn interrupt(process: &Process) -> Result<(), Failure> {
    use actix_sandbox::ErrorKind::{ProcessEnded, Unsupported};
    let sent = process.signal_group(SandboxSignal::INT).await;
    match sent.map_err(|error| (error.kind(), error)) {
        Ok(()) | Err((ProcessEnded, _)) => Ok(()),
        Err((Unsupported, _)) => match process.kill().await {
            Err(error) if error.kind() != ProcessEnded => Err(error.into()),
            _ => Ok(()),
        },
        Err((_, error)) => Err(error.into()),
    }
}

/// The exit status of the command after a process: that of the process, as a shell reports it.
pub(crate) fn status(end: &ProcessEnd) -> ExitCode {
    match end {
        // A shell, too, sees the lowest eight bits alone.
        ProcessEnd::Exited(code) => ExitCode::from(code.to_le_bytes()[0]),
        ProcessEnd::Signaled(signal) => {
            ExitCode::from(u8::try_from(*signal).map_or(u8::MAX, |signal| signal | 128))
        }
        ProcessEnd::TimedOut => {
            say("the code ran longer than `--timeout` and was killed");
            ExitCode::from(TIMED_OUT)
        }
        ProcessEnd::Unknown => {
            say(
                "the service speaks protocol v1, which doesn't report the exit status; `--lift` \
                 reports it",
            );
            ExitCode::SUCCESS
        }
        end => {
            say(format_args!("the code did not end by itself: {end}"));
            ExitCode::from(COMMAND_FAILED)
        }
    }
}
