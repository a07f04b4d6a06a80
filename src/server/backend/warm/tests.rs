//! Tests of the pool with a backend that starts no process.

use std::{io, path::PathBuf};

use futures::future::{BoxFuture, pending};
use tokio::time::Instant;

use super::*;
use crate::{
    inside::process::Started,
    protocol::SandboxLimits,
    server::{backend::job::Job, choice::NamespaceOptions, store::archive::layout::Trees},
};

/// What happens when the pool starts a sandbox.
enum Outcome {
    Works,
    Fails,
    Hangs,
}

use Outcome::{Fails, Hangs, Works};

#[derive(Default)]
struct Log {
    /// The outcomes of the next starts. When the list is empty, starts work.
    next: VecDeque<Outcome>,
    /// When each start began.
    begun: Vec<Instant>,
    deleted: Vec<String>,
    /// The directories of the sandboxes whose agent has ended.
    dead: Vec<String>,
    /// The directories of the sandboxes that got an id, with the id.
    adopted: Vec<(String, String)>,
}

/// A backend that records in a log what the pool does. The channel reports each change.
#[derive(Clone)]
struct Fake(watch::Sender<Log>);

impl Fake {
    fn new(next: impl IntoIterator<Item = Outcome>) -> Self {
        Self(watch::Sender::new(Log {
            next: next.into_iter().collect(),
            ..Log::default()
        }))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        let mut result = None;
        self.0.send_modify(|log| result = Some(change(log)));
        result.unwrap()
    }

    async fn wait_until(&self, condition: impl FnMut(&Log) -> bool) {
        self.0.subscribe().wait_for(condition).await.unwrap();
    }

    fn pool(&self, size: usize) -> WarmPool {
        WarmPool::start(Arc::new(self.clone()), size).unwrap()
    }

    /// A pool that is full.
    async fn full_pool(&self, size: usize) -> WarmPool {
        let pool = self.pool(size);
        fills(&pool).await;
        pool
    }
}

