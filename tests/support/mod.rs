//! Helpers that the tests share.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

pub(crate) mod archives;
pub(crate) mod backend;
#[cfg(all(unix, feature = "cli"))]
pub(crate) mod cli;
#[cfg(feature = "object-store")]
pub(crate) mod gate;
#[cfg(feature = "object-store")]
pub(crate) mod moto;
pub(crate) mod port;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod raw_client;
pub(crate) mod recording;
pub(crate) mod scripted;
pub(crate) mod server_process;
#[cfg(unix)]
pub(crate) mod starting;
pub(crate) mod tmux;

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use actix_sandbox::{
    ErrorKind, ExistingSandbox, LocalServer, ProtocolVersion, ReconnectPolicy, Sandbox,
    SandboxBuilder, SandboxEvent, SandboxId, SandboxToken, TransferProgress,
};
use tokio::sync::mpsc;

/// Far longer than any step takes. A test that waits longer fails instead of hanging.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Awaits a future. Panics with the name of the step after [`LONG`].
pub(crate) fn within<T>(
    what: &str,
    future: impl IntoFuture<Output = T>,
) -> impl Future<Output = T> {
    limited(LONG, what, future)
}

/// Like [`within`], with five times the limit: for steps that take seconds even on an idle machine.
pub(crate) fn within_long<T>(
    what: &str,
    future: impl IntoFuture<Output = T>,
) -> impl Future<Output = T> {
    limited(5 * LONG, what, future)
}

async fn limited<T>(limit: Duration, what: &str, future: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Whether the tests lift their sandboxes: `LIFT=1` makes the same tests use v1 and the lift
/// instead of v2.
pub(crate) fn is_lifted() -> bool {
    std::env::var_os("LIFT").is_some()
}

/// A builder of a new sandbox. With `LIFT=1`, the sandbox is lifted.
pub(crate) fn create(url: &str) -> SandboxBuilder {
    lift_if_asked(Sandbox::create(url))
}

fn lift_if_asked<S>(builder: SandboxBuilder<S>) -> SandboxBuilder<S> {
    match is_lifted() {
        true => lift(builder),
        false => builder,
    }
}

/// A builder that attaches to a sandbox of [`create`].
pub(crate) fn attach(
    url: &str,
    id: &SandboxId,
    token: &SandboxToken,
) -> SandboxBuilder<ExistingSandbox> {
    lift_if_asked(Sandbox::attach(url, id.clone(), token.clone()))
}

/// Attaches as soon as the server has noticed that the previous client is gone.
pub(crate) async fn attach_when_free(builder: SandboxBuilder<ExistingSandbox>) -> Sandbox {
    within("the attach", async {
        loop {
            match builder.clone().await {
                Err(error) if error.kind() == ErrorKind::InUse => tokio::task::yield_now().await,
                attached => break attached.expect("attached"),
            }
        }
    })
    .await
}

/// A builder whose timeouts are as long as those of the tests, so that a busy machine fails no
/// test. With `LIFT=1`, the sandbox is lifted.
pub(crate) fn patient(url: &str) -> SandboxBuilder {
    with_patience(create(url))
}

fn with_patience(builder: SandboxBuilder) -> SandboxBuilder {
    builder
        .connect_timeout(LONG)
        .create_timeout(LONG)
        .exec_timeout(LONG)
        .kill_timeout(LONG)
        .store_timeout(LONG)
}

/// Lifts the sandbox of a builder. The client doesn't offer v2, so every server speaks v1.
pub(crate) fn lift<S>(builder: SandboxBuilder<S>) -> SandboxBuilder<S> {
    builder.max_protocol_version(ProtocolVersion::V1).lift(true)
}

/// A builder of a new sandbox that is lifted.
pub(crate) fn lifted(url: &str) -> SandboxBuilder {
    lift(Sandbox::create(url))
}

/// A policy that redials every few milliseconds, and gives up only after a long time.
pub(crate) fn eager() -> ReconnectPolicy {
    ReconnectPolicy {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(50),
        max_elapsed: Some(LONG),
        ..ReconnectPolicy::default()
    }
}

/// How many bytes the first link of a sandbox carries up and down, at most, until the sandbox runs.
/// The client doesn't retry a lost create, so tests cut the first link later. The lift sends its
/// program first.
pub(crate) fn until_it_runs() -> [u64; 2] {
    match is_lifted() {
        true => [500_000, 4_000],
        false => [900; 2],
    }
}

/// Creates a sandbox through a proxy with these plans: see [`Proxy::start`](proxy::Proxy::start).
/// The client redials at once when a link is lost.
pub(crate) async fn sandbox_behind(
    server: &LocalServer,
    planner: impl Fn(usize) -> proxy::Plan + Send + Sync + 'static,
) -> (proxy::Proxy, Sandbox) {
    let proxy = proxy::Proxy::start_unrecorded(server, planner).await;
    let sandbox = patient(&proxy.url())
        .auto_reconnect(true)
        .reconnect_policy(eager())
        .await
        .expect("a sandbox");
    (proxy, sandbox)
}

/// Starts a local server and creates a sandbox on it.
pub(crate) async fn sandbox() -> (LocalServer, Sandbox) {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = patient(server.url()).await.expect("a sandbox");
    (server, sandbox)
}

/// Like [`sandbox`], on a backend whose processes this machine sees.
pub(crate) async fn visible_sandbox() -> (LocalServer, Sandbox) {
    let server = backend::with_visible_processes().start().await;
    let server = server.expect("a local server");
    let sandbox = patient(server.url()).await.expect("a sandbox");
    (server, sandbox)
}

/// Both versions of the protocol.
pub(crate) const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];

