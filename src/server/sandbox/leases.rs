//! Handoff of sandboxes between servers that share their state: [`Leases`] keeps the locks of the
//! sandboxes that live here, tells a sandbox that another server waits for it, and waits itself.

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

/// Locks that are renewed at the same time; each takes a thread.
const RENEWED_AT_ONCE: usize = 8;

/// A lock is renewed this many times within its lease.
const RENEWALS: u32 = 3;

/// The time as other machines know it.
fn now() -> SystemTime {
    SystemTime::now()
}

/// The locks of the sandboxes that live here.
pub(crate) struct Leases {
    locks: Arc<Locks>,
    held: Mutex<HashMap<SandboxId, Held>>,
    /// There is something to keep.
    work: Notify,
}

#[derive(Clone)]
struct Held {
    lock: Lock,
    token: TokenHash,
    renewed: Instant,
}

/// The lock of a sandbox that lives here; kept until it is given up or dropped. Dropped, it is not
/// renewed any more.
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
    /// What to ask before the state of the sandbox is written: an error when another server has it.
    /// Blocking.
    pub(crate) fn fence(&self) -> impl Fn() -> io::Result<()> + Send + Sync + use<> {
        let (locks, lock) = (self.leases.locks.clone(), self.held.lock.clone());
        move || match locks.is_mine(&lock)? {
            true => Ok(()),
            false => Err(io::Error::other("another server has taken the sandbox")),
        }
    }

    /// Gives the lock up for others to take; or with the sandbox, for good.
    pub(crate) async fn release(self, for_good: bool) -> io::Result<()> {
        let (locks, held) = (self.leases.locks.clone(), self.held.clone());
        // First, or it might be renewed meanwhile.
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

    /// Asks the storage, off this thread.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Locks) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let locks = self.locks.clone();
        blocking(move || ask(&locks)).await
    }

    /// What another server that has the sandbox knows of its token. `None`: none has it.
    pub(crate) async fn held_elsewhere(&self, id: &SandboxId) -> io::Result<Option<TokenHash>> {
        if self.held().contains_key(id) {
            return Ok(None);
        }
        let id = id.clone();
        self.ask(move |locks| locks.held_with(&id, now())).await
    }

    /// Takes the lock of a sandbox, if it is free.
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

    /// Takes the lock of a sandbox as soon as its owner gives it up, or its time is over. `None`
    /// when that is not within `patience`, or when `enough` says that there is no need any more.
    /// Dropped, it waits no longer.
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

    /// Renews the leases that this server holds, and tells sandboxes that another server waits for
    /// them or that their lease is lost. Ends when the registry is dropped.
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
                            // If it does not hear that now, it will hear it the next time.
                            tell(&registry, &id, Command::HandOver);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %Escaped(error), "the servers that wait for locks could not be read");
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
            // Others take it for free from now on.
            Ok(false) => tell(registry, id, Command::LockLost),
            Err(error) if held.renewed.elapsed() >= self.locks.lease() => {
                tracing::warn!(sandbox = %id, error = %Escaped(error), "a lock could not be renewed in time");
                tell(registry, id, Command::LockLost);
            }
            Err(error) => {
                tracing::info!(sandbox = %id, error = %Escaped(error), "a lock is not renewed yet");
            }
        }
    }
}

/// Renews a lock; false when another server has taken it.
fn renew(locks: &Locks, held: &Held) -> io::Result<bool> {
    let renewed = locks.renew(&held.lock, &held.token, now());
    // A full disk is no loss: only another server that takes the lock is.
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