/// Waits until the pool is full, in paused time.
async fn fills(pool: &WarmPool) {
    while pool.counts().ready < pool.counts().size {
        sleep(Duration::from_millis(1)).await;
    }
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn create(
        &self,
        _: &SandboxId,
        _: SandboxLimits,
    ) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn create_warm(
        &self,
        directory: &str,
    ) -> Option<BoxFuture<'_, io::Result<Box<dyn WarmSandbox>>>> {
        let directory = directory.to_owned();
        Some(Box::pin(async move {
            let next = self.change(|log| {
                log.begun.push(Instant::now());
                log.next.pop_front()
            });
            match next.unwrap_or(Works) {
                Works => {
                    let fake = self.clone();
                    Ok(Box::new(FakeSandbox { directory, fake }) as Box<dyn WarmSandbox>)
                }
                Fails => Err(io::Error::other("no space\nleft")),
                Hangs => pending().await,
            }
        }))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct FakeSandbox {
    directory: String,
    fake: Fake,
}

impl BackendSandbox for FakeSandbox {
    fn start(&self, _: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async { Err("no code runs here".to_owned()) })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn trees(&self) -> Trees {
        Trees {
            directory: PathBuf::new(),
            trees: Vec::new(),
        }
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        let directory = self.directory.clone();
        self.fake.change(|log| log.deleted.push(directory));
        Box::pin(async { Ok(()) })
    }
}

impl WarmSandbox for FakeSandbox {
    fn start_agent(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn is_alive(&mut self) -> bool {
        !self.fake.0.borrow().dead.contains(&self.directory)
    }

    fn adopt(self: Box<Self>, id: &SandboxId) -> Arc<dyn BackendSandbox> {
        let adopted = (self.directory.clone(), id.as_str().to_owned());
        self.fake.change(|log| log.adopted.push(adopted));
        Arc::<Self>::from(self)
    }
}

fn counts(pool: &WarmPool) -> (usize, u64, u64) {
    let counts = pool.counts();
    (counts.ready, counts.hits, counts.misses)
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_gets_its_id_and_the_next_one_is_started() {
    let fake = Fake::new([]);
    let pool = fake.full_pool(2).await;
    let begun = Instant::now();
    for (number, id) in ["one", "two", "three"].into_iter().enumerate() {
        assert!(pool.take(&SandboxId::new(id)).is_some());
        fills(&pool).await;
        assert_eq!(counts(&pool), (2, number as u64 + 1, 0));
    }
    let adopted = [("warm.0", "one"), ("warm.1", "two"), ("warm.2", "three")];
    let adopted = adopted.map(|(name, id)| (name.to_owned(), id.to_owned()));
    assert_eq!(fake.0.borrow().adopted, adopted);
    // The pool waits after each create, so that the first exec is not slowed down. It doesn't wait
    // before the first two starts, which fill it.
    assert!(begun.elapsed() >= 3 * REFILL_AFTER);
    let starts = fake.0.borrow().begun.clone();
    assert_eq!((starts.len(), starts[0]), (5, starts[1]));
}

#[tokio::test(start_paused = true)]
async fn a_create_that_finds_an_empty_pool_does_not_wait() {
    let fake = Fake::new([Works, Hangs]);
    let pool = fake.full_pool(1).await;
    assert!(pool.take(&SandboxId::new("one")).is_some());
    for misses in 1..4 {
        assert!(pool.take(&SandboxId::new("two")).is_none());
        assert_eq!(counts(&pool), (0, 1, misses));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_double_the_pause_and_a_success_resets_it() {
    let fails = std::iter::repeat_with(|| Fails).take(8);
    let fake = Fake::new(fails.chain([Works, Fails]));
    let pool = fake.pool(2);
    fake.wait_until(|log| log.begun.len() == 11).await;
    let begun = fake.0.borrow().begun.clone();
    let pauses = begun.windows(2).map(|pair| (pair[1] - pair[0]).as_millis());
    let expected = [
        500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 0, 500,
    ];
    // The timer of tokio adds up to a millisecond.
    let pauses: Vec<_> = pauses.map(|millis| millis / 10 * 10).collect();
    assert_eq!(pauses, expected);
    fills(&pool).await;
    assert_eq!(counts(&pool), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn dead_sandboxes_are_deleted_and_not_handed_out() {
    let fake = Fake::new([]);
    let pool = fake.full_pool(3).await;
    let dead = ["warm.0", "warm.1"].map(str::to_owned);
    fake.change(|log| log.dead.extend(dead.clone()));
    assert!(pool.take(&SandboxId::new("one")).is_some());
    assert_eq!(fake.0.borrow().adopted[0].0, "warm.2");
    fake.wait_until(|log| log.deleted == dead).await;
    fills(&pool).await;
    assert_eq!(counts(&pool), (3, 1, 0));

    let dead = ["warm.3", "warm.4", "warm.5"].map(str::to_owned);
    fake.change(|log| log.dead.extend(dead));
    assert!(pool.take(&SandboxId::new("two")).is_none());
    fills(&pool).await;
    assert_eq!(counts(&pool), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_deletes_every_sandbox_once() {
    let fake = Fake::new([]);
    let pool = fake.full_pool(4).await;
    fake.change(|log| log.dead.push("warm.0".to_owned()));
    drop(pool.take(&SandboxId::new("one")));
    pool.close().await;
    pool.close().await;
    let log = fake.0.borrow();
    let mut deleted = log.deleted.clone();
    deleted.sort_unstable();
    assert_eq!(deleted, ["warm.0", "warm.2", "warm.3"]);
    assert_eq!(log.begun.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_pause_after_a_failure() {
    let fake = Fake::new([Fails]);
    let pool = fake.pool(1);
    fake.wait_until(|log| log.begun.len() == 1).await;
    let begun = Instant::now();
    pool.close().await;
    assert!(begun.elapsed() < FIRST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_starts_during_the_close_is_deleted() {
    let fake = Fake::new([]);
    let pool = fake.pool(2);
    let shared = pool.shared.clone();
    assert!(shared.close().is_empty());
    let directory = "late".to_owned();
    let late = FakeSandbox {
        directory,
        fake: fake.clone(),
    };
    assert!(shared.put(Box::new(late)).is_some());
    pool.close().await;
    assert_eq!(counts(&pool), (0, 0, 0));
}

#[test]
fn wrong_sizes_and_the_host_are_refused() {
    let namespace = choice::Backend::Namespace(NamespaceOptions::default());
    for (size, backend, says) in [
        (
            1_001,
            &namespace,
            "`warm` is 1001, which is too large: the maximum is 1000",
        ),
        (1_001, &choice::Backend::Host, "the maximum is 1000"),
        (1, &choice::Backend::Host, "`.backend(Backend::Confined)`"),
    ] {
        let error = check(size, backend).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for (size, backend) in [
        (0, choice::Backend::Host),
        (1_000, namespace),
        (1, choice::Backend::Auto),
        (1, choice::Backend::Confined),
    ] {
        check(size, &backend).unwrap();
    }
}
