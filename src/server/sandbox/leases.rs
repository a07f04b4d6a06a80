//! Handoff of sandboxes between servers that share a store.
//!
//! [`Leases`] renews the locks of this server's sandboxes. It tells a sandbox when another server
//! waits for its lock, and waits for locks that other servers hold.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{handle::Command, registry::Registry};
use crate::{
    protocol::SandboxId,
    server::{
        blocking::blocking,
        escaped::Escaped,
        identity::TokenHash,
        store::lock::{Attempt, Lock, Locks},
    },
};

/// How many locks are renewed at the same time. Each renewal occupies a thread.
const RENEWED_AT_ONCE: usize = 8;

/// How many times a lock is renewed within the duration of its lease.
const RENEWALS: u32 = 3;

/// The wall clock, because the timestamps in a lock are compared with those of other machines.
fn now() -> SystemTime {
    SystemTime::now()
}

/// The locks that this server holds.
pub(crate) struct Leases {
    locks: Arc<Locks>,
    held: Mutex<HashMap<SandboxId, Held>>,
    /// Wakes `keep`, which sleeps while this server holds no lock.
    work: Notify,
}

#[derive(Clone)]
struct Held {
    lock: Lock,
    token: TokenHash,
    renewed: Instant,
}

/// The lock of one of this server's sandboxes. [`Leases::keep`] renews it until it is released or
/// dropped.
pub(crate) struct Lease {
    leases: Arc<Leases>,
    held: Held,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.held.lock.id);
    }
}

impl Lease {
    /// Returns a check to call right before a write of the sandbox's state. The check fails if
    /// another server has taken the lock. It blocks.
    pub(crate) fn fence(&self) -> impl Fn() -> io::Result<()> + Send + Sync + use<> {
        let (locks, lock) = (self.leases.locks.clone(), self.held.lock.clone());
        move || match locks.is_mine(&lock)? {
            true => Ok(()),
            false => Err(io::Error::other("another server has taken the sandbox")),
        }
    }

    /// Releases the lock, so that another server can take it. If `for_good`, removes the lock,
    /// because the sandbox doesn't exist any more.
    pub(crate) async fn release(self, for_good: bool) -> io::Result<()> {
        let (locks, held) = (self.leases.locks.clone(), self.held.clone());
        // Drop the lease first. Otherwise `keep` could renew the lock after its release.
        drop(self);
        blocking(move || match for_good {
            true => locks.remove(&held.lock),
            false => locks.release(&held.lock, &held.token),
        })
        .await
    }
}

impl Leases {
    pub(crate) fn new(locks: Locks) -> Self {
        Self {
            locks: Arc::new(locks),
            held: Mutex::default(),
            work: Notify::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<SandboxId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accesses the store on another thread.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Locks) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let locks = self.locks.clone();
        blocking(move || ask(&locks)).await
    }

    /// Returns the hash of the sandbox's token if another server has the sandbox.
    pub(crate) async fn held_elsewhere(&self, id: &SandboxId) -> io::Result<Option<TokenHash>> {
        if self.held().contains_key(id) {
            return Ok(None);
        }
        let id = id.clone();
        self.ask(move |locks| locks.held_with(&id, now())).await
    }

    /// Acquires the lock of a sandbox if it is free.
    pub(crate) async fn try_acquire(
        self: &Arc<Self>,
        id: &SandboxId,
        token: &TokenHash,
    ) -> io::Result<Option<Lease>> {
        let asked = (id.clone(), token.clone());
        let attempt = self.ask(move |locks| locks.acquire(&asked.0, &asked.1, now()));
        let Attempt::Taken(lock) = attempt.await? else {
            return Ok(None);
        };
        let held = Held {
            lock,
            token: token.clone(),
            renewed: Instant::now(),
        };
        self.held().insert(id.clone(), held.clone());
        self.work.notify_one();
        let leases = self.clone();
        Ok(Some(Lease { leases, held }))
    }

