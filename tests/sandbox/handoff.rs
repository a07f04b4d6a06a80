//! Handoff between two local servers on one state directory, with the client of this crate and with
//! raw clients that check each message.

use std::{path::Path, time::Duration};

use crate::support::{
    events,
    raw_client::{Client, Identity, assert_empty, entries, eventually},
    within,
};
use actix_sandbox::{
    ErrorKind, Language, LocalServer, ProcessEnd, Sandbox, SandboxEnd, SandboxEvent,
};
use serde_json::json;
use tokio::sync::mpsc;

async fn two_servers(state: &Path) -> [LocalServer; 2] {
    let start = || LocalServer::builder().state_directory(state).start();
    [start().await.unwrap(), start().await.unwrap()]
}

async fn create(server: &LocalServer) -> Sandbox {
    Sandbox::create(server.url())
        .enable_sandbox_checkpoint(true)
        .enable_sandbox_handoff(true)
        .enable_auto_reconnect(true)
        .await
        .expect("a sandbox")
}

async fn attach(server: &LocalServer, old: &Sandbox) -> Sandbox {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    let attach = Sandbox::attach(server.url(), id, token).enable_auto_reconnect(true);
    within("the attach", attach).await.expect("attached")
}

async fn bash(sandbox: &Sandbox, code: &str) -> String {
    let output = within("the run", sandbox.run(Language::Bash, code)).await;
    output.expect("ran").stdout_lossy().into_owned()
}

/// Checks that a client learns that its sandbox was handed off, and doesn't reconnect.
async fn is_told_that_it_was_taken(mut events: mpsc::Receiver<SandboxEvent>) {
    loop {
        match within("an event", events.recv()).await.expect("the end") {
            SandboxEvent::Reconnecting { .. } => panic!("it takes the sandbox back"),
            SandboxEvent::Ended(end) => return assert_eq!(end, SandboxEnd::HandedOff),
            _ => {}
        }
    }
}

fn handoff() -> serde_json::Value {
    json!({"idle_timeout": 60, "enable_checkpoint": true, "enable_sandbox_handoff": true})
}

/// Ten handoffs between two servers. The files move along, and the previous client doesn't
/// reconnect.
#[actix::test]
async fn a_sandbox_goes_to_and_fro_and_its_previous_client_stays_away() {
    let state = tempfile::tempdir().unwrap();
    let servers = two_servers(state.path()).await;
    let mut holder = create(&servers[0]).await;
    let mut expected = String::new();
    for turn in 1..=10 {
        let events = events(&holder).await;
        bash(&holder, &format!("echo {turn} >> file")).await;
        expected += &format!("{turn}\n");
        let next = attach(&servers[turn % 2], &holder).await;
        is_told_that_it_was_taken(events).await;
        let error = holder.exec(Language::Bash, "echo mine").await;
        let error = error.expect_err("taken");
        assert_eq!(error.kind(), ErrorKind::WrongState);
        assert!(
            error.to_string().contains("another client took it"),
            "{error}"
        );
        assert_eq!(bash(&next, "cat file").await, expected);
        let counts = servers.each_ref().map(LocalServer::sandbox_count);
        assert_eq!(counts[turn % 2], 1);
        assert_eq!(counts.iter().sum::<usize>(), 1, "it is in one place");
        holder = next;
    }
    holder.kill().await.expect("killed");
    // The kill removed the checkpoint and the lock.
    assert_empty(&state.path().join("checkpoints"));
    let locks = entries(&state.path().join("locks"));
    assert!(
        locks.iter().all(|path| path.ends_with(".waiting")),
        "{locks:?}"
    );
}

#[actix::test]
async fn a_process_that_a_handoff_killed_ends_with_that_cause() {
    let state = tempfile::tempdir().unwrap();
    let servers = two_servers(state.path()).await;
    let first = create(&servers[0]).await;
    let process = first.exec(Language::Bash, "echo begun; sleep 1000").await;
    let process = process.expect("started");
    let mut chunks = process.stdout();
    let begun = within("its beginning", futures::StreamExt::next(&mut chunks)).await;
    assert_eq!(&*begun.expect("a chunk").expect("output"), b"begun\n");
    let second = attach(&servers[1], &first).await;
    assert_eq!(
        within("its end", process.wait()).await.expect("an end"),
        ProcessEnd::SandboxLost {
            end: SandboxEnd::HandedOff
        }
    );
    let output = within("its output", chunks.read_all()).await;
    assert_eq!(output.expect("whole"), "");
    bash(&second, "true").await;
}

