//! State in a bucket: local servers in separate processes share only the storage, a bucket in moto
//! (an S3 emulator that the tests start) or a `file://` URL.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    time::Duration,
};

use actix_sandbox::{
    Effect, Error, ErrorKind, Language, LocalServer, ProcessEnd, Sandbox, SandboxBuilder,
    SandboxEnd,
};
use futures::StreamExt;
use support::{
    LONG,
    gate::Gate,
    moto::{self, Moto, SECRET},
    port::Port,
    server_process::{self, ServerProcess},
    within,
};

/// The variable that makes [`a_server_process_of_its_own`] a server.
const STATE: &str = "ACTIX_SANDBOX_TEST_STATE_URL";

/// Random bytes, which don't compress: the upload takes more than one part.
const NOISE: &str = "head -c 20000000 /dev/urandom > noise; sha256sum noise";

/// Not a test: tests start this binary again, and this function is the server in the new process.
/// It prints its URL and serves until stdin ends.
#[test]
fn a_server_process_of_its_own() {
    let Ok(state) = std::env::var(STATE) else {
        return;
    };
    server_process::serve(
        LocalServer::builder()
            .state_url(state)
            .handoff_lease(Duration::from_secs(20)),
    );
}

/// Starts a server with its state at a URL, and S3 at this endpoint.
fn start(state: &str, endpoint: SocketAddr) -> ServerProcess {
    let mut command = server_process::command("a_server_process_of_its_own");
    ServerProcess::start(moto::with_credentials(command.env(STATE, state), endpoint))
}

/// Two servers on one storage.
fn two_servers(state: &str) -> [ServerProcess; 2] {
    [(); 2].map(|()| start(state, Moto::shared().address))
}

fn checkpointable(server: &ServerProcess) -> SandboxBuilder {
    Sandbox::create(server.url()).enable_sandbox_checkpoint(true)
}

async fn create_for_handoff(server: &ServerProcess) -> Sandbox {
    let builder = checkpointable(server).enable_sandbox_handoff(true);
    within("a sandbox", builder).await.expect("a sandbox")
}

async fn attach(server: &ServerProcess, old: &Sandbox) -> Result<Sandbox, Error> {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    within("the attach", Sandbox::attach(server.url(), id, token)).await
}

async fn bash(sandbox: &Sandbox, code: &str) -> String {
    let output = within("the run", sandbox.run(Language::Bash, code)).await;
    output.expect("ran").stdout_lossy().into_owned()
}

