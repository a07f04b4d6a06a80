//! [`Connections`]: decides which connections to keep when file descriptors run short. No IO.
//!
//! A connection is *waiting* until one of its requests has passed every check of the caller. From
//! then on it is *admitted*. Every process that reaches the port can open connections, so waiting
//! connections are closed under pressure, the oldest first. Admitted connections stay open; a
//! request beyond their limit is answered 503. Half of the file descriptors are reserved for the
//! sandboxes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Waker,
};

use futures::task::AtomicWaker;

/// File descriptors of the server itself: listeners, runtimes, watchdog, logs.
const OWN_FILES: usize = 64;

/// Minimum limit for each kind of connection, even if there are few file descriptors.
const FEWEST: usize = 8;

/// Maximum number of places reserved for waiting connections.
const MOST_WAITING: usize = 4_096;

/// How many connections a server keeps open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections whose caller has passed every check.
    pub(crate) admitted: usize,
    /// Places reserved for waiting connections.
    waiting: usize,
    /// Places for evicted connections that are not closed yet.
    closing: usize,
}

impl Limits {
    /// The limits of a process that may open `open_files` files. `most` is the configured limit on
    /// admitted connections.
    pub(crate) fn new(open_files: usize, most: usize) -> Self {
        // Half of the files that the server doesn't need itself go to connections: 3/8 + 1/12 +
        // 1/24.
        let files = open_files.saturating_sub(OWN_FILES);
        let waiting = (files / 12).clamp(FEWEST, MOST_WAITING);
        Self {
            admitted: (files / 8 * 3).max(FEWEST).min(most.max(1)),
            waiting,
            closing: waiting / 2,
        }
    }

    /// Maximum number of waiting and admitted connections.
    fn kept(self) -> usize {
        self.admitted + self.waiting
    }

    /// Maximum number of accepted connections, evicted ones included.
    pub(crate) fn accepted(self) -> usize {
        self.kept() + self.closing
    }
}

/// The id of a connection. Ids are never reused.
pub(crate) type Id = u64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The value is its key in [`Ledger::order`].
    Waiting(u64),
    Admitted,
    /// It is about to be closed.
    Evicted,
}

/// Keeps track of waiting and admitted connections and decides which one to evict next.
struct Ledger<T> {
    limits: Limits,
    entries: HashMap<Id, (Standing, T)>,
    /// Connections that were rescued from an eviction, because they had a request to read.
    rescued: HashSet<Id>,
    /// The waiting connections, the oldest first.
    order: BTreeMap<u64, Id>,
    admitted: usize,
    next: u64,
}

impl<T: Clone> Ledger<T> {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            rescued: HashSet::new(),
            order: BTreeMap::new(),
            admitted: 0,
            next: 0,
        }
    }

    /// Adds a connection. Returns its id, and the connection to evict for it, if any.
    fn enter(&mut self, connection: T) -> (Id, Option<T>) {
        let id = self.next;
        self.wait(id, connection);
        (id, self.evict())
    }

    fn wait(&mut self, id: Id, connection: T) {
        let place = self.next;
        self.next += 1;
        self.order.insert(place, id);
        self.entries
            .insert(id, (Standing::Waiting(place), connection));
    }

    /// Evicts and returns the oldest waiting connection if there are too many. Never evicts the
    /// newest.
    fn evict(&mut self) -> Option<T> {
        if self.order.len() <= 1 || self.order.len() + self.admitted <= self.limits.kept() {
            return None;
        }
        let (_, id) = self.order.pop_first()?;
        let (standing, connection) = self.entries.get_mut(&id)?;
        *standing = Standing::Evicted;
        Some(connection.clone())
    }

    /// Queues an evicted connection again, because it has a request to read. Returns the connection
    /// to evict instead, if any. Fails if the connection was rescued before and must close.
    fn rescue(&mut self, id: Id) -> Result<Option<T>, Gone> {
        let (standing, connection) = self.entries.get(&id).ok_or(Gone)?;
        if *standing != Standing::Evicted {
            return Ok(None);
        }
        let connection = connection.clone();
        if !self.rescued.insert(id) {
            return Err(Gone);
        }
        self.wait(id, connection);
        Ok(self.evict())
    }

    /// Admits a connection. Returns false if the limit is reached or the connection is gone.
    fn admit(&mut self, id: Id) -> bool {
        let Some((standing, _)) = self.entries.get_mut(&id) else {
            return false;
        };
        match *standing {
            Standing::Admitted => return true,
            _ if self.admitted >= self.limits.admitted => return false,
            Standing::Waiting(place) => drop(self.order.remove(&place)),
            Standing::Evicted => {}
        }
        *standing = Standing::Admitted;
        self.admitted += 1;
        true
    }

    fn leave(&mut self, id: Id) {
        self.rescued.remove(&id);
        match self.entries.remove(&id) {
            Some((Standing::Waiting(place), _)) => drop(self.order.remove(&place)),
            Some((Standing::Admitted, _)) => self.admitted -= 1,
            Some((Standing::Evicted, _)) | None => {}
        }
    }
}

