//! Locks in virtual time, over a directory and a bucket in memory.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::{protocol::SandboxToken, server::store::directory::Directory};

const LEASE: Duration = Duration::from_secs(10);

/// The storages to test, each with a temporary directory of its own.
fn storages() -> Vec<(tempfile::TempDir, Arc<dyn Storage>)> {
    let directory = || tempfile::tempdir().unwrap();
    let here = directory();
    let storage: Arc<dyn Storage> = Arc::new(Directory::open(here.path()).unwrap());
    #[allow(unused_mut, reason = "changed only with the feature `object-store`")]
    let mut storages = vec![(here, storage)];
    #[cfg(feature = "object-store")]
    {
        let workplace = directory();
        let bucket = super::super::bucket::Bucket::in_memory(workplace.path());
        storages.push((workplace, Arc::new(bucket)));
    }
    storages
}

fn open(storage: &Arc<dyn Storage>, owner: &str) -> Locks {
    Locks::new(storage.clone(), owner.to_owned(), LEASE)
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
    for (_directory, storage) in storages() {
        let (a, b) = (open(&storage, "a"), open(&storage, "b"));
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
            "its owner can't take it again"
        );
        let late = start() + LEASE - Duration::from_millis(1);
        assert_eq!(taken(&b, "sandbox-1", late), None);
        assert!(a.renew(&lock, &token(), late).unwrap());
        assert_eq!(taken(&b, "sandbox-1", start() + LEASE), None);

        a.release(&lock, &token()).unwrap();
        assert!(a.held_with(&id, late).unwrap().is_none());
        let second = taken(&b, "sandbox-1", late).unwrap();
        assert!(!a.is_mine(&lock).unwrap() && b.is_mine(&second).unwrap());
        // A late write of the old owner undoes nothing.
        a.release(&lock, &token()).unwrap();
        a.remove(&lock).unwrap();
        assert!(!a.renew(&lock, &token(), late).unwrap());
        assert!(b.is_mine(&second).unwrap());

        b.remove(&second).unwrap();
        assert!(b.held_with(&id, late).unwrap().is_none());
        taken(&a, "sandbox-1", late).unwrap();
    }
}

#[test]
fn an_owner_that_slept_through_its_lease_sees_that_it_has_lost() {
    for (_directory, storage) in storages() {
        let (a, b) = (open(&storage, "a"), open(&storage, "b"));
        let lock = taken(&a, "sandbox-1", start()).unwrap();
        // No other server has taken the lock, so a late renewal still succeeds.
        assert!(a.renew(&lock, &token(), start() + 3 * LEASE).unwrap());
        let second = taken(&b, "sandbox-1", start() + 5 * LEASE).unwrap();
        assert!(!a.is_mine(&lock).unwrap());
        assert!(!a.renew(&lock, &token(), start() + 5 * LEASE).unwrap());
        assert!(b.is_mine(&second).unwrap());
        assert_eq!(taken(&a, "sandbox-1", start() + 5 * LEASE), None);
    }
}

#[test]
fn a_damaged_lock_is_over_a_lease_after_it_was_written() {
    for (_directory, storage) in storages() {
        let a = open(&storage, "a");
        for text in ["", "{", "{\"owner\":1}"] {
            let file = file(&SandboxId::new("sandbox-1"), 7);
            assert!(storage.create(&file, text.as_bytes()).unwrap());
            let written = storage.stamp(&file).unwrap().modified;
            assert_eq!(taken(&a, "sandbox-1", written + LEASE / 2), None);
            let lock = taken(&a, "sandbox-1", written + LEASE).unwrap();
            assert_eq!(lock.epoch, 8);
            a.remove(&lock).unwrap();
        }
    }
}

#[test]
fn a_waiting_server_is_seen_until_it_leaves_or_dies() {
    for (_directory, storage) in storages() {
        let (a, b) = (open(&storage, "a"), open(&storage, "b"));
        let id = SandboxId::new("sandbox-1");
        let left = || storage.list(WAITING).unwrap().len();
        assert!(a.waited_for(start()).unwrap().is_empty());
        let waiting = b.wait_for(&id, start()).unwrap();
        assert_eq!(a.waited_for(start()).unwrap(), HashSet::from([id.clone()]));
        assert!(a.waited_for(start() + LEASE).unwrap().is_empty());
        b.refresh(&waiting, start() + LEASE).unwrap();
        assert_eq!(a.waited_for(start() + LEASE).unwrap().len(), 1);
        drop(waiting);
        // A bucket removes the file on another thread.
        let gone = || a.waited_for(start()).unwrap().is_empty();
        let is_told = (0..1_000_000).any(|_| {
            std::thread::yield_now();
            gone()
        });
        assert!(is_told);

        std::mem::forget(b.wait_for(&id, start()).unwrap());
        assert_eq!(left(), 1);
        a.waited_for(start() + 3 * LEASE).unwrap();
        assert_eq!(left(), 0);
    }
}

/// The renewal reads the lock before the release and writes after it.
#[cfg(feature = "object-store")]
#[test]
fn a_renewal_that_comes_late_does_not_undo_a_release() {
    let workplace = tempfile::tempdir().unwrap();
    let bucket = super::super::bucket::Bucket::in_memory(workplace.path());
    let storage: Arc<dyn Storage> = Arc::new(bucket);
    let (a, b) = (open(&storage, "a"), open(&storage, "b"));
    let lock = taken(&a, "sandbox-1", start()).unwrap();
    let file = file(&lock.id, lock.epoch);
    let (text, stamp) = storage.read(&file).unwrap();
    a.release(&lock, &token()).unwrap();
    assert!(!storage.replace(&file, &text, &stamp).unwrap());
    assert!(!a.renew(&lock, &token(), start()).unwrap());
    assert!(taken(&b, "sandbox-1", start()).is_some());
}

/// Eight threads take, renew and release the same lock as fast as they can. No lease expires.
#[test]
fn a_lock_never_has_two_owners() {
    for (_directory, storage) in storages() {
        let owners = AtomicU32::new(0);
        let times = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let locks = open(&storage, &format!("server-{thread}"));
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
}

/// Eight threads take over the same expired lock.
#[test]
fn only_one_of_many_takes_over_an_expired_lock() {
    for (_directory, storage) in (0..50).flat_map(|_| storages()) {
        let open = |owner: &str| open(&storage, owner);
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