/// One server stores a snapshot and a checkpoint and is killed. A server that only shares the
/// storage restores both.
async fn archives_come_back_elsewhere(state: &str) {
    let [first, second] = two_servers(state);
    let sandbox = checkpointable(&first).await.expect("a sandbox");
    let sum = bash(&sandbox, NOISE).await;
    let snapshot = sandbox.snapshot_filesystem("prepared");
    within("the snapshot", snapshot).await.expect("stored");
    bash(&sandbox, "echo more > file").await;
    within("the checkpoint", sandbox.checkpoint())
        .await
        .expect("stored");
    first.kill();

    let prepared = Sandbox::create(second.url()).filesystem_snapshot_name("prepared");
    let prepared = within("the creation", prepared).await.expect("a sandbox");
    assert_eq!(
        bash(&prepared, "sha256sum noise; ls").await,
        sum.clone() + "noise\n"
    );
    let restored = attach(&second, &sandbox).await.expect("restored");
    assert_eq!(
        bash(&restored, "sha256sum noise; cat file").await,
        sum + "more\n"
    );

    let none = Sandbox::create(second.url()).filesystem_snapshot_name("missing");
    let error = within("the creation", none).await.expect_err("none");
    let reason = error.server_reason().expect("a reason");
    assert!(reason.contains("not found: 'missing'"), "{reason}");
    restored.kill().await.expect("killed");
    let gone = attach(&second, &sandbox).await.expect_err("gone");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// Two servers hand a sandbox back and forth, with its files and the output of its processes.
async fn a_sandbox_goes_to_and_fro(state: &str) -> Sandbox {
    let servers = two_servers(state);
    let mut holder = create_for_handoff(&servers[0]).await;
    let mut expected = String::new();
    for turn in 1..=4 {
        bash(&holder, &format!("echo {turn} >> file")).await;
        expected += &format!("{turn}\n");
        let code = "seq 1 20000; echo written >&2; sleep 1000";
        let process = holder.exec(Language::Bash, code).await;
        let process = process.expect("started");
        let written = within("stderr", process.stderr().next()).await;
        assert_eq!(written.expect("some").expect("no gap"), "written\n");
        let lines: String = (1..=20_000).map(|line| format!("{line}\n")).collect();
        let next = attach(&servers[turn % 2], &holder).await.expect("attached");
        assert_eq!(
            within("its end", process.wait()).await.expect("an end"),
            ProcessEnd::SandboxLost {
                end: SandboxEnd::HandedOff
            }
        );
        let output = within("its output", process.stdout().read_all()).await;
        assert!(
            output.expect("whole") == lines,
            "output is what was written"
        );
        let late = holder.exec(Language::Bash, "echo mine").await;
        assert_eq!(late.expect_err("taken").kind(), ErrorKind::WrongState);
        assert_eq!(bash(&next, "cat file").await, expected);
        holder = next;
    }
    within("the end", holder.kill()).await.expect("killed");
    holder
}

#[actix::test]
async fn archives_come_back_on_a_server_that_shares_a_bucket() {
    let bucket = Moto::shared().bucket("archives");
    archives_come_back_elsewhere(&bucket.url("pre/fix")).await;
    // Only the snapshot and the secret of the servers remain.
    assert_eq!(
        bucket.names(),
        [
            "pre/fix/server/secret",
            "pre/fix/snapshots/prepared.tar.lz4"
        ]
    );
}

#[actix::test]
async fn archives_come_back_on_a_server_that_shares_a_file_url() {
    let state = tempfile::tempdir().unwrap();
    archives_come_back_elsewhere(&format!("file://{}", state.path().display())).await;
}

#[actix::test]
async fn a_sandbox_is_handed_over_through_a_bucket() {
    let bucket = Moto::shared().bucket("handoff");
    a_sandbox_goes_to_and_fro(&bucket.url("")).await;
    // No checkpoint or lock remains. The mark of the waiting server is removed soon.
    within("the marks", async {
        while bucket.names() != ["server/secret"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[actix::test]
async fn a_sandbox_is_handed_over_through_a_file_url() {
    let state = tempfile::tempdir().unwrap();
    a_sandbox_goes_to_and_fro(&format!("file://{}", state.path().display())).await;
}

/// Two servers try to lock an unowned sandbox at the same time. In the end, one has it.
#[actix::test]
async fn of_two_servers_one_gets_the_lock() {
    let bucket = Moto::shared().bucket("race");
    let servers = two_servers(&bucket.url("state"));
    let mut last = create_for_handoff(&servers[0]).await;
    let mut expected = String::new();
    for round in 1..=4 {
        bash(&last, &format!("echo {round} >> file")).await;
        expected += &format!("{round}\n");
        within("the checkpoint", last.checkpoint())
            .await
            .expect("stored");
        let (a, b) = futures::join!(attach(&servers[0], &last), attach(&servers[1], &last));
        let mut have = Vec::new();
        for attached in [a, b] {
            match attached {
                Ok(sandbox) => have.extend(match sandbox.run(Language::Bash, "cat file").await {
                    Ok(output) => Some((sandbox, output.stdout)),
                    // The other server has taken it over.
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
                        None
                    }
                }),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
            }
        }
        let Ok([(winner, files)]) = <[_; 1]>::try_from(have) else {
            panic!("exactly one server must have it");
        };
        assert_eq!(files, expected);
        let locks = bucket.names();
        let locks = locks
            .iter()
            .filter(|name| name.starts_with("state/locks/sandbox-"));
        assert_eq!(locks.count(), 1, "one epoch");
        last = winner;
    }
}

/// First the link to the storage breaks during an upload. Later, the server is killed during one.
#[actix::test]
async fn an_interrupted_upload_leaves_nothing_that_is_seen() {
    let bucket = Moto::shared().bucket("interrupted");
    let state = bucket.url("state");
    let gate = Gate::start(Moto::shared().address);
    let server = start(&state, gate.address);
    let sandbox = Sandbox::create(server.url()).await.expect("a sandbox");
    bash(&sandbox, "echo old > file").await;
    let snapshot = sandbox.snapshot_filesystem("prepared");
    within("the snapshot", snapshot).await.expect("stored");
    bash(&sandbox, &format!("echo new > file; {NOISE}")).await;

    gate.hold_after(9_000_000);
    let snapshot = sandbox.snapshot_filesystem("prepared");
    let cut = async {
        gate.is_held().await;
        gate.cut();
    };
    let (result, ()) = within("the snapshot", async { futures::join!(snapshot, cut) }).await;
    let error = result.expect_err("the storage is gone");
    assert_eq!(error.effect(), Effect::NotApplied);
    let reason = error.server_reason().expect("a reason").to_owned();
    assert!(
        reason.contains(&format!(
            "cannot store {state}/snapshots/prepared.tar.lz4: "
        )),
        "{reason}"
    );
    assert!(!reason.contains(SECRET), "{reason}");
    assert_eq!(bash(&sandbox, "cat file").await, "new\n", "it goes on");

    gate.hold_after(u64::MAX);
    let snapshot = sandbox.snapshot_filesystem("other");
    within("the snapshot", snapshot)
        .await
        .expect("it is back: stored");
    gate.hold_after(9_000_000);
    let snapshot = sandbox.snapshot_filesystem("prepared");
    let kill = async {
        gate.is_held().await;
        server.kill();
    };
    let (result, ()) = within("the snapshot", async { futures::join!(snapshot, kill) }).await;
    result.expect_err("the server is gone");

    assert_eq!(
        bucket.names(),
        [
            "state/server/secret",
            "state/snapshots/other.tar.lz4",
            "state/snapshots/prepared.tar.lz4"
        ]
    );
    let server = start(&state, Moto::shared().address);
    let old = Sandbox::create(server.url()).filesystem_snapshot_name("prepared");
    let old = within("the creation", old).await.expect("a sandbox");
    assert_eq!(bash(&old, "cat file; ls").await, "old\nfile\n");
}

/// The storage takes longer than the default `shutdown_timeout` of 10 s.
#[actix::test]
async fn a_longer_grace_lets_a_slow_checkpoint_finish() {
    let bucket = Moto::shared().bucket("grace");
    let (state, gate) = (bucket.url("state"), Gate::start(Moto::shared().address));
    let mut command = Command::new(env!("CARGO_BIN_EXE_actix-sandbox"));
    command.args(["serve", "--address", "127.0.0.1:0", "--backend", "host"]);
    command.args([
        "--state",
        &state,
        "--grace",
        "100s",
        "--handoff-lease",
        "60s",
    ]);
    command.stdout(Stdio::piped());
    let server = ServerProcess::start(moto::with_credentials(&mut command, gate.address));
    let builder = checkpointable(&server).enable_idle_timeout_auto_checkpoint(true);
    let sandbox = within("a sandbox", builder).await.expect("a sandbox");
    let sum = bash(&sandbox, NOISE).await;

    gate.hold_after(9_000_000);
    server.signal("TERM");
    within("the checkpoint", gate.is_held()).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    gate.hold_after(u64::MAX);
    let ended = tokio::task::spawn_blocking(|| server.ended());
    assert!(within("the end", ended).await.unwrap().success());

    let server = start(&state, Moto::shared().address);
    let restored = attach(&server, &sandbox).await.expect("restored");
    assert_eq!(bash(&restored, "sha256sum noise").await, sum);
}

/// Runs the command until it exits or listens. Returns whether it listens, and its log with all
/// traces.
fn serve(state: &str, endpoint: SocketAddr) -> (bool, String) {
    let mut child = moto::with_credentials(
        Command::new(env!("CARGO_BIN_EXE_actix-sandbox"))
            .args(["serve", "--address", "127.0.0.1:0", "--backend", "host"])
            .args(["--state", state])
            .env("RUST_LOG", "trace"),
        endpoint,
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let told = std::thread::spawn(move || {
        let mut told = String::new();
        stderr.read_to_string(&mut told).map(|_| told)
    });
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let listens = line.starts_with("listening on ");
    if listens {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(listens || status.code() == Some(1), "{status}");
    let told = told.join().unwrap().unwrap();
    assert!(!told.contains(SECRET), "a secret is logged");
    (listens, told)
}

fn cannot_serve(state: &str, endpoint: SocketAddr, expected: &[&str]) {
    let (listens, told) = serve(state, endpoint);
    assert!(!listens, "{state} cannot be used");
    let error = told
        .lines()
        .find(|line| line.starts_with("actix-sandbox: "))
        .unwrap_or_else(|| panic!("no error in {told}"));
    let url = format!("cannot use {state} for snapshots and checkpoints");
    for expected in [&[url.as_str()], expected].concat() {
        assert!(error.contains(expected), "no {expected:?} in {error}");
    }
}

#[test]
fn the_command_takes_a_url() {
    let bucket = Moto::shared().bucket("command");
    let (listens, told) = serve(&bucket.url("state"), Moto::shared().address);
    assert!(listens, "{told}");
    // The objects of the check at the start are gone; the secret stays.
    assert_eq!(bucket.names(), ["state/server/secret"]);
}

#[test]
fn a_bucket_that_is_not_there_is_an_error_at_the_start() {
    let state = "s3://not-there/state";
    let expected = ["cannot list s3://not-there/state/", "NoSuchBucket"];
    cannot_serve(state, Moto::shared().address, &expected);
}

#[test]
fn wrong_credentials_are_an_error_at_the_start() {
    // From the second request on, this emulator checks keys, and it knows none.
    let moto = Moto::start(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")]);
    let bucket = moto.bucket("closed");
    cannot_serve(&bucket.url(""), moto.address, &["InvalidAccessKeyId"]);
}

#[test]
fn an_endpoint_that_is_down_is_an_error_at_the_start() {
    let port = Port::reserve();
    let expected = ["cannot list s3://bucket/a/", "refused"];
    cannot_serve("s3://bucket/a", port.address(), &expected);
}

#[test]
fn an_endpoint_that_never_answers_is_an_error_at_the_start() {
    // The kernel accepts connections, but no server answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = std::time::SystemTime::now();
    let endpoint = listener.local_addr().unwrap();
    let expected = ["cannot list s3://bucket/a/", "no answer within 20 seconds"];
    cannot_serve("s3://bucket/a", endpoint, &expected);
    assert!(begun.elapsed().unwrap() < LONG);
}

/// Some older S3-compatible storages ignore conditions: two servers could take the same lock.
#[test]
fn a_storage_that_ignores_conditions_is_an_error_at_the_start() {
    let bucket = Moto::shared().bucket("careless");
    for ignored in [
        [("\r\nif-none-match:", "\r\nx-none-match-:")].as_slice(),
        &[("\r\nif-match:", "\r\nx-match-:")],
    ] {
        let gate = Gate::start_renaming(Moto::shared().address, ignored);
        let expected = ["ignores conditions on writes"];
        cannot_serve(&bucket.url("state"), gate.address, &expected);
    }
    assert_eq!(bucket.names(), [""; 0]);
}

#[test]
fn an_invalid_state_url_is_an_error_at_the_start() {
    let endpoint = Moto::shared().address;
    for state in ["https://bucket/a", "s3:///a"] {
        cannot_serve(state, endpoint, &["expected s3://BUCKET/PREFIX"]);
    }
    let (listens, told) = serve(&format!("s3://key:{SECRET}@bucket/a"), endpoint);
    assert!(
        !listens && told.contains("credentials in the environment"),
        "{told}"
    );
}
