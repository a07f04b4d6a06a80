//! [`Locks`]: which server has a sandbox that can be handed over. Leases, as files that several servers
//! share. Blocking; the time is an argument.
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
//! It needs of the storage that a file is made exclusively and replaced atomically, and clocks that agree
//! to well within a lease.

use std::{
    collections::HashSet,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{UNFINISHED, make_private};
use crate::{protocol::SandboxId, server::token::TokenHash};

/// The directory of those who wait. No sandbox is called like that.
const WAITING: &str = ".waiting";

/// The locks in a state directory, seen by one server.
pub(in crate::server) struct Locks {
    directory: PathBuf,
    waiting: PathBuf,
    owner: String,
    lease: Duration,
}

/// A lock that this server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct Lock {
    pub(in crate::server) id: SandboxId,
    epoch: u64,
}

/// How an attempt to take a lock went.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) enum Attempt {
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
pub(in crate::server) struct Waiting {
    file: PathBuf,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

impl Locks {
    pub(super) fn open(state: &Path, owner: String, lease: Duration) -> io::Result<Self> {
        let directory = state.join("locks");
        let locks = Self {
            waiting: directory.join(WAITING),
            directory,
            owner,
            lease,
        };
        make_private(&locks.directory)?;
        make_private(&locks.waiting)?;
        super::remove_left_behind(&locks.directory, |_| None)?;
        Ok(locks)
    }

    /// How long a lock is good for without being renewed.
    pub(in crate::server) fn lease(&self) -> Duration {
        self.lease
    }

    /// Takes the lock, if it is free or the time of its owner is over.
    pub(in crate::server) fn acquire(
        &self,
        id: &SandboxId,
        token: &TokenHash,
        now: SystemTime,
    ) -> io::Result<Attempt> {
        make_private(&self.of(id))?;
        let epoch = match self.current(id)? {
            None => 1,
            Some(epoch) if self.is_over(id, epoch, now)? => epoch + 1,
            Some(_) => return Ok(Attempt::Held),
        };
        let lock = Lock {
            id: id.clone(),
            epoch,
        };
        let file = self.written(token, millis(now + self.lease))?;
        match file.persist_noclobber(self.file(id, epoch)) {
            Ok(_) => {}
            // Another was quicker.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Attempt::Held);
            }
            Err(error) => return Err(error.error),
        }
        if !self.is_mine(&lock)? {
            // The epoch was over long ago, and its file had been removed; or is again by now.
            let _ = fs::remove_file(self.file(id, epoch));
            return Ok(Attempt::Held);
        }
        for old in self.epochs(id)? {
            if old < epoch {
                let _ = fs::remove_file(self.file(id, old));
            }
        }
        Ok(Attempt::Taken(lock))
    }

    /// Renews a lock; false when another has taken it.
    pub(in crate::server) fn renew(
        &self,
        lock: &Lock,
        token: &TokenHash,
        now: SystemTime,
    ) -> io::Result<bool> {
        if !self.is_mine(lock)? {
            return Ok(false);
        }
        self.replace(lock, token, millis(now + self.lease))?;
        self.is_mine(lock)
    }

    /// Whether nobody has taken the lock since.
    pub(in crate::server) fn is_mine(&self, lock: &Lock) -> io::Result<bool> {
        Ok(self.current(&lock.id)? == Some(lock.epoch))
    }

    /// Gives the lock up.
    pub(in crate::server) fn release(&self, lock: &Lock, token: &TokenHash) -> io::Result<()> {
        if self.is_mine(lock)? {
            self.replace(lock, token, 0)?;
        }
        Ok(())
    }