/// A connection must close.
#[derive(Debug, PartialEq, Eq)]
struct Gone;

/// Tells a connection, on its own thread, whether it is admitted or evicted.
#[derive(Default)]
struct Signal {
    state: AtomicU8,
    waker: AtomicWaker,
}

const WAITING: u8 = 0;
const EVICTED: u8 = 1;
const ADMITTED: u8 = 2;

impl Signal {
    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
    }
}

/// The connections of a server, on all its threads.
pub(crate) struct Connections {
    pub(crate) limits: Limits,
    ledger: Mutex<Ledger<Arc<Signal>>>,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            ledger: Mutex::new(Ledger::new(limits)),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger<Arc<Signal>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a waiting connection.
    pub(crate) fn enter(self: &Arc<Self>) -> Ticket {
        let signal = Arc::<Signal>::default();
        let mut ledger = self.ledger();
        let (id, victim) = ledger.enter(signal.clone());
        end(ledger, victim);
        Ticket {
            id,
            signal,
            connections: self.clone(),
        }
    }

    /// Admits a connection, because its caller has passed every check. Returns false if the limit
    /// on admitted connections is reached.
    pub(crate) fn admit(&self, id: Id) -> bool {
        let mut ledger = self.ledger();
        let is_admitted = ledger.admit(id);
        if is_admitted && let Some((_, signal)) = ledger.entries.get(&id) {
            signal.set(ADMITTED);
        }
        is_admitted
    }
}

/// Tells a connection that it is evicted. Sets the state under the lock, so that the connection
/// can't be admitted at the same time.
fn end(ledger: MutexGuard<'_, Ledger<Arc<Signal>>>, victim: Option<Arc<Signal>>) {
    let Some(victim) = victim else {
        return;
    };
    victim.set(EVICTED);
    drop(ledger);
    victim.waker.wake();
}

/// The entry of one connection. Dropping it removes the entry.
pub(crate) struct Ticket {
    pub(crate) id: Id,
    signal: Arc<Signal>,
    pub(crate) connections: Arc<Connections>,
}

impl Ticket {
    /// Whether the connection is evicted and must close unless it has a request to read. If not,
    /// `waker` is woken when it becomes evicted.
    pub(crate) fn is_evicted(&self, waker: &Waker) -> bool {
        if self.signal.state.load(Ordering::Acquire) == ADMITTED {
            return false;
        }
        self.signal.waker.register(waker);
        self.signal.state.load(Ordering::Acquire) == EVICTED
    }

    /// Rescues an evicted connection, because it has a request to read. Returns false if it was
    /// rescued before.
    pub(crate) fn is_rescued(&self) -> bool {
        let mut ledger = self.connections.ledger();
        let rescued = ledger.rescue(self.id);
        let is_rescued = rescued.is_ok();
        if let Ok(victim) = rescued {
            self.signal.set(WAITING);
            end(ledger, victim);
        }
        is_rescued
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connections.ledger().leave(self.id);
    }
}

/// The connection of a request, for its handlers.
pub(crate) struct ConnectionInfo {
    /// The address that the server listens on.
    pub(super) bound: SocketAddr,
    pub(super) id: Id,
    pub(super) connections: Arc<Connections>,
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    const LIMITS: Limits = Limits {
        admitted: 3,
        waiting: 2,
        closing: 1,
    };