#[tokio::test]
async fn both_sides_hear_the_recorded_words_in_the_recorded_order() {
    let state = tempfile::tempdir().unwrap();
    let [a, b] = two_servers(state.path()).await;
    let mut first = Client::connect(&a, "/create").await;
    first.send(handoff()).await;
    for expected in [
        "SANDBOX_CREATING",
        "SANDBOX_LOCK_ACQUIRING",
        "SANDBOX_LOCK_ACQUIRED",
    ] {
        assert_eq!(first.line().await, expected);
    }
    let line = first.line().await;
    let (id, token) = line
        .strip_prefix("sandbox_id ")
        .unwrap()
        .split_once(' ')
        .unwrap();
    let identity = Identity {
        id: id.to_owned(),
        token: token.to_owned(),
    };
    assert_eq!(first.line().await, "SANDBOX_RUNNING");
    first.bash("echo kept > file").await;

    let taken = [
        "SANDBOX_DELETING",
        "SANDBOX_LOCK_RELEASING",
        "SANDBOX_LOCK_RELEASED",
        "SANDBOX_DELETED",
        "SANDBOX_CHECKPOINTED",
        "close 1000",
    ];
    let restored = [
        "SANDBOX_RESTORING",
        "SANDBOX_LOCK_ACQUIRING",
        "SANDBOX_LOCK_ACQUIRED",
        "SANDBOX_RUNNING",
    ];
    let mut second = Client::connect(&b, &identity.attach_path()).await;
    assert_eq!(second.until("SANDBOX_RUNNING").await, restored);
    let mut expected = vec!["SANDBOX_LOCK_RELEASE_REQUESTED", "SANDBOX_CHECKPOINTING"];
    expected.extend(taken);
    assert_eq!(first.until("close 1000").await, expected);

    second.exec("bash", "cat file; sleep 1000").await;
    assert_eq!(second.line().await, "SANDBOX_EXECUTION_RUNNING");
    second.hears("kept\n").await;
    let mut third = Client::connect(&a, &identity.attach_path()).await;
    assert_eq!(third.until("SANDBOX_RUNNING").await, restored);
    let mut expected = vec![
        "SANDBOX_LOCK_RELEASE_REQUESTED",
        "SANDBOX_CHECKPOINTING",
        "SANDBOX_EXECUTION_FORCE_KILLED",
        "SANDBOX_EXECUTION_DONE",
    ];
    expected.extend(taken);
    assert_eq!(second.until("close 1000").await, expected);
    assert_eq!(third.bash("cat file").await, "kept\n");

    third.action("kill_sandbox").await;
    assert_eq!(
        third.until("close 1000").await,
        [
            "SANDBOX_KILLING",
            "SANDBOX_DELETING",
            "SANDBOX_LOCK_RELEASING",
            "SANDBOX_LOCK_RELEASED",
            "SANDBOX_DELETED",
            "SANDBOX_KILLED",
            "close 1000"
        ]
    );
}

#[tokio::test]
async fn a_wrong_token_takes_nothing_away() {
    let state = tempfile::tempdir().unwrap();
    let [a, b] = two_servers(state.path()).await;
    let (mut holder, identity) = Client::create_for_handoff(&a).await;
    let stranger = Identity {
        token: "0".repeat(48),
        ..identity
    };
    let mut client = Client::connect(&b, &stranger.attach_path()).await;
    assert_eq!(
        client.until("close 4000").await,
        [
            "SANDBOX_RESTORING",
            "SANDBOX_PERMISSION_DENIAL_ERROR",
            "error: Invalid sandbox token.",
            "close 4000"
        ]
    );
    assert_eq!(holder.bash("echo undisturbed").await, "undisturbed\n");
}

