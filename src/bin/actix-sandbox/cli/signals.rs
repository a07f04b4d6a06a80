//! The signals that end a command.

use std::{
    fs,
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use actix_sandbox::{Sandbox, SandboxState};
use futures::FutureExt;
use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    time::{sleep, timeout},
};

use crate::cli::failure::Failure;

/// A second signal within this time after the first is ignored: `timeout` and cargo send two at
/// once.
pub(crate) const SAME_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait, after a signal, for something that is being created, to remove it.
const CREATED_WITHIN: Duration = Duration::from_secs(5);

/// How long a command waits for a lost connection, to clean up.
const LOST_WITHIN: Duration = Duration::from_secs(2);

/// How long a command may take to clean up.
pub(crate) const CLEAN_UP_WITHIN: Duration = Duration::from_secs(15);

/// SIGINT, SIGTERM and SIGHUP. Those that were ignored when the command started stay ignored, as
/// `nohup` and shells without job control want it.
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let all = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let listen = |signal| {
            let listener = unix::signal(SignalKind::from_raw(signal as i32))?;
            Ok((signal, listener))
        };
        let heeded = all.into_iter().filter(|it| !ignored.contains(it));
        Ok(Self(heeded.map(listen).collect::<io::Result<_>>()?))
    }

    /// Waits for a signal.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, listener) in &mut self.0 {
                if listener.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for another signal after one. Ignores those that come within [`SAME_WITHIN`].
    pub(crate) async fn another(&mut self) -> Signal {
        sleep(SAME_WITHIN).await;
        while self.next().now_or_never().is_some() {}
        self.next().await
    }

    /// Awaits `work`, unless a signal arrives first.
    pub(crate) async fn or_interrupted<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.or(async { Ok(work.await) }).await
    }

    /// Awaits `work`, which creates something. If a signal arrives first, waits up to
    /// [`CREATED_WITHIN`] or until another signal, and returns what `work` has created nevertheless,
    /// so that the caller can remove it.
    pub(crate) async fn while_creating<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, (Failure, Option<T>)> {
        let mut work = pin!(work);
        let signal = tokio::select! {
            created = &mut work => return Ok(created),
            signal = self.next() => signal,
        };
        let created = self.within(CREATED_WITHIN, work).await;
        Err((ended_by(signal), created))
    }

    /// Runs `work`, which cleans up in a sandbox, for a limited time or until another signal.
    /// Returns `None` if `work` was not done.
    pub(crate) async fn clean_up<T>(
        &mut self,
        sandbox: &Sandbox,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let limit = match sandbox.state() {
            SandboxState::Reconnecting => LOST_WITHIN,
            _ => CLEAN_UP_WITHIN,
        };
        self.within(limit, work).await
    }

    /// Runs `work` at the end of a command, until `limit`, or until another signal arrives after
    /// [`SAME_WITHIN`].
    pub(crate) async fn within<T>(
        &mut self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            done = timeout(limit, work) => done.ok(),
            _ = self.another() => None,
        }
    }

    /// Runs `work` until a signal arrives, and then drops it.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            signal = self.next() => Err(ended_by(signal)),
        }
    }
}

/// The failure of a command that a signal ended.
pub(crate) fn ended_by(signal: Signal) -> Failure {
    let status = status_of(signal as i32);
    match signal {
        Signal::SIGINT => Failure::new(status, "interrupted"),
        other => Failure::new(status, format!("ended by {other}")),
    }
}

/// The exit status that shells report for a program that this signal ended.
pub(crate) fn status_of(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |number| number | 128)
}

/// The signals that this process ignores. Empty where the system has no `/proc`.
fn ignored() -> Vec<Signal> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|it| it.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
    let is_in = |signal: &Signal| mask.unwrap_or(0) & (1 << (*signal as i32 - 1)) != 0;
    Signal::iterator().filter(is_in).collect()
}
