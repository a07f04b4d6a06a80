//! [`WarmPool`]: sandboxes that are started before a client asks for one, so that a create takes
//! about as long as an exec.
//!
//! One task fills the pool. It starts one sandbox at a time until the pool is full, and continues
//! when a create has taken one. After a failure, it waits before it tries again. A create never
//! waits for this task: if the pool is empty, the caller starts a sandbox itself.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    api::{Backend, BackendSandbox, WarmSandbox},
    job::{Job, Language},
};
use crate::{
    protocol::SandboxId,
    server::{choice, error::ServerError, escaped::Escaped},
};

/// The most sandboxes to keep warm.
const MAX_SIZE: usize = 1_000;

/// How long to wait before a full pool from which a sandbox was taken is filled again. The client
/// usually runs code at once, and the start of a sandbox would slow that code down.
const REFILL_AFTER: Duration = Duration::from_millis(100);

/// The pause after the first failure. Each further failure doubles it, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Time limit of each run in [`rehearse`].
const REHEARSED_WITHIN: Duration = Duration::from_secs(10);

/// Fails if a pool of this size is too large, or if the chosen backend has no pool.
pub(crate) fn check(size: usize, chosen: &choice::Backend) -> Result<(), ServerError> {
    match chosen {
        _ if size > MAX_SIZE => Err(ServerError::WarmTooMany {
            given: size,
            most: MAX_SIZE,
        }),
        choice::Backend::Host if size > 0 => Err(ServerError::WarmOnHost),
        _ => Ok(()),
    }
}

/// Started sandboxes that have no id yet.
pub(crate) struct WarmPool {
    shared: Arc<Shared>,
    /// The task that fills the pool.
    filler: Mutex<Option<JoinHandle<()>>>,
}

/// The counts of a pool, as `/readyz` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WarmCounts {
    /// The sandboxes that are ready.
    pub(crate) ready: usize,
    pub(crate) size: usize,
    /// The creates that took a sandbox from the pool.
    pub(crate) hits: u64,
    /// The creates that found the pool empty.
    pub(crate) misses: u64,
}

impl WarmPool {
    /// Starts to fill a pool of this size. `None` if the size is 0 or the backend has no warm
    /// sandboxes. Must be called on a tokio runtime.
    pub(crate) fn start(backend: Arc<dyn Backend>, size: usize) -> Option<Self> {
        if size == 0 {
            return None;
        }
        if backend.create_warm("").is_none() {
            tracing::warn!(
                backend = backend.name(),
                "the option `warm` has no effect: this backend has no warm pool"
            );
            return None;
        }
        let shared = Arc::new(Shared {
            backend,
            size,
            state: Mutex::default(),
            has_work: Notify::new(),
            closing: watch::Sender::new(false),
        });
        let filler = tokio::spawn(fill(shared.clone()));
        Some(Self {
            shared,
            filler: Mutex::new(Some(filler)),
        })
    }

    /// Takes a sandbox, which gets this id. `None` if none is ready.
    pub(crate) fn take(&self, id: &SandboxId) -> Option<Arc<dyn BackendSandbox>> {
        let mut state = self.shared.lock();
        state.set_dead_aside();
        let taken = state.ready.pop_front();
        match taken {
            Some(_) => state.hits += 1,
            None => state.misses += 1,
        }
        drop(state);
        self.shared.has_work.notify_one();
        let (is_hit, counts) = (taken.is_some(), self.counts());
        tracing::debug!(sandbox = %id, is_hit, ?counts, "looked for a warm sandbox");
        taken.map(|sandbox| sandbox.adopt(id))
    }

    /// Returns the counts. Also finds the sandboxes whose agent has ended, so that they are
    /// replaced.
    pub(crate) fn counts(&self) -> WarmCounts {
        let mut state = self.shared.lock();
        if state.set_dead_aside() {
            self.shared.has_work.notify_one();
        }
        WarmCounts {
            ready: state.ready.len(),
            size: self.shared.size,
            hits: state.hits,
            misses: state.misses,
        }
    }

    /// Stops filling the pool, and deletes its sandboxes. If a sandbox is being started, waits for
    /// it and deletes it, too. If the future is dropped before that, the processes of the sandboxes
    /// end, but their files remain.
    pub(crate) async fn close(&self) {
        let sandboxes = self.shared.close();
        let filler = self.filler.lock();
        let filler = filler.unwrap_or_else(PoisonError::into_inner).take();
        let WarmCounts { hits, misses, .. } = self.counts();
        tracing::info!(hits, misses, "closing the warm pool");
        let deleted = join_all(sandboxes.iter().map(|sandbox| delete(&**sandbox)));
        let filled = async {
            if let Some(filler) = filler {
                let _ = filler.await;
            }
        };
        tokio::join!(deleted, filled);
    }
}

