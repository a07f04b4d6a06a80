//! Runs a process in a sandbox with the standard streams of this command.

use std::{cell::Cell, pin::pin, process::ExitCode, time::Duration};

use actix_sandbox::{
    BuiltinErrorKind, Command, ErrorKind, OutputPolicy, Overflow, Process, ProcessEnd,
    ProtocolVersion, Sandbox, Signal as SandboxSignal,
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::cli::{
    failure::{COMMAND_FAILED, Failure, TIMED_OUT},
    input, notices, output,
    shared::say,
    signals::{SAME_WITHIN, Signals, ended_by, status_of},
};

/// The output policy of processes whose output this command copies. As with a pipe, the process
/// pauses while the output isn't read.
pub(crate) fn patient() -> OutputPolicy {
    OutputPolicy {
        overflow: Overflow::Pause { max: Duration::MAX },
        ..OutputPolicy::default()
    }
}

/// Starts a process. Under protocol v1, uses the default policy instead of [`patient`].
pub(crate) async fn spawn(command: Command, sandbox: &Sandbox) -> Result<Process, Failure> {
    let command = match sandbox.protocol_version() {
        // A pause stops all reads from the connection. A service closes a connection that isn't
        // read for long, and then the output is lost without an error.
        ProtocolVersion::V1 => command.output_policy(OutputPolicy::default()),
        _ => command,
    };
    Ok(command.spawn().await?)
}

/// Connects the standard streams to a process until it ends, and returns the exit status. Kills the
/// process if the command ends earlier.
pub(crate) async fn run_to_the_end(
    process: &Process,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let ended = run(process, signals).await;
    if ended.is_err() {
        kill(process, signals).await;
    }
    ended.map(|end| status(&end))
}

/// Awaits the start of a process. If a signal arrives first, kills the process.
pub(crate) async fn started(
    start: impl Future<Output = Result<Process, Failure>>,
    signals: &mut Signals,
) -> Result<Process, Failure> {
    match signals.while_creating(start).await {
        Ok(started) => started,
        Err((stopped, started)) => {
            if let Some(Ok(process)) = started {
                kill(&process, signals).await;
            }
            Err(stopped)
        }
    }
}

/// Kills a process before the command fails for another reason.
pub(crate) async fn kill(process: &Process, signals: &mut Signals) {
    let sandbox = process.sandbox();
    match signals.clean_up(sandbox, process.kill()).await {
        Some(Ok(())) => {}
        Some(Err(error)) if error.kind() == ErrorKind::ProcessEnded => {}
        // The failure of the command says more.
        Some(Err(error)) if error.sandbox_end().is_some() => {}
        Some(Err(error)) => say(format_args!("the process may still run: {error}")),
        None => say("the process may still run, because the service did not confirm the kill"),
    }
}

/// Connects the standard streams to a process until it ends. SIGINT goes to the process group of
/// the process. A SIGINT that comes more than two seconds after the first, and other signals, end
/// the command.
pub(crate) async fn run(process: &Process, signals: &mut Signals) -> Result<ProcessEnd, Failure> {
    let ended = async {
        output::copy_outputs(process.stdout(), process.stderr()).await?;
        Ok(process.wait().await?)
    };
    let mut ended = pin!(ended);
    let mut input = pin!(input::copy_to(process).fuse());
    let is_lost = Cell::new(false);
    let mut notices = pin!(notices::report(process.sandbox(), &is_lost, "\n").fuse());
    // A signal waits for a lost connection, so it must not hold up what follows.
    let mut interrupts = FuturesUnordered::new();
    let mut first = None;
    loop {
        tokio::select! {
            ended = &mut ended => return match ended {
                // Protocol v1 has no signals, so Ctrl-C has killed it.
                Ok(ProcessEnd::Killed) if first.is_some() => Err(ended_by(Signal::SIGINT)),
                ended => ended,
            },
            () = &mut input => {}
            () = &mut notices => {}
            Some(()) = interrupts.next() => {}
            signal = signals.next() => {
                let first = *first.get_or_insert_with(Instant::now);
                let is_late = first.elapsed() > SAME_WITHIN || is_lost.get();
                if signal != Signal::SIGINT || is_late {
                    return Err(ended_by(signal));
                }
                interrupts.push(interrupt(process));
            }
        }
    }
}

/// Sends SIGINT to the process group. Under protocol v1, which has no signals, kills the process.
async fn interrupt(process: &Process) {
    let mut sent = process.signal_group(SandboxSignal::INT).await;
    if matches!(&sent, Err(error) if error.kind() == ErrorKind::Unsupported) {
        sent = process.kill().await;
    }
    match sent.map_err(|error| (error.kind(), error)) {
        // The process has ended in the meantime. Its output may still arrive.
        Ok(())
        | Err((ErrorKind::ProcessEnded | ErrorKind::Builtin(BuiltinErrorKind::NotFound), _)) => {}
        Err((_, error)) => say(format_args!("cannot interrupt the process: {error}")),
    }
}

/// The exit status of the command after a process: that of the process, as a shell reports it.
pub(crate) fn status(end: &ProcessEnd) -> ExitCode {
    match end {
        // A shell, too, sees the lowest eight bits alone.
        ProcessEnd::Exited(code) => ExitCode::from(code.to_le_bytes()[0]),
        ProcessEnd::Signaled(signal) => ExitCode::from(status_of(*signal)),
        ProcessEnd::TimedOut => {
            say(
                "the program exceeded its time limit (`--timeout`, or the limit of the service) and \
                 was killed",
            );
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
            say(format_args!("the program has no exit status: {end}"));
            ExitCode::from(COMMAND_FAILED)
        }
    }
}
