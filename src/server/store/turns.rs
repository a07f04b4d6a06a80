//! [`Turns`]: runs the long operations of the store, each on its own thread.
//!
//! - At most [`AT_ONCE`] operations run at the same time. After about a [`QUANTUM`] of work, an
//!   operation yields to the one that has waited longest. [`Queue`] decides which operations run;
//!   it uses neither threads nor time.
//! - At most [`MAX_THREADS`] operations take turns. A small one among them never waits for a large
//!   one to finish. Further operations wait, in the order in which they came, until one ends.
//! - At safe points, an operation calls [`Turn::check`]. The call blocks while others have the
//!   turn. It fails if the time limit is exceeded or the operation's [`Stop`] was told to stop.
//! - If the thread of an operation hangs in a system call, the operation still ends for its caller.
//!   The thread lives until the call returns, and counts towards [`MAX_THREADS`].

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use futures::future::select_all;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{Instant, sleep, timeout},
};

/// Maximum number of operations that work at the same time.
const AT_ONCE: usize = 4;

/// Maximum number of operations that have a thread, including those that pause or hang. Later
/// operations wait until one ends. This bounds the memory and the open files, which a pausing
/// operation keeps.
const MAX_THREADS: usize = 64;

/// How long an operation works before it gives its turn to one that waits.
const QUANTUM: Duration = Duration::from_millis(100);

/// How long to wait for a stopped operation to reach a safe point before its thread is abandoned.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// Tells operations to stop, from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    reason: Arc<str>,
    stopped: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new("it was given up, because the sandbox is being checkpointed or deleted")
    }
}

impl Stop {
    /// `reason` becomes the error of the operations that it stops.
    fn new(reason: impl Into<Arc<str>>) -> Self {
        Self {
            reason: reason.into(),
            stopped: Arc::new(watch::Sender::new(false)),
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Fails once [`stop`](Self::stop) was called.
    pub(super) fn check(&self) -> io::Result<()> {
        match *self.stopped.borrow() {
            true => Err(io::Error::other(&*self.reason)),
            false => Ok(()),
        }
    }

    /// Resolves once [`stop`](Self::stop) was called.
    async fn stopped(&self) {
        // This cannot fail: the sender lives in `self`.
        let _ = self.stopped.subscribe().wait_for(|&stop| stop).await;
    }
}

/// Permission for one operation to work.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stops: Vec<Stop>,
    /// `None` if the operation never has to wait.
    place: Option<Place>,
}

impl Turn {
    /// A turn that never pauses, and fails once one of these stops.
    #[cfg(test)]
    pub(super) fn until(stops: Vec<Stop>) -> Self {
        Self(Arc::new(Inner { stops, place: None }))
    }

    /// Marks a safe point. Blocks if the quantum of this turn is used up and others wait. The error
    /// says why the operation must end.
    pub(super) fn check(&self) -> io::Result<()> {
        self.check_stops()?;
        if self.is_over()
            && let Some(place) = &self.0.place
        {
            place.pause();
            self.check_stops()?;
        }
        Ok(())
    }

    /// Whether [`check`](Self::check) may block, because the operation has used up its quantum.
    pub(super) fn is_over(&self) -> bool {
        let place = self.0.place.as_ref();
        place.is_some_and(|place| place.began.get().elapsed() >= QUANTUM)
    }

    /// Waits for the first turn.
    fn begin(&self) -> io::Result<()> {
        if let Some(place) = &self.0.place {
            place.wait(place.shared.queue());
        }
        self.check_stops()
    }

    /// Like [`check`](Self::check), but never blocks.
    pub(super) fn check_stops(&self) -> io::Result<()> {
        self.0.stops.iter().try_for_each(Stop::check)
    }

