//! A broker and workers, as processes that a test starts, kills and restarts.

use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_nats::{
    Subscriber,
    jetstream::{self, Context, consumer::PullConsumer},
};
use futures::StreamExt;
use tokio::{
    net::TcpSocket,
    process::{Child, Command},
};

/// The program with the subcommands `submit`, `worker` and `results`.
const JOBS: &str = env!("CARGO_BIN_EXE_jobs");

/// How many attempts a job gets.
pub const ATTEMPTS: &str = "4";

/// Whether `nats-server` is installed. If CI says that it must be, its absence is a failure.
pub fn has_nats_server() -> bool {
    let mut version = std::process::Command::new("nats-server");
    let found = version.arg("--version").output().is_ok();
    assert!(
        found || std::env::var_os("CI_BACKENDS").is_none(),
        "nats-server is not installed, and CI_BACKENDS requires it"
    );
    if !found {
        println!("skipped: nats-server is not installed (`apt-get install nats-server`)");
    }
    found
}

/// Far longer than any step takes.
const LONG: Duration = Duration::from_secs(300);

/// Fails the test if something takes longer than [`LONG`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG, future).await;
    done.unwrap_or_else(|_| panic!("{what} takes longer than {LONG:?}"))
}

/// Pseudo-random numbers (SplitMix64). The same seed gives the same numbers.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A `nats-server` with JetStream, and the test's own connection to it.
pub struct Broker {
    server: Child,
    port: u16,
    /// Keeps the port while the broker restarts.
    _reserved: TcpSocket,
    store: PathBuf,
    jetstream: Context,
    /// A message for each attempt to publish a result.
    published: Subscriber,
}

impl Broker {
    pub async fn start(store: &Path) -> Self {
        let reserved = TcpSocket::new_v4().expect("a socket");
        reserved.set_reuseaddr(true).expect("set");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        reserved.bind(any).expect("a free port");
        let port = reserved.local_addr().expect("an address").port();
        let mut server = spawn_server(port, store);
        let client = within("the broker", async {
            loop {
                match async_nats::connect(url(port)).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                assert!(
                    server.try_wait().expect("a state").is_none(),
                    "the broker exited"
                );
            }
        })
        .await;
        let published = client.subscribe("results.*").await.expect("subscribed");
        Self {
            server,
            port,
            _reserved: reserved,
            store: store.to_owned(),
            jetstream: jetstream::new(client),
            published,
        }
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Stops the broker with SIGTERM, and starts it again on the same port and directory.
    pub async fn restart(&mut self) {
        let server = self.server.id().expect("it runs").to_string();
        let mut kill = Command::new("kill");
        let killed = kill.arg(&server).status().await.expect("kill");
        assert!(killed.success());
        within("the stop", self.server.wait())
            .await
            .expect("stopped");
        self.server = spawn_server(self.port, &self.store);
    }

    /// Runs a subcommand of the example, and returns what it printed.
    pub async fn jobs(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(JOBS);
        let command = command.args(arguments).env("NATS_URL", self.url());
        let output = within(arguments[0], command.stderr(Stdio::inherit()).output()).await;
        let output = output.expect("started");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits until this many results are stored.
    pub async fn wait_for_results(&mut self, results: u64, worker: &mut Worker) {
        let what = format!("result {results}");
        self.wait(&what, worker, async |jetstream| {
            let stream = jetstream.get_stream("results").await.ok()?;
            (stream.cached_info().state.messages >= results).then_some(())
        })
        .await;
    }

    /// Waits until all jobs are acknowledged.
    pub async fn wait_for_empty_queue(&mut self, worker: &mut Worker) {
        self.wait("the end of the queue", worker, async |jetstream| {
            let stream = jetstream.get_stream("jobs").await.ok()?;
            (stream.cached_info().state.messages == 0).then_some(())
        })
        .await;
    }

    /// Waits until the condition is met. Checks it after each publication. The timeout is for
    /// publications that this connection misses while the broker restarts.
    async fn wait(
        &mut self,
        what: &str,
        worker: &mut Worker,
        is_met: impl AsyncFn(&Context) -> Option<()>,
    ) {
        let mut within_limit = std::pin::pin!(tokio::time::sleep(LONG));
        while is_met(&self.jetstream).await.is_none() {
            worker.assert_runs();
            let next = tokio::time::timeout(Duration::from_millis(100), self.published.next());
            tokio::select! {
                _ = next => {}
                _ = &mut within_limit => panic!("{what} takes too long; {}", worker.log()),
            }
        }
    }

    async fn workers(&self) -> jetstream::consumer::Info {
        let stream = self.jetstream.get_stream("jobs").await.expect("a stream");
        let workers: PullConsumer = stream.get_consumer("workers").await.expect("a consumer");
        workers.cached_info().clone()
    }

    /// How many messages the broker has delivered to workers.
    pub async fn deliveries(&self) -> u64 {
        self.workers().await.delivered.consumer_sequence
    }

    /// How many of them were not the first delivery of their job.
    pub async fn redeliveries(&self) -> u64 {
        let delivered = self.workers().await.delivered;
        delivered.consumer_sequence - delivered.stream_sequence
    }
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

fn spawn_server(port: u16, store: &Path) -> Child {
    Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(store)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nats-server")
}

/// A worker. Its stderr is appended to a file.
pub struct Worker(Child, PathBuf);

impl Worker {
    pub fn start(broker: &Broker, service: &str, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let worker = Command::new(JOBS)
            .arg("worker")
            .env("NATS_URL", broker.url())
            .env("SANDBOX_URL", service)
            .env("JOB_ATTEMPTS", ATTEMPTS)
            .stderr(file.expect("a log"))
            .kill_on_drop(true)
            .spawn();
        Self(worker.expect("a worker"), log.to_owned())
    }

    /// Kills the worker with SIGKILL.
    pub async fn kill(mut self) {
        self.assert_runs();
        self.0.kill().await.expect("killed");
    }

    fn assert_runs(&mut self) {
        let ended = self.0.try_wait().expect("a state");
        assert!(
            ended.is_none(),
            "the worker ended by itself; {}",
            self.log()
        );
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.1).unwrap_or_default();
        format!("the log of the workers:\n{log}")
    }
}
