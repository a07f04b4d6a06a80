//! [`Interrupt`]: the signals that end the checks early. [`Stop`]: why the checks ended early.

use std::{future::Future, io, pin::pin, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use crate::shared;

/// How long to wait, after a signal, for a server or a sandbox that is being created, to remove it.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(10);

/// Why the checks ended early.
pub(super) enum Stop {
    /// A signal arrived. Holds its name and its number.
    Signal(&'static str, u8),
    /// The reader of the report has closed the pipe.
    OutputClosed,
    /// The checks can't run, or the report can't be written.
    Failed(String),
}

impl Stop {
    /// The exit status of the command, as a shell reports it for a program that a signal ended.
    pub(super) fn exit(self) -> Result<ExitCode, String> {
        const SIGPIPE: u8 = 13;
        match self {
            Self::Signal(name, number) => {
                shared::say(format_args!(
                    "{name} ended the checks; their servers and sandboxes are removed"
                ));
                Ok(ExitCode::from(128 + number))
            }
            Self::OutputClosed => Ok(ExitCode::from(128 + SIGPIPE)),
            Self::Failed(reason) => Err(reason),
        }
    }
}

/// SIGINT and SIGTERM.
pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, Stop> {
        let failed = |error: io::Error| Stop::Failed(format!("cannot start: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    async fn arrived(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Signal("SIGINT", 2),
            _ = self.terminate.recv() => Stop::Signal("SIGTERM", 15),
        }
    }

    /// Awaits `work`, unless a signal arrives first.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            stop = self.arrived() => Err(stop),
            done = work => Ok(done),
        }
    }

    /// Awaits `work`, which creates something. If a signal arrives first, returns what `work` has
    /// created nevertheless, so that the caller can remove it.
    pub(super) async fn while_creating<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, (Stop, Option<T>)> {
        let mut work = pin!(work);
        match self.during(&mut work).await {
            Ok(created) => Ok(created),
            Err(stop) => Err((stop, timeout(CLEAN_UP_WITHIN, work).await.ok())),
        }
    }
}