    /// Resolves once the operation has to end.
    #[cfg(feature = "object-store")]
    pub(super) async fn stopped(&self) {
        stopped(&self.0.stops).await;
    }
}

async fn stopped(stops: &[Stop]) {
    match stops.is_empty() {
        true => std::future::pending().await,
        false => drop(select_all(stops.iter().map(|stop| Box::pin(stop.stopped()))).await),
    }
}

/// The place of an operation in the queue. Dropping it removes the operation from the queue.
struct Place {
    id: u64,
    shared: Arc<Shared>,
    began: Began,
}

/// When the operation got its turn.
struct Began(Mutex<Instant>);

impl Began {
    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Place {
    /// Gives the turn to the operation that has waited longest, and waits for the next one.
    fn pause(&self) {
        let mut queue = self.shared.queue();
        if queue.pass_on(self.id) {
            self.shared.changed.notify_all();
        }
        self.wait(queue);
    }

    /// Waits for a turn, or until the operation was stopped and lost its place.
    fn wait(&self, mut queue: MutexGuard<'_, Queue>) {
        while queue.is_waiting(self.id) {
            queue = self
                .shared
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.began.now();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, id: u64) {
        self.queue().leave(id);
        self.changed.notify_all();
    }
}

/// The operations that run, and those that wait, the next one first.
#[derive(Default)]
struct Queue {
    last: u64,
    active: Vec<u64>,
    waiting: VecDeque<u64>,
}

impl Queue {
    /// Adds an operation, which runs at once if there is room. Returns its id.
    fn enter(&mut self) -> u64 {
        self.last += 1;
        self.waiting.push_back(self.last);
        self.fill();
        self.last
    }

    fn is_waiting(&self, id: u64) -> bool {
        self.waiting.contains(&id)
    }

    /// Gives the turn of this operation to the one that has waited longest. Returns false if none
    /// waits.
    fn pass_on(&mut self, id: u64) -> bool {
        let is_active = self.active.contains(&id);
        if !is_active || self.waiting.is_empty() {
            return false;
        }
        self.waiting.push_back(id);
        self.active.retain(|&active| active != id);
        self.fill();
        true
    }

    fn leave(&mut self, id: u64) {
        self.active.retain(|&active| active != id);
        self.waiting.retain(|&waiting| waiting != id);
        self.fill();
    }

    fn fill(&mut self) {
        while self.active.len() < AT_ONCE
            && let Some(next) = self.waiting.pop_front()
        {
            self.active.push(next);
        }
    }
}

/// Runs operations on threads, with a time limit and fair scheduling.
pub(super) struct Turns {
    shared: Arc<Shared>,
    threads: Arc<Semaphore>,
    limit: Duration,
    closed: Stop,
}

impl Turns {
    /// `limit` is the time limit of each operation, including the time that it waits.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            shared: Arc::default(),
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
            limit,
            closed: Stop::default(),
        }
    }

    /// Stops every operation, also later ones.
    pub(super) fn close(&self) {
        self.closed.stop();
    }

    /// Runs an operation on a thread, until it ends, `stop` is called or the time limit is
    /// exceeded. If the returned future is dropped, the work ends at the next safe point.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        stop: Stop,
        work: impl FnOnce(&Turn) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let late = OnDrop(Stop::new(self.late()));
        let stops = vec![stop, self.closed.clone(), late.0.clone()];
        let mut deadline = std::pin::pin!(sleep(self.limit));
        let thread = tokio::select! {
            biased;
            () = stopped(&stops) => return Err(why(&stops)),
            thread = self.threads.clone().acquire_owned() => thread.map_err(io::Error::other)?,
            () = &mut deadline => return Err(io::Error::other(self.late())),
        };
        let id = self.shared.queue().enter();
        let turn = Turn(Arc::new(Inner {
            stops: stops.clone(),
            place: Some(Place {
                id,
                shared: self.shared.clone(),
                began: Began(Mutex::new(Instant::now())),
            }),
        }));
        let (report, mut done) = oneshot::channel();
        thread::Builder::new()
            .name("actix-sandbox-store".to_owned())
            .spawn(move || {
                let _thread = thread;
                let result = turn.begin().and_then(|()| work(&turn));
                drop(turn);
                let _ = report.send(result);
            })?;
        tokio::select! {
            biased;
            result = &mut done => return result.map_err(io::Error::other)?,
            () = stopped(&stops) => {}
            () = &mut deadline => late.0.stop(),
        }
        // Another operation gets the turn, even if this one hangs.
        self.shared.leave(id);
        match timeout(STOPS_WITHIN, done).await {
            // It finished just before it was stopped.
            Ok(Ok(Ok(result))) => Ok(result),
            _ => Err(why(&stops)),
        }
    }

    /// The error of an operation that exceeds the time limit.
    pub(super) fn late(&self) -> String {
        let seconds = self.limit.as_secs_f64();
        format!(
            "it took longer than {seconds} seconds, the time limit of this server (`store_timeout`)"
        )
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }
}

/// Why one of these stops ended an operation.
fn why(stops: &[Stop]) -> io::Error {
    let stopped = stops.iter().find_map(|stop| stop.check().err());
    stopped.unwrap_or_else(|| io::Error::other("the operation ended without a result"))
}

