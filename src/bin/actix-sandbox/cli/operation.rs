//! Operations in a sandbox that take a while: transfers and watches.

use std::{future::Future, time::Duration};

use actix_sandbox::Sandbox;
use tokio::time::timeout;

use crate::cli::{failure::Failure, signals::Signals};

/// How long to wait for the server to stop an operation.
const STOPPED_WITHIN: Duration = Duration::from_secs(2);

/// Runs an operation until it is done or a signal arrives.
///
/// If it doesn't complete, waits until the server has stopped it. Otherwise the command could exit
/// before the client has told the server, and the operation would take one of the server's places
/// for operations until the sandbox ends.
pub(crate) async fn run<T>(
    sandbox: &Sandbox,
    signals: &mut Signals,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = signals.or(work).await;
    if done.is_err() {
        // The server handles requests in their order. This fails if the sandbox is over.
        let _ = timeout(STOPPED_WITHIN, sandbox.processes()).await;
    }
    done
}
