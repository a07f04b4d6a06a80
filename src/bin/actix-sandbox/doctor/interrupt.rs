//! [`Interrupt`]: the signals that end the checks early.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::timeout;

use crate::{failure::Failure, signals::Signals};

/// How long to wait, after a signal, for a server or a sandbox that is being created, to remove it.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Interrupt(Signals);

impl Interrupt {
    pub(super) fn new(signals: Signals) -> Self {
        Self(signals)
    }

    /// Awaits `work`, unless a signal arrives first.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        self.0.or(async { Ok(work.await) }).await
    }

    /// Awaits `work`, which creates something. If a signal arrives first, returns what `work` has
    /// created nevertheless, so that the caller can remove it.
    pub(super) async fn while_creating<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, (Failure, Option<T>)> {
        let mut work = pin!(work);
        match self.during(&mut work).await {
            Ok(created) => Ok(created),
            Err(stop) => Err((stop, timeout(CLEAN_UP_WITHIN, work).await.ok())),
        }
    }
}