/// Without `enable_sandbox_handoff`, another server doesn't find the sandbox.
#[tokio::test]
async fn what_may_not_be_handed_over_is_not_found_elsewhere() {
    let state = tempfile::tempdir().unwrap();
    let [a, b] = two_servers(state.path()).await;
    let config = json!({"idle_timeout": 60, "enable_checkpoint": true});
    let (mut holder, identity) = Client::create_with(&a, config).await;
    let mut client = Client::connect(&b, &identity.attach_path()).await;
    assert_eq!(
        client.until("close 1011").await,
        ["SANDBOX_RESTORING", "SANDBOX_NOT_FOUND", "close 1011"]
    );
    assert_eq!(holder.bash("echo undisturbed").await, "undisturbed\n");
}

/// Several clients attach at the same time, to both servers. Each gets the sandbox in turn, or
/// learns that it is in use. The sandbox is never on two servers, and no file is lost.
#[actix::test]
async fn concurrent_attaches_never_run_a_sandbox_twice() {
    let state = tempfile::tempdir().unwrap();
    let servers = two_servers(state.path()).await;
    let first = create(&servers[0]).await;
    bash(&first, "echo kept > file").await;
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let wanted = (0..6).map(|index| {
        let attach = Sandbox::attach(servers[index % 2].url(), id.clone(), token.clone());
        async move { within("an attach", attach).await }
    });
    let results = futures::future::join_all(wanted).await;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(
            matches!(error.kind(), ErrorKind::InUse | ErrorKind::RestoreFailed),
            "{error}"
        );
    }
    assert!(results.iter().any(Result::is_ok));
    let places = servers
        .iter()
        .map(LocalServer::sandbox_count)
        .sum::<usize>();
    assert!(places <= 1, "it is in {places} places");
    drop((first, results));
    let last = loop {
        match Sandbox::attach(servers[1].url(), id.clone(), token.clone()).await {
            Ok(sandbox) => break sandbox,
            Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
        }
    };
    assert_eq!(bash(&last, "cat file").await, "kept\n");
}

/// The sandbox is not released: its server has crashed, and the lease is long.
#[tokio::test]
async fn a_wait_for_a_handoff_is_bounded_and_can_be_left() {
    let state = tempfile::tempdir().unwrap();
    let long = Duration::from_secs(1000);
    let lock = state.path().join("locks/sandbox-gone");
    std::fs::create_dir_all(&lock).unwrap();
    let expires = std::time::SystemTime::now() + long;
    let expires = expires
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let token = "t".repeat(48);
    let hash = sha256(&token);
    let record = json!({"owner": "gone", "expires": expires as u64, "token_sha256": hash});
    std::fs::write(lock.join("1"), record.to_string()).unwrap();
    let identity = Identity {
        id: "sandbox-gone".to_owned(),
        token,
    };
    let waiting = || entries(&state.path().join("locks/.waiting")).len();

    let patient = LocalServer::builder().state_directory(state.path());
    let patient = patient.handoff_timeout(long).start().await.unwrap();
    let mut client = Client::connect(&patient, &identity.attach_path()).await;
    assert_eq!(client.line().await, "SANDBOX_RESTORING");
    assert_eq!(client.line().await, "SANDBOX_LOCK_ACQUIRING");
    eventually("it waits", || waiting() == 1).await;
    // While it waits, the server still answers pings.
    client.ping("still there").await;
    assert_eq!(client.line().await, "pong still there");
    drop(client);
    eventually("it waits no longer", || waiting() == 0).await;

    let hasty = LocalServer::builder().state_directory(state.path());
    let hasty = hasty
        .handoff_timeout(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&hasty, &identity.attach_path()).await;
    assert_eq!(
        client.until("close 4000").await,
        [
            "SANDBOX_RESTORING",
            "SANDBOX_LOCK_ACQUIRING",
            "SANDBOX_RESTORE_ERROR",
            "error: Failed to restore sandbox sandbox-gone: the server that has it did not hand it over within 0.2 seconds.",
            "close 4000"
        ]
    );
    assert_eq!(waiting(), 0);
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};

    let digest = Sha256::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
