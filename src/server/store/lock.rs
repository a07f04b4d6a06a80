//! [`Locks`]: which server has a sandbox that can be handed over. Leases, as files of a [`Storage`] that several
//! servers share. Blocking; the time is an argument.
//!
//! ```text
//! locks/ID/EPOCH       who has it, and until when; the highest epoch counts
//! locks/.waiting/ID.X  somebody waits for it
//! ```
//!
//! - A lock is taken by making the file of the *next* epoch, which succeeds for one alone. That is
//!   allowed when there is no lock, when it was released, or when its time is over.
//! - Only its owner writes to a lock, to renew or release it. So nothing that comes late can undo what
//!   another has done; an owner that slept too long sees that there is a higher epoch, and that it
//!   has lost.
//!
//! It needs of the storage that a file is made exclusively and replaced atomically, that a list shows what was
//! made before, and clocks that agree to well within a lease. Where the storage can, a lock is only replaced if it is
//! as it was read: a renewal that comes late does not undo a release.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::storage::Storage;
use crate::{protocol::SandboxId, server::identity::TokenHash};

/// The directory of the locks.
pub(super) const LOCKS: &str = "locks";

/// The directory of those who wait. No sandbox is called like that.
pub(super) const WAITING: &str = "locks/.waiting";

/// How often a lock that is being written by others is tried again.
const TRIES: usize = 3;

/// The locks in a storage, seen by one server.
pub(crate) struct Locks {
    storage: Arc<dyn Storage>,
    owner: String,
    lease: Duration,
    /// How many have waited so far.
    waited: AtomicU64,
}

/// A lock that this server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) id: SandboxId,
    epoch: u64,
}

/// How an attempt to take a lock went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Taken(Lock),
    /// Another has it, and its time is not over.
    Held,
}

/// A lock as it is written. A later version may add keys.
#[derive(Serialize, Deserialize)]
struct Written {
    owner: String,
    /// Milliseconds since 1970; 0: released.
    expires: u64,
    token_sha256: String,
}

/// Somebody waits, until it is dropped.
pub(crate) struct Waiting {
    storage: Arc<dyn Storage>,
    file: String,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.storage.forget(&self.file);
    }
}

impl Locks {
    /// The locks in this storage, for the server of this name.
    pub(crate) fn new(storage: Arc<dyn Storage>, owner: String, lease: Duration) -> Self {
        Self {
            storage,
            owner,
            lease,
            waited: AtomicU64::new(0),
        }
    }

    /// How long a lock is good for without being renewed.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// How often it may be looked at for somebody who waits, and by somebody who waits.
    pub(crate) fn look_every(&self) -> Duration {
        self.storage.look_every(self.lease)
    }

    /// Takes the lock, if it is free or the time of its owner is over.
    pub(crate) fn acquire(
        &self,
        id: &SandboxId,
        token: &TokenHash,
        now: SystemTime,
    ) -> io::Result<Attempt> {
        let epoch = match self.current(id)? {
            None => 1,
            Some(epoch) if self.is_over(id, epoch, now)? => epoch + 1,
            Some(_) => return Ok(Attempt::Held),
        };
        let lock = Lock {
            id: id.clone(),
            epoch,
        };
        let written = self.written(token, millis(now + self.lease))?;
        if !self.storage.create(&file(id, epoch), &written)? {
            // Another was quicker.
            return Ok(Attempt::Held);
        }
        if !self.is_mine(&lock)? {
            // The epoch was over long ago, and its file had been removed; or is again by now.
            let _ = self.storage.remove(&file(id, epoch));
            return Ok(Attempt::Held);
        }
        for old in self.epochs(id)? {
            if old < epoch {
                let _ = self.storage.remove(&file(id, old));
            }
        }
        Ok(Attempt::Taken(lock))
    }

    /// Renews a lock; false when another has taken it, or it was given up.
    pub(crate) fn renew(
        &self,
        lock: &Lock,
        token: &TokenHash,
        now: SystemTime,
    ) -> io::Result<bool> {
        Ok(self.replace(lock, token, millis(now + self.lease))? && self.is_mine(lock)?)
    }

    /// Whether nobody has taken the lock since.
    pub(crate) fn is_mine(&self, lock: &Lock) -> io::Result<bool> {
        Ok(self.current(&lock.id)? == Some(lock.epoch))
    }

    /// Gives the lock up.
    pub(crate) fn release(&self, lock: &Lock, token: &TokenHash) -> io::Result<()> {
        self.replace(lock, token, 0).map(drop)
    }