    /// Removes the lock of a sandbox that is no more.
    pub(in crate::server) fn remove(&self, lock: &Lock) -> io::Result<()> {
        if !self.is_mine(lock)? {
            return Ok(());
        }
        match fs::remove_dir_all(self.of(&lock.id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// What the owner of a lock knows of the sandbox's token. `None`: nobody has the lock.
    pub(in crate::server) fn held_with(
        &self,
        id: &SandboxId,
        now: SystemTime,
    ) -> io::Result<Option<TokenHash>> {
        let Some(epoch) = self.current(id)? else {
            return Ok(None);
        };
        if self.is_over(id, epoch, now)? {
            return Ok(None);
        }
        Ok(self
            .read(id, epoch)?
            .and_then(|written| TokenHash::from_hex(&written.token_sha256)))
    }

    /// Lets the owner of a lock know that somebody waits for it. To be refreshed within a lease.
    pub(in crate::server) fn wait_for(
        &self,
        id: &SandboxId,
        now: SystemTime,
    ) -> io::Result<Waiting> {
        let (file, path) = tempfile::Builder::new()
            .prefix(&format!("{id}."))
            .tempfile_in(&self.waiting)?
            .keep()
            .map_err(|error| error.error)?;
        drop(file);
        let waiting = Waiting { file: path };
        self.refresh(&waiting, now)?;
        Ok(waiting)
    }

    pub(in crate::server) fn refresh(&self, waiting: &Waiting, now: SystemTime) -> io::Result<()> {
        fs::write(&waiting.file, millis(now + self.lease).to_string())
    }

    /// The sandboxes that somebody waits for. Removes what is left of those who died waiting.
    pub(in crate::server) fn waited_for(&self, now: SystemTime) -> io::Result<HashSet<SandboxId>> {
        let mut ids = HashSet::new();
        for entry in fs::read_dir(&self.waiting)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((id, _)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let until = fs::read_to_string(entry.path()).unwrap_or_default();
            match until.parse::<u64>() {
                Ok(until) if until > millis(now) => {
                    ids.insert(SandboxId::new(id));
                }
                // It is being written, or it is over for a while.
                Ok(until) if until + millis_of(self.lease) < millis(now) => {
                    let _ = fs::remove_file(entry.path());
                }
                _ => {}
            }
        }
        Ok(ids)
    }

    fn of(&self, id: &SandboxId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    fn file(&self, id: &SandboxId, epoch: u64) -> PathBuf {
        self.of(id).join(epoch.to_string())
    }

    fn epochs(&self, id: &SandboxId) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(self.of(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut epochs = Vec::new();
        for entry in entries {
            epochs.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<u64>().ok()),
            );
        }
        Ok(epochs)
    }

    fn current(&self, id: &SandboxId) -> io::Result<Option<u64>> {
        Ok(self.epochs(id)?.into_iter().max())
    }

    /// Whether a lock may be taken over.
    fn is_over(&self, id: &SandboxId, epoch: u64, now: SystemTime) -> io::Result<bool> {
        match self.read(id, epoch)? {
            Some(written) => Ok(written.expires <= millis(now)),
            // Nobody can tell until when it was: a lease from when it was written.
            None => match fs::metadata(self.file(id, epoch)).and_then(|meta| meta.modified()) {
                Ok(modified) => Ok(modified + self.lease <= now),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                Err(error) => Err(error),
            },
        }
    }

    /// What a lock says; `None` for one that is damaged or gone.
    fn read(&self, id: &SandboxId, epoch: u64) -> io::Result<Option<Written>> {
        match fs::read(self.file(id, epoch)) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn written(&self, token: &TokenHash, expires: u64) -> io::Result<NamedTempFile> {
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.directory)?;
        let written = Written {
            owner: self.owner.clone(),
            expires,
            token_sha256: token.to_hex(),
        };
        file.write_all(&serde_json::to_vec(&written)?)?;
        Ok(file)
    }

    fn replace(&self, lock: &Lock, token: &TokenHash, expires: u64) -> io::Result<()> {
        let file = self.written(token, expires)?;
        file.persist(self.file(&lock.id, lock.epoch))
            .map(drop)
            .map_err(|error| error.error)
    }
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
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::protocol::SandboxToken;

    const LEASE: Duration = Duration::from_secs(10);

    fn servers() -> (tempfile::TempDir, Locks, Locks) {
        let state = tempfile::tempdir().unwrap();
        let open = |owner: &str| Locks::open(state.path(), owner.to_owned(), LEASE).unwrap();
        let (a, b) = (open("a"), open("b"));
        (state, a, b)
    }

    fn token() -> TokenHash {
        TokenHash::of(&SandboxToken::new("secret"))
    }

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }

    fn taken(locks: &Locks, id: &str, now: SystemTime) -> Option<Lock> {
        match locks.acquire(&SandboxId::new(id), &token(), now).unwrap() {
            Attempt::Taken(lock) => Some(lock),
            Attempt::Held => None,
        }
    }

    #[test]
    fn a_lock_is_held_until_it_is_released_or_its_time_is_over() {
        let (_state, a, b) = servers();
        let id = SandboxId::new("sandbox-1");
        let lock = taken(&a, "sandbox-1", start()).unwrap();
        assert!(
            a.held_with(&id, start())
                .unwrap()
                .unwrap()
                .matches(&SandboxToken::new("secret"))
        );
        assert_eq!(taken(&b, "sandbox-1", start()), None);
        assert_eq!(
            taken(&a, "sandbox-1", start()),
            None,
            "nor again by its owner"
        );
        let late = start() + LEASE - Duration::from_millis(1);
        assert_eq!(taken(&b, "sandbox-1", late), None);
        assert!(a.renew(&lock, &token(), late).unwrap());
        assert_eq!(taken(&b, "sandbox-1", start() + LEASE), None);

        a.release(&lock, &token()).unwrap();
        assert!(a.held_with(&id, late).unwrap().is_none());
        let second = taken(&b, "sandbox-1", late).unwrap();
        assert!(!a.is_mine(&lock).unwrap() && b.is_mine(&second).unwrap());
        // What comes late undoes nothing.
        a.release(&lock, &token()).unwrap();
        a.remove(&lock).unwrap();
        assert!(!a.renew(&lock, &token(), late).unwrap());
        assert!(b.is_mine(&second).unwrap());

        b.remove(&second).unwrap();
        assert!(b.held_with(&id, late).unwrap().is_none());
        taken(&a, "sandbox-1", late).unwrap();
    }

    #[test]
    fn an_owner_that_slept_through_its_lease_sees_that_it_has_lost() {
        let (_state, a, b) = servers();
        let lock = taken(&a, "sandbox-1", start()).unwrap();
        // Nobody has taken it: late is not too late.
        assert!(a.renew(&lock, &token(), start() + 3 * LEASE).unwrap());
        let second = taken(&b, "sandbox-1", start() + 5 * LEASE).unwrap();
        assert!(!a.is_mine(&lock).unwrap());
        assert!(!a.renew(&lock, &token(), start() + 5 * LEASE).unwrap());
        assert!(b.is_mine(&second).unwrap());
        assert_eq!(taken(&a, "sandbox-1", start() + 5 * LEASE), None);
    }

    #[test]
    fn a_damaged_lock_is_over_a_lease_after_it_was_written() {
        let (state, a, _) = servers();
        let directory = state.path().join("locks/sandbox-1");
        for text in ["", "{", "{\"owner\":1}"] {
            fs::create_dir_all(&directory).unwrap();
            let file = directory.join("7");
            fs::write(&file, text).unwrap();
            let written = fs::metadata(&file).unwrap().modified().unwrap();
            assert_eq!(taken(&a, "sandbox-1", written + LEASE / 2), None);
            let lock = taken(&a, "sandbox-1", written + LEASE).unwrap();
            assert_eq!(lock.epoch, 8);
            a.remove(&lock).unwrap();
        }
    }

    #[test]
    fn whoever_waits_is_seen_until_it_goes_or_dies() {
        let (_state, a, b) = servers();
        let id = SandboxId::new("sandbox-1");
        assert!(a.waited_for(start()).unwrap().is_empty());
        let waiting = b.wait_for(&id, start()).unwrap();
        assert_eq!(a.waited_for(start()).unwrap(), HashSet::from([id.clone()]));
        assert!(a.waited_for(start() + LEASE).unwrap().is_empty());
        b.refresh(&waiting, start() + LEASE).unwrap();
        assert_eq!(a.waited_for(start() + LEASE).unwrap().len(), 1);
        drop(waiting);
        assert!(a.waited_for(start()).unwrap().is_empty());

        std::mem::forget(b.wait_for(&id, start()).unwrap());
        assert_eq!(fs::read_dir(&a.waiting).unwrap().count(), 1);
        a.waited_for(start() + 3 * LEASE).unwrap();
        assert_eq!(fs::read_dir(&a.waiting).unwrap().count(), 0);
    }

    /// Eight threads take, renew and release the same lock as fast as they can; the lease is never over.
    #[test]
    fn a_lock_never_has_two_owners() {
        let state = tempfile::tempdir().unwrap();
        let owners = AtomicU32::new(0);
        let times = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let locks = Locks::open(state.path(), format!("server-{thread}"), LEASE).unwrap();
                let (owners, times) = (&owners, &times);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let Some(lock) = taken(&locks, "sandbox-1", start()) else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0);
                        times.fetch_add(1, Ordering::SeqCst);
                        assert!(locks.renew(&lock, &token(), start()).unwrap());
                        assert_eq!(owners.fetch_sub(1, Ordering::SeqCst), 1);
                        locks.release(&lock, &token()).unwrap();
                    }
                });
            }
        });
        assert!(times.load(Ordering::SeqCst) > 8, "{times:?}");
    }

    /// The same where every lease is over at once: of those that take the next epoch, one wins.
    #[test]
    fn of_many_that_take_over_one_wins() {
        for _ in 0..50 {
            let state = tempfile::tempdir().unwrap();
            let open = |owner: &str| Locks::open(state.path(), owner.to_owned(), LEASE).unwrap();
            taken(&open("dead"), "sandbox-1", start()).unwrap();
            let winners = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let locks = open(&format!("server-{thread}"));
                    let winners = &winners;
                    scope.spawn(move || {
                        if taken(&locks, "sandbox-1", start() + LEASE).is_some() {
                            winners.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            assert_eq!(winners.load(Ordering::SeqCst), 1);
        }
    }
}
