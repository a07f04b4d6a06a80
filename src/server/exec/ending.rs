//! How a task waits for a request to kill its exec, and kills it.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    inside::process::{Exit, Process},
    server::escaped::Escaped,
};

/// How long output is read after the exec was killed, or after the output was ended early.
pub(super) const SHORT_GRACE: Duration = Duration::from_millis(250);

/// Resolves when a kill is requested or the handle of the exec is dropped.
pub(super) async fn asked(killed: &mut watch::Receiver<bool>) {
    let _ = killed.wait_for(|&killed| killed).await;
}

async fn wait(process: &mut dyn Process) -> Exit {
    process.wait().await.unwrap_or_else(|error| {
        tracing::warn!(error = %Escaped(error), "a process could not be waited for");
        Exit::default()
    })
}

pub(super) async fn kill(process: &mut dyn Process) -> Result<Exit, String> {
    if let Err(reason) = process.kill().await {
        tracing::warn!(reason = %Escaped(&reason), "an exec could not be killed");
        return Err(reason);
    }
    Ok(wait(process).await)
}