struct Shared {
    backend: Arc<dyn Backend>,
    size: usize,
    state: Mutex<State>,
    /// Notified when the pool may have to be filled, or dead sandboxes deleted.
    has_work: Notify,
    /// Whether the pool is being closed.
    closing: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Box<dyn WarmSandbox>>,
    /// Sandboxes whose agent has ended, to be deleted.
    dead: Vec<Box<dyn WarmSandbox>>,
    hits: u64,
    misses: u64,
}

impl State {
    /// Moves the sandboxes whose agent has ended from `ready` to `dead`. Returns whether it moved
    /// any.
    fn set_dead_aside(&mut self) -> bool {
        let dead_before = self.dead.len();
        for mut sandbox in std::mem::take(&mut self.ready) {
            match sandbox.is_alive() {
                true => self.ready.push_back(sandbox),
                false => self.dead.push(sandbox),
            }
        }
        self.dead.len() > dead_before
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_dead(&self) -> Vec<Box<dyn WarmSandbox>> {
        std::mem::take(&mut self.lock().dead)
    }

    /// Adds a sandbox. Returns it if the pool is being closed.
    fn put(&self, sandbox: Box<dyn WarmSandbox>) -> Option<Box<dyn WarmSandbox>> {
        let mut state = self.lock();
        if *self.closing.borrow() {
            return Some(sandbox);
        }
        state.ready.push_back(sandbox);
        None
    }

    /// Begins to close the pool. Returns its sandboxes.
    fn close(&self) -> Vec<Box<dyn WarmSandbox>> {
        let mut state = self.lock();
        self.closing.send_replace(true);
        let mut all = std::mem::take(&mut state.dead);
        all.extend(state.ready.drain(..));
        all
    }

    /// Waits until a sandbox must be deleted or started. Returns at once if the pool is not full.
    async fn work(&self) {
        loop {
            let is_done = {
                let state = self.lock();
                state.dead.is_empty() && state.ready.len() >= self.size
            };
            if !is_done {
                return;
            }
            self.has_work.notified().await;
            sleep(REFILL_AFTER).await;
        }
    }
}

/// Fills the pool until it is closed.
async fn fill(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    let mut pause = FIRST_PAUSE;
    for number in 0_u64.. {
        tokio::select! {
            biased;
            _ = closing.wait_for(|&closing| closing) => return,
            () = shared.work() => {}
        }
        for dead in shared.take_dead() {
            tracing::warn!("a warm sandbox ended before a client used it");
            delete(&*dead).await;
        }
        // An id has no `.`, so no other sandbox has a directory of this name.
        let Some(creating) = shared.backend.create_warm(&format!("warm.{number}")) else {
            return;
        };
        match start(creating).await {
            Ok(sandbox) => {
                if let Some(unused) = shared.put(sandbox) {
                    return delete(&*unused).await;
                }
                pause = FIRST_PAUSE;
            }
            Err(reason) => {
                let reason = Escaped(reason);
                tracing::warn!(%reason, ?pause, "cannot start a warm sandbox; trying again later");
                tokio::select! {
                    _ = closing.wait_for(|&closing| closing) => return,
                    () = sleep(pause) => {}
                }
                pause = MAX_PAUSE.min(2 * pause);
            }
        }
    }
}

/// Starts the agent of a new sandbox, and runs code in it. Deletes the sandbox if that fails.
async fn start(
    creating: BoxFuture<'_, io::Result<Box<dyn WarmSandbox>>>,
) -> Result<Box<dyn WarmSandbox>, String> {
    let sandbox = creating.await.map_err(|error| error.to_string())?;
    let started = async {
        sandbox.start_agent().await?;
        rehearse(&*sandbox).await
    };
    match started.await {
        Ok(()) => Ok(sandbox),
        Err(reason) => {
            // If this leaves files, the shutdown of the server removes them.
            delete(&*sandbox).await;
            Err(reason)
        }
    }
}

/// Runs code that does nothing, once in each language. The first run in a sandbox takes longer than
/// later ones, because it loads the interpreter.
async fn rehearse(sandbox: &dyn BackendSandbox) -> Result<(), String> {
    for (language, nothing) in [(Language::Python, "pass"), (Language::Bash, ":")] {
        let run = async {
            // A language may not be installed.
            if let Ok(mut started) = sandbox.start(Job::new(language, nothing.to_owned())).await {
                let _ = started.process.wait().await;
            }
        };
        let run = timeout(REHEARSED_WITHIN, run).await;
        run.map_err(|_| format!("it did not run code within {REHEARSED_WITHIN:?}"))?;
    }
    Ok(())
}

async fn delete(sandbox: &dyn BackendSandbox) {
    if let Err(reason) = sandbox.delete().await {
        tracing::warn!(reason = %Escaped(reason), "cannot delete a warm sandbox");
    }
}

#[cfg(test)]
mod tests;
