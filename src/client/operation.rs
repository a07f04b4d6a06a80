//! Operations that the server provides: starts them and waits for their results. Each is an exec
//! whose program is a [`Builtin`].

use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Command, Process, Sandbox};
use crate::{
    Error, ProcessEnd, SandboxEnd,
    actor::Exec,
    machine::{Failure, OutputPolicy, Stdin},
    protocol::{Builtin, BuiltinError},
};

impl Sandbox {
    /// Runs an operation that has neither input nor output.
    pub(super) async fn perform<T: DeserializeOwned>(&self, builtin: Builtin) -> Result<T, Error> {
        let process = self.start(builtin, Stdin::Null).await?;
        outcome(&process).await
    }

    /// Runs an operation that has neither input, output nor result.
    pub(super) async fn apply(&self, builtin: Builtin) -> Result<(), Error> {
        self.perform::<IgnoredAny>(builtin).await.map(drop)
    }

    /// Starts an operation. Dropping the process stops it.
    pub(super) async fn start(&self, builtin: Builtin, stdin: Stdin) -> Result<Process, Error> {
        let mut exec = Exec::builtin(builtin);
        exec.stdin = stdin;
        // No content may be dropped, whatever the policy of the sandbox.
        exec.output = Some(OutputPolicy::default());
        let command = Command::of(self.clone(), exec);
        command.kill_on_drop(true).spawn().await
    }
}

/// Waits for the end of an operation in a `poll` function.
#[derive(Default)]
pub(super) struct Ending(Option<BoxFuture<'static, Result<ProcessEnd, Error>>>);

impl Ending {
    pub(super) fn poll(
        &mut self,
        process: &Process,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ProcessEnd, Error>> {
        let waiting = self.0.get_or_insert_with(|| {
            let process = process.clone();
            Box::pin(async move { process.wait().await })
        });
        let end = ready!(waiting.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(end)
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ending").field(&self.0.is_some()).finish()
    }
}

/// Waits for the result of an operation.
pub(super) async fn outcome<T: DeserializeOwned>(process: &Process) -> Result<T, Error> {
    result(process.wait().await?)
}

/// Returns the result of an operation that has ended.
pub(super) fn result<T: DeserializeOwned>(end: ProcessEnd) -> Result<T, Error> {
    match end {
        ProcessEnd::Completed(Ok(result)) => serde_json::from_str(&result).map_err(|error| {
            let message = format!("the server's result can't be read: {error}");
            BuiltinError::other(message).into()
        }),
        ProcessEnd::Completed(Err(error)) => Err((*error).into()),
        ProcessEnd::SandboxLost { end } => Err(Error::sandbox_lost(end)),
        // The caller still waits, so the sandbox was killed.
        ProcessEnd::Killed => Err(Error::sandbox_lost(SandboxEnd::Killed)),
        _ => {
            let what = "complete the operation";
            Err(Failure::ProcessEnded { what }.into())
        }
    }
}