    /// Acquires the lock of a sandbox as soon as its owner releases it or its lease expires.
    /// Returns `None` if that takes longer than `patience`, or as soon as `enough` returns true.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        id: &SandboxId,
        token: &TokenHash,
        patience: Duration,
        enough: impl Fn() -> bool,
    ) -> io::Result<Option<Lease>> {
        let until = Instant::now() + patience;
        let waited_for = id.clone();
        let waiting = self.ask(move |locks| locks.wait_for(&waited_for, now()));
        let waiting = Arc::new(waiting.await?);
        let mut refreshed = Instant::now();
        loop {
            if enough() {
                return Ok(None);
            }
            if let Some(lease) = self.try_acquire(id, token).await? {
                return Ok(Some(lease));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            sleep(self.locks.look_every()).await;
            if refreshed.elapsed() > self.locks.lease() / RENEWALS {
                refreshed = Instant::now();
                let waiting = waiting.clone();
                self.ask(move |locks| locks.refresh(&waiting, now()))
                    .await?;
            }
        }
    }

    /// Renews the locks that this server holds. Tells a sandbox when another server waits for its
    /// lock, and when its lock is lost. Ends when the registry is dropped.
    pub(crate) async fn keep(self: Arc<Self>, registry: Weak<Registry>) {
        loop {
            if self.held().is_empty() {
                self.work.notified().await;
            }
            sleep(self.locks.look_every()).await;
            let Some(registry) = registry.upgrade() else {
                return;
            };
            let every = self.locks.lease() / RENEWALS;
            let mut due: Vec<Held> = self.held().values().cloned().collect();
            due.retain(|held| held.renewed.elapsed() >= every);
            let renewals = due.into_iter().map(|held| {
                let lock = held.clone();
                async { (held, self.ask(move |locks| renew(locks, &lock)).await) }
            });
            let mut renewals = stream::iter(renewals).buffer_unordered(RENEWED_AT_ONCE);
            while let Some((held, renewed)) = renewals.next().await {
                self.on_renewed(&registry, held, renewed);
            }
            match self.ask(|locks| locks.waited_for(now())).await {
                Ok(ids) => {
                    for id in ids {
                        if self.held().contains_key(&id) {
                            // If the channel of the sandbox is full, the next round tries again.
                            tell(&registry, &id, Command::HandOver);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        error = %Escaped(error),
                        "could not read which locks other servers wait for"
                    );
                }
            }
        }
    }

    fn on_renewed(&self, registry: &Registry, held: Held, renewed: io::Result<bool>) {
        let id = &held.lock.id;
        match renewed {
            Ok(true) => {
                let mut all = self.held();
                if let Some(kept) = all.get_mut(id).filter(|kept| kept.lock == held.lock) {
                    kept.renewed = Instant::now();
                }
            }
            // Another server has taken the lock.
            Ok(false) => tell(registry, id, Command::LockLost),
            Err(error) if held.renewed.elapsed() >= self.locks.lease() => {
                tracing::warn!(sandbox = %id, error = %Escaped(error), "a lock could not be renewed in time");
                tell(registry, id, Command::LockLost);
            }
            Err(error) => {
                tracing::info!(
                    sandbox = %id,
                    error = %Escaped(error),
                    "a lock is not renewed yet, trying again"
                );
            }
        }
    }
}

/// Renews a lock. Returns false if another server has taken it.
fn renew(locks: &Locks, held: &Held) -> io::Result<bool> {
    let renewed = locks.renew(&held.lock, &held.token, now());
    // A write that fails, for example because the disk is full, doesn't lose the lock. Only another
    // server that takes the lock does.
    renewed.or_else(|error| match locks.is_mine(&held.lock) {
        Ok(true) => {
            tracing::warn!(sandbox = %held.lock.id, error = %Escaped(error), "a lock is not renewed");
            Ok(true)
        }
        other => other,
    })
}

fn tell(registry: &Registry, id: &SandboxId, command: Command) {
    if let Some(handle) = registry.find(id) {
        let _ = handle.commands.try_send(command);
    }
}
