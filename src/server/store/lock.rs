//! [`Locks`]: leases on sandboxes, stored as files of a [`Storage`] that several servers share. A
//! lease says which server owns a sandbox. All calls block; the time is an argument.
//!
//! ```text
//! locks/ID/EPOCH       the owner and the expiry; the file with the highest epoch counts
//! locks/.waiting/ID.X  a server waits for the lock
//! ```
//!
//! - A server takes a lock by creating the file of the *next* epoch. Only one server can create it.
//!   A server may take a lock that doesn't exist, was released or has expired.
//! - Only the owner of an epoch writes to its file, to renew or release the lock. So a late write
//!   can't undo what another server has done. An owner that was suspended for too long finds a
//!   higher epoch, and knows that it has lost the lock.
//!
//! The locks rely on the following:
//!
//! - The storage creates files exclusively and replaces them atomically.
//! - A list includes every file that was created before.
//! - The clocks of the servers differ by much less than a lease.
//!
//! If the storage supports it, a lock is only replaced if it is unchanged since it was read. Then a
//! late renewal doesn't undo a release.

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

/// The directory with a file for each waiting server. No sandbox has this name.
pub(super) const WAITING: &str = "locks/.waiting";

/// Attempts to replace a lock that changes between the read and the write.
const TRIES: usize = 3;

/// The locks in a storage, as one server uses them.
pub(crate) struct Locks {
    storage: Arc<dyn Storage>,
    owner: String,
    lease: Duration,
    /// Number of waits so far. Makes the names of their files unique.
    waited: AtomicU64,
}

/// A lock that this server has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) id: SandboxId,
    epoch: u64,
}

/// The result of an attempt to take a lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Taken(Lock),
    /// A server holds the lock, and the lease has not expired.
    Held,
}

/// The contents of a lock file. A later version may add keys.
#[derive(Serialize, Deserialize)]
struct Written {
    owner: String,
    /// Milliseconds since 1970. 0 means that the lock was released.
    expires: u64,
    token_sha256: String,
}

/// Announces that this server waits for a lock. Dropping it withdraws the announcement.
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
    /// `owner` is the name of this server.
    pub(crate) fn new(storage: Arc<dyn Storage>, owner: String, lease: Duration) -> Self {
        Self {
            storage,
            owner,
            lease,
            waited: AtomicU64::new(0),
        }
    }

    /// How long a lock is valid after it was taken or renewed.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// How often an owner may look for waiting servers, and a waiting server for the lock.
    pub(crate) fn look_every(&self) -> Duration {
        self.storage.look_every(self.lease)
    }

    /// Takes the lock if it is free or has expired.
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
            // Another server was faster.
            return Ok(Attempt::Held);
        }
        if !self.is_mine(&lock)? {
            // A higher epoch exists. Either this epoch had ended long ago and its file had been
            // removed, or another server has taken the lock since.
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

    /// Renews a lock. Returns false if another server has taken it, or if it was released.
    pub(crate) fn renew(
        &self,
        lock: &Lock,
        token: &TokenHash,
        now: SystemTime,
    ) -> io::Result<bool> {
        Ok(self.replace(lock, token, millis(now + self.lease))? && self.is_mine(lock)?)
    }

    /// Whether this is still the highest epoch, so that no other server has taken the lock.
    pub(crate) fn is_mine(&self, lock: &Lock) -> io::Result<bool> {
        Ok(self.current(&lock.id)? == Some(lock.epoch))
    }

    /// Releases the lock, so that another server can take it at once.
    pub(crate) fn release(&self, lock: &Lock, token: &TokenHash) -> io::Result<()> {
        self.replace(lock, token, 0).map(drop)
    }

    /// Removes the lock of a deleted sandbox.
    pub(crate) fn remove(&self, lock: &Lock) -> io::Result<()> {
        match self.is_mine(lock)? {
            true => self.storage.remove_all(&directory(&lock.id)),
            false => Ok(()),
        }
    }

    /// The hash of the sandbox's token, as the owner of the lock has written it. `None` if no
    /// server holds the lock.
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
        // The token of a damaged lock is unknown.
        let written = serde_json::from_slice::<Written>(&text).ok();
        Ok(written
            .filter(|written| written.expires > millis(now))
            .and_then(|written| TokenHash::from_hex(&written.token_sha256)))
    }

    /// Tells the owner of a lock that this server waits for it. Call [`refresh`](Self::refresh)
    /// within each lease.
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

    /// The sandboxes whose locks a server waits for. Removes the files of servers that died
    /// while they waited.
    pub(crate) fn waited_for(&self, now: SystemTime) -> io::Result<HashSet<SandboxId>> {
        let mut ids = HashSet::new();
        for name in self.storage.list(WAITING)? {
            let Some((id, _)) = name.split_once('.') else {
                continue;
            };
            let file = format!("{WAITING}/{name}");
            let until = match self.storage.read(&file) {
                Ok((until, _)) => until,
                // This server no longer waits.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match String::from_utf8_lossy(&until).parse::<u64>() {
                Ok(until) if until > millis(now) => {
                    ids.insert(SandboxId::new(id));
                }
                // It expired more than a lease ago.
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

    /// Whether a lock was released or has expired, so that another server may take it.
    fn is_over(&self, id: &SandboxId, epoch: u64, now: SystemTime) -> io::Result<bool> {
        let (text, stamp) = match self.storage.read(&file(id, epoch)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            read => read?,
        };
        Ok(match serde_json::from_slice::<Written>(&text) {
            Ok(written) => written.expires <= millis(now),
            // The expiry can't be read, so count a lease from the time of the write.
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

    /// Writes to a lock of this server. Returns false if another server has taken it, or if it was
    /// released.
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
        Err(io::Error::other(
            "the lock kept changing while it was written",
        ))
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
