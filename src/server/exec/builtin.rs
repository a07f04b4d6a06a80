//! [`run`]: the task of a builtin exec. [`Turns`] limits how many builtins run concurrently.

use std::{io, sync::Arc};

use tokio::{
    io::AsyncReadExt,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch},
};

use super::{
    ending::{asked, kill},
    output_pump::{Deadline, pump},
    shared_exec::{Ending, Outlet},
};
use crate::{
    inside::{
        builtin::{MAX_REPORT_BYTES, Report},
        process::{Pipe, Started},
    },
    machine::ServedExec,
    protocol::{Builtin, BuiltinError, Outcome, StdStream},
    server::backend::{api::BackendSandbox, job::Job},
};

/// How many builtins that move the content of files run concurrently in a sandbox.
const TRANSFERS: usize = 16;
/// How many other builtins run concurrently in a sandbox.
const QUICK: usize = 16;
/// How many watches run concurrently in a sandbox.
const WATCHES: usize = 64;

/// Limits how many builtins of one sandbox run concurrently. A builtin over a limit waits for its
/// turn.
pub(crate) struct Turns {
    transfers: Arc<Semaphore>,
    quick: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let turns = |number| Arc::new(Semaphore::new(number));
        Self {
            transfers: turns(TRANSFERS),
            quick: turns(QUICK),
            watches: turns(WATCHES),
        }
    }
}

impl Turns {
    /// Waits for the turn of a builtin.
    pub(super) fn of(
        &self,
        builtin: &Builtin,
    ) -> impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + use<> {
        let turns = match builtin {
            Builtin::Read { .. }
            | Builtin::Write { .. }
            | Builtin::Copy { .. }
            | Builtin::Pack { .. }
            | Builtin::Unpack { .. } => &self.transfers,
            Builtin::Watch { .. } => &self.watches,
            _ => &self.quick,
        };
        turns.clone().acquire_owned()
    }
}

/// Waits for the turn of a builtin and runs it. Reports every failure as the outcome. Sets
/// `deadline` when the builtin has ended.
pub(super) async fn run(
    sandbox: &dyn BackendSandbox,
    job: Job,
    turn: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send,
    mut killed: watch::Receiver<bool>,
    deadline: &Arc<Deadline>,
    outlet: Outlet,
) {
    // Answer now, so that a builtin that waits for its turn doesn't look like a lost request.
    outlet.exec.change(ServedExec::handle_started);
    let turn = tokio::select! {
        biased;
        () = asked(&mut killed) => None,
        turn = turn => turn.ok(),
    };
    let ending = match turn {
        None => Ending::Killed(Ok(Default::default())),
        Some(_turn) => match sandbox.start(job).await {
            Ok(started) => perform(started, &mut killed, deadline, &outlet).await,
            Err(reason) => Ending::Completed(Outcome::Error(BuiltinError::other(reason))),
        },
    };
    deadline.set(std::time::Duration::ZERO);
    outlet.ended(ending, false).await;
}

/// Moves the streams of a builtin until it has ended.
async fn perform(
    started: Started,
    killed: &mut watch::Receiver<bool>,
    deadline: &Arc<Deadline>,
    outlet: &Outlet,
) -> Ending {
    let Started {
        stdin,
        stdout,
        stderr,
        mut process,
    } = started;
    let keeper = outlet.keeper(StdStream::Stdout);
    let output = tokio::spawn(pump(stdout, deadline.clone(), keeper));
    // The end of stdin commits a write, so stdin must stay open until a kill is confirmed.
    let mut stdin = Some(stdin);
    let mut report = std::pin::pin!(read_report(stderr));
    let outcome = tokio::select! {
        biased;
        () = asked(killed) => None,
        // Polled before the report, so that stdin that the builtin has taken is acknowledged first.
        () = async {
            if let Some(pipe) = &mut stdin {
                outlet.feed(pipe).await;
            }
            stdin = None;
            std::future::pending().await
        } => None,
        outcome = &mut report => Some(outcome),
    };
    let ending = match outcome {
        Some(Ok(outcome)) => Ending::Completed(outcome),
        Some(Err(reason)) => match process.wait().await {
            // The sandbox was lost.
            Err(error) => Ending::Lost(error.to_string()),
            Ok(_) => {
                let reason = format!("the operation ended without an outcome: {reason}");
                Ending::Completed(Outcome::Error(BuiltinError::other(reason)))
            }
        },
        None => {
            outlet.exec.will_die(None);
            match kill(&mut *process).await {
                Err(reason) => Ending::Killed(Err(reason)),
                // The builtin may have taken effect before it noticed the kill.
                Ok(exit) => match report.await {
                    Ok(outcome @ Outcome::Result(_)) => Ending::Completed(outcome),
                    _ => Ending::Killed(Ok(exit)),
                },
            }
        }
    };
    drop(stdin);
    outlet.exec.change(ServedExec::handle_stdin_closed);
    outlet.keep_rest();
    let _ = output.await;
    ending
}

/// Reads the report of a builtin, which is all that its stderr contains.
async fn read_report(stderr: Pipe) -> io::Result<Outcome> {
    let mut json = Vec::new();
    let most = MAX_REPORT_BYTES as u64 + 1;
    stderr.take(most).read_to_end(&mut json).await?;
    Ok(match serde_json::from_slice(&json)? {
        Report::Result(result) => Outcome::Result(result.to_string()),
        Report::Error(error) => Outcome::Error(error),
    })
}