    /// Removes the lock of a sandbox that is no more.
    pub(crate) fn remove(&self, lock: &Lock) -> io::Result<()> {
        match self.is_mine(lock)? {
            true => self.storage.remove_all(&directory(&lock.id)),
            false => Ok(()),
        }
    }

    /// What the owner of a lock knows of the sandbox's token. `None`: nobody has the lock.
    pub(crate) fn held_with(
        &self,
        id: &SandboxId,
        now: SystemTime,
    ) -> io::Result<Option<TokenHash>> {
        let Some(epoch) = self.current(id)? else {
            return Ok(None);
        };
        let text = match self.storage.read(&file(id, epoch)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?.0,
        };
        // Of one that is damaged nobody knows whose it is.
        let written = serde_json::from_slice::<Written>(&text).ok();
        Ok(written
            .filter(|written| written.expires > millis(now))
            .and_then(|written| TokenHash::from_hex(&written.token_sha256)))
    }

    /// Lets the owner of a lock know that somebody waits for it. To be refreshed within a lease.
    pub(crate) fn wait_for(&self, id: &SandboxId, now: SystemTime) -> io::Result<Waiting> {
        let number = self.waited.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting {
            storage: self.storage.clone(),
            file: format!("{WAITING}/{id}.{}-{number}", self.owner),
        };
        self.refresh(&waiting, now)?;
        Ok(waiting)
    }

    pub(crate) fn refresh(&self, waiting: &Waiting, now: SystemTime) -> io::Result<()> {
        let until = millis(now + self.lease).to_string();
        self.storage.write(&waiting.file, until.as_bytes())
    }

    /// The sandboxes that somebody waits for. Removes what is left of those who died waiting.
    pub(crate) fn waited_for(&self, now: SystemTime) -> io::Result<HashSet<SandboxId>> {
        let mut ids = HashSet::new();
        for name in self.storage.list(WAITING)? {
            let Some((id, _)) = name.split_once('.') else {
                continue;
            };
            let file = format!("{WAITING}/{name}");
            let until = match self.storage.read(&file) {
                Ok((until, _)) => until,
                // It waits no longer.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match String::from_utf8_lossy(&until).parse::<u64>() {
                Ok(until) if until > millis(now) => {
                    ids.insert(SandboxId::new(id));
                }
                // It is over for a while.
                Ok(until) if until + millis_of(self.lease) < millis(now) => {
                    let _ = self.storage.remove(&file);
                }
                _ => {}
            }
        }
        Ok(ids)
    }

    fn epochs(&self, id: &SandboxId) -> io::Result<Vec<u64>> {
        let names = self.storage.list(&directory(id))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn current(&self, id: &SandboxId) -> io::Result<Option<u64>> {
        Ok(self.epochs(id)?.into_iter().max())
    }

    /// Whether a lock may be taken over.
    fn is_over(&self, id: &SandboxId, epoch: u64, now: SystemTime) -> io::Result<bool> {
        let (text, stamp) = match self.storage.read(&file(id, epoch)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            read => read?,
        };
        Ok(match serde_json::from_slice::<Written>(&text) {
            Ok(written) => written.expires <= millis(now),
            // Nobody can tell until when it was: a lease from when it was written.
            Err(_) => stamp.modified + self.lease <= now,
        })
    }

    fn written(&self, token: &TokenHash, expires: u64) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(&Written {
            owner: self.owner.clone(),
            expires,
            token_sha256: token.to_hex(),
        })?)
    }

    /// Writes to a lock of this server; false when it is no longer its own, or was given up.
    fn replace(&self, lock: &Lock, token: &TokenHash, expires: u64) -> io::Result<bool> {
        let file = file(&lock.id, lock.epoch);
        for _ in 0..TRIES {
            if !self.is_mine(lock)? {
                return Ok(false);
            }
            let (text, stamp) = match self.storage.read(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                read => read?,
            };
            if serde_json::from_slice::<Written>(&text).is_ok_and(|now| now.expires == 0) {
                return Ok(false);
            }
            if self
                .storage
                .replace(&file, &self.written(token, expires)?, &stamp)?
            {
                return Ok(true);
            }
        }
        Err(io::Error::other("the lock is written to all the time"))
    }
}

fn directory(id: &SandboxId) -> String {
    format!("{LOCKS}/{id}")
}

fn file(id: &SandboxId, epoch: u64) -> String {
    format!("{LOCKS}/{id}/{epoch}")
}

fn millis(time: SystemTime) -> u64 {
    millis_of(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn millis_of(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