/// Stops when it is dropped.
struct OnDrop(Stop);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    };

    use super::*;

    #[test]
    fn the_turn_goes_to_the_one_that_has_waited_longest() {
        let mut queue = Queue::default();
        let ids: Vec<_> = (0..AT_ONCE + 2).map(|_| queue.enter()).collect();
        let (working, waiting) = ids.split_at(AT_ONCE);
        assert!(working.iter().all(|&id| !queue.is_waiting(id)));
        assert!(waiting.iter().all(|&id| queue.is_waiting(id)));

        assert!(queue.pass_on(working[0]));
        assert!(!queue.is_waiting(waiting[0]) && queue.is_waiting(working[0]));
        queue.leave(working[1]);
        assert!(!queue.is_waiting(waiting[1]) && queue.is_waiting(working[0]));
        queue.leave(waiting[0]);
        assert!(!queue.is_waiting(working[0]));
        assert!(!queue.pass_on(working[0]), "none waits");
        assert!(!queue.pass_on(working[1]), "it has left");
        assert_eq!(queue.active.len(), AT_ONCE);
    }

    /// More endless operations than work at the same time, and one short one after them.
    #[tokio::test]
    async fn a_short_operation_overtakes_endless_ones() {
        let turns = Turns::new(Duration::from_secs(3600));
        let (stop, ended) = (Stop::default(), Arc::new(AtomicBool::new(false)));
        let (begun, all_begun) = mpsc::sync_channel(2 * AT_ONCE);
        let endless = (0..2 * AT_ONCE).map(|_| {
            let (begun, ended) = (begun.clone(), ended.clone());
            turns.run(stop.clone(), move |turn| -> io::Result<()> {
                begun.send(()).unwrap();
                let error = loop {
                    if let Err(error) = turn.check() {
                        break error;
                    }
                    thread::yield_now();
                };
                ended.store(true, Ordering::SeqCst);
                Err(error)
            })
        });
        let endless = futures::future::join_all(endless);
        let short = async {
            // All others have had a turn, so they were not merely slow to begin.
            tokio::task::spawn_blocking(move || all_begun.iter().take(2 * AT_ONCE).count())
                .await
                .unwrap();
            let ended_before = turns.run(Stop::default(), move |turn| {
                turn.check()?;
                Ok(ended.load(Ordering::SeqCst))
            });
            assert!(!ended_before.await.unwrap());
            stop.stop();
        };
        let (results, ()) = futures::future::join(endless, short).await;
        for result in results {
            assert!(result.unwrap_err().to_string().contains("given up"));
        }
        assert!(turns.shared.queue().active.is_empty());
    }

    #[tokio::test]
    async fn a_hung_operation_ends_for_its_caller_and_frees_its_turn() {
        let turns = Turns::new(Duration::from_millis(50));
        let (go_on, hangs) = mpsc::sync_channel::<()>(1);
        let hangs = Arc::new(Mutex::new(hangs));
        let hung = (0..AT_ONCE).map(|_| {
            let hangs = hangs.clone();
            turns.run(Stop::default(), move |turn| {
                let _ = hangs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                turn.check()
            })
        });
        for result in futures::future::join_all(hung).await {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("`store_timeout`"), "{error}");
        }
        let mut free = None;
        for _ in 0..100 {
            // On a busy machine, its thread may start only after the limit of 50 ms.
            free = turns.run(Stop::default(), |_| Ok(7)).await.ok();
            if free.is_some() {
                break;
            }
        }
        assert_eq!(free, Some(7));
        drop(go_on);
    }

    #[tokio::test]
    async fn an_operation_that_waits_is_stopped_without_a_turn() {
        let turns = Turns::new(Duration::from_secs(3600));
        let all = turns.threads.clone().acquire_many_owned(MAX_THREADS as u32);
        let all = all.await.unwrap();
        let stop = Stop::default();
        let mut waits = std::pin::pin!(turns.run(stop.clone(), |_| Ok(())));
        assert!(futures::poll!(&mut waits).is_pending());
        stop.stop();
        assert!(waits.await.is_err());
        let mut waits = std::pin::pin!(turns.run(Stop::default(), |_| Ok(())));
        assert!(futures::poll!(&mut waits).is_pending());
        turns.close();
        assert!(waits.await.is_err());
        drop(all);
        assert!(turns.run(Stop::default(), |_| Ok(())).await.is_err());
    }
}