    fn ledger() -> Ledger<&'static str> {
        Ledger::new(LIMITS)
    }

    #[test]
    fn half_of_the_files_are_left_to_the_sandboxes() {
        for files in [256, 512, 1_024, 4_096, 20_000, 1 << 20] {
            let limits = Limits::new(files, usize::MAX);
            let left = files - OWN_FILES - limits.accepted();
            assert!(left >= (files - OWN_FILES) / 2, "{files}: {limits:?}");
            assert!(limits.admitted >= files / 4, "{files}: {limits:?}");
        }
        // Even with too few files, connections are accepted.
        for files in [0, 64, 80] {
            let limits = Limits::new(files, usize::MAX);
            assert_eq!((limits.admitted, limits.waiting), (FEWEST, FEWEST));
        }
        assert_eq!(Limits::new(1 << 20, 100).admitted, 100);
        assert_eq!(Limits::new(1 << 20, 0).admitted, 1);
    }

    #[test]
    fn the_oldest_waiting_connection_goes_and_admitted_ones_stay() {
        let mut ledger = ledger();
        let (a, none) = ledger.enter("a");
        assert_eq!(none, None);
        assert!(ledger.admit(a) && ledger.admit(a));
        let ids: Vec<_> = ["b", "c", "d", "e"]
            .map(|it| ledger.enter(it))
            .into_iter()
            .inspect(|(_, victim)| assert_eq!(*victim, None))
            .collect();
        assert_eq!(ledger.enter("f").1, Some("b"));
        assert!(ledger.admit(ids[1].0));
        assert_eq!(ledger.enter("g").1, Some("d"));
        // The connection that left makes room.
        ledger.leave(ids[3].0);
        assert_eq!(ledger.enter("h").1, None);
    }

    #[test]
    fn admitted_connections_are_limited_and_waiting_ones_kept() {
        let mut ledger = ledger();
        let ids: Vec<_> = (0..3).map(|_| ledger.enter("in").0).collect();
        assert!(ids.iter().all(|id| ledger.admit(*id)));
        let (late, _) = ledger.enter("late");
        assert!(!ledger.admit(late));
        assert_eq!(ledger.enter("later").1, None);
        assert_eq!(ledger.enter("last").1, Some("late"));
        ledger.leave(ids[0]);
        // The connection is evicted, but its request arrived before it closed.
        assert!(ledger.admit(late));
        ledger.leave(late);
        assert!(!ledger.admit(late), "it is gone");
    }

    #[test]
    fn an_evicted_connection_with_a_request_is_rescued_once() {
        let mut ledger = ledger();
        let ids: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|it| ledger.enter(it).0)
            .to_vec();
        assert_eq!(ledger.enter("f").1, Some("a"));
        assert_eq!(ledger.rescue(ids[0]), Ok(Some("b")));
        assert_eq!(ledger.rescue(ids[0]), Ok(None), "it waits");
        for victim in ["c", "d", "e", "f", "a"] {
            assert_eq!(ledger.enter("more").1, Some(victim));
        }
        assert_eq!(ledger.rescue(ids[0]), Err(Gone), "it was rescued before");
        assert_eq!(ledger.rescue(ids[1]), Ok(Some("more")));
    }

    #[test]
    fn a_victim_is_woken_and_an_admitted_connection_is_not_evicted() {
        let connections = Connections::new(LIMITS);
        let waker = noop_waker_ref();
        let first = connections.enter();
        assert!(connections.admit(first.id));
        let second = connections.enter();
        assert!(!second.is_evicted(waker));
        let others: Vec<_> = (0..4).map(|_| connections.enter()).collect();
        assert!(second.is_evicted(waker) && !first.is_evicted(waker));
        assert!(second.is_rescued());
        assert!(!second.is_evicted(waker) && others[0].is_evicted(waker));
        assert!(connections.admit(others[0].id));
        assert!(!others[0].is_evicted(waker));
        drop((first, second, others));
        let ledger = connections.ledger();
        assert_eq!((ledger.entries.len(), ledger.order.len()), (0, 0));
        assert_eq!((ledger.admitted, ledger.rescued.len()), (0, 0));
    }
}