/// Like [`sandbox`], with a link that speaks this version of the protocol.
pub(crate) async fn sandbox_of(version: ProtocolVersion) -> (LocalServer, Sandbox) {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = with_patience(Sandbox::create(server.url()))
        .max_protocol_version(version)
        .await
        .expect("a sandbox");
    let spoken = sandbox.protocol_version();
    assert_eq!(spoken, version);
    (server, sandbox)
}

/// Sends a signal to a child of this process, for example `INT`.
#[cfg(unix)]
pub(crate) fn send_signal(pid: u32, signal: &str) {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let signal: Signal = format!("SIG{signal}").parse().unwrap();
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Collects the events of a sandbox.
pub(crate) struct Events(mpsc::Sender<SandboxEvent>);

impl Actor for Events {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(10_000);
    }
}

impl Handler<SandboxEvent> for Events {
    type Result = ();

    fn handle(&mut self, event: SandboxEvent, _: &mut Self::Context) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.try_send(event) {
            panic!("the test does not read its events");
        }
    }
}

/// Subscribes to the events of a sandbox.
pub(crate) async fn events(sandbox: &Sandbox) -> mpsc::Receiver<SandboxEvent> {
    let (sender, receiver) = mpsc::channel(10_000);
    let recipient = Events(sender).start().recipient();
    sandbox.subscribe(recipient).await.expect("subscribed");
    receiver
}

/// Raises this process's limit on open files. Many shells allow only 1024.
#[cfg(unix)]
pub(crate) fn allow_open_files(wanted: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    assert!(
        hard >= wanted,
        "this test needs {wanted} open files, and this user may have {hard} (ulimit -Hn)"
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).expect("a higher limit");
    }
}

/// Resident memory of this process, in bytes.
#[cfg(target_os = "linux")]
pub(crate) fn resident_memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: usize = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("statm");
    pages * 4096
}

/// Samples the memory of this process, which is that of client and server, at each MiB of a
/// transfer. Keeps the largest sample.
#[cfg(target_os = "linux")]
pub(crate) fn memory_sampler(
    largest: &Arc<AtomicU64>,
) -> impl FnMut(TransferProgress) + Send + use<> {
    let (largest, mut next) = (largest.clone(), 0);
    move |progress| {
        if progress.bytes >= next {
            next = progress.bytes + (1 << 20);
            largest.fetch_max(resident_memory() as u64, Ordering::Relaxed);
        }
    }
}

/// The processes whose command line contains this text, each as `PID: COMMAND LINE`.
#[cfg(target_os = "linux")]
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(text).then(|| format!("{pid}: {line}"))
        })
        .collect()
}

/// A suspended watchdog of a server. The server can't finish its shutdown until this is dropped.
#[cfg(target_os = "linux")]
pub(crate) struct SuspendedWatchdog(String);

#[cfg(target_os = "linux")]
impl SuspendedWatchdog {
    /// Suspends the watchdog of the server that has this directory.
    pub(crate) fn of(directory: &std::path::Path) -> Self {
        let watchdogs = processes_with("actix-sandbox-watchdog");
        let directory = directory.to_str().unwrap();
        let watchdog = watchdogs.iter().find(|it| it.contains(directory)).unwrap();
        let (pid, _) = watchdog.split_once(':').unwrap();
        let suspended = Self(pid.to_owned());
        assert!(suspended.signal("STOP"));
        suspended
    }

    fn signal(&self, signal: &str) -> bool {
        let mut kill = std::process::Command::new("kill");
        let sent = kill.args(["-s", signal, &self.0]).status();
        sent.is_ok_and(|status| status.success())
    }
}

#[cfg(target_os = "linux")]
impl Drop for SuspendedWatchdog {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}
