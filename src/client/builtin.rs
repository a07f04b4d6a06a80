//! Runs builtins for the handles: starts them, and reads their results and their output.

use std::{
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt, future::BoxFuture};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Command, LineStream, Process, Sandbox};
use crate::{
    Error, ProcessEnd, SandboxEnd,
    actor::Exec,
    machine::{Failure, OutputPolicy, Stdin},
    protocol::{Builtin, BuiltinError, excerpt},
};

/// Starts an operation. Dropping the process stops it.
pub(super) async fn start(
    sandbox: &Sandbox,
    builtin: Builtin,
    stdin: Stdin,
) -> Result<Process, Error> {
    let mut exec = Exec::builtin(builtin);
    exec.stdin = stdin;
    // No content may be dropped, whatever the policy of the sandbox.
    exec.output = Some(OutputPolicy::default());
    let command = Command::of(sandbox.clone(), exec);
    command.kill_on_drop(true).spawn().await
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

/// The output of an operation: one JSON value on each line. If the operation fails, the last item
/// is the error.
#[derive(Debug)]
pub(super) struct JsonLines<T> {
    process: Process,
    lines: LineStream,
    ending: Ending,
    has_ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T> JsonLines<T> {
    pub(super) fn new(process: Process) -> Self {
        Self {
            lines: process.stdout().lines(),
            process,
            ending: Ending::default(),
            has_ended: false,
            value: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Stream for JsonLines<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let item = match ready!(self.lines.poll_next_unpin(cx)) {
            Some(Ok(line)) => {
                let value = serde_json::from_str(&line).map_err(|error| {
                    let line = excerpt(line.as_bytes());
                    let message = format!("the server's output can't be read ({error}): {line}");
                    BuiltinError::other(message).into()
                });
                self.has_ended = value.is_err();
                return Poll::Ready(Some(value));
            }
            Some(Err(error)) => Some(Err(error)),
            // The operation may have failed after the last line.
            None => {
                let Self {
                    process, ending, ..
                } = &mut *self;
                let end = ready!(ending.poll(process, cx));
                end.and_then(result::<IgnoredAny>).err().map(Err)
            }
        };
        self.has_ended = true;
        Poll::Ready(item)
    }
}
