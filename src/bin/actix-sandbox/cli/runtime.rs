//! Runs the future of a command.

use std::{future::Future, process::ExitCode};

use crate::cli::{
    failure::{COMMAND_FAILED, Failure},
    logging,
    signals::Signals,
};

/// Like [`run`], for a command whose exit status is that of a program. If the command itself fails,
/// its status must differ.
pub(crate) fn run_program<F>(command: impl FnOnce(Signals) -> F) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<ExitCode, Failure>>,
{
    run(command).map_err(|failure| failure.with_status(COMMAND_FAILED))
}

/// Runs a command that uses the client, until it is done. The command gets the signals that end it.
pub(crate) fn run<F>(command: impl FnOnce(Signals) -> F) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<ExitCode, Failure>>,
{
    logging::init_if_wanted()?;
    let cannot = |error| Failure::from(format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot)?;
    let done = runtime.block_on(async {
        let signals = Signals::new().map_err(cannot)?;
        command(signals).await
    });
    // Not dropped: the drop would wait for a write to a pipe whose reader is paused.
    runtime.shutdown_background();
    done
}
