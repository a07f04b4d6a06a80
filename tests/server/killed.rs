//! Servers that are killed, or suspended for longer than their lease, while the state directory
//! stays: what their clients see, and which server gets the sandboxes.

use std::{path::Path, time::Duration};

use crate::support::{
    events,
    port::Port,
    raw_client::{Client, Identity, attach_at, entries},
    server_process::{self, ServerProcess},
    within,
};
use actix_sandbox::{
    ErrorKind, Language, LocalServer, ProcessEnd, ReconnectPolicy, Sandbox, SandboxBuilder,
    SandboxEnd, SandboxEvent, SandboxState,
};
use serde_json::json;

/// The lease of all servers in these tests.
const LEASE: Duration = Duration::from_secs(5);

/// The variables that make [`a_server_process_of_its_own`] a server.
const STATE: &str = "ACTIX_SANDBOX_TEST_STATE";
const ADDRESS: &str = "ACTIX_SANDBOX_TEST_ADDRESS";

/// Not a test: tests start this binary again, and this function is the server in the new process.
/// It prints its URL and serves until stdin ends.
#[test]
fn a_server_process_of_its_own() {
    let Some(state) = std::env::var_os(STATE) else {
        return;
    };
    server_process::serve(
        LocalServer::builder()
            .address(std::env::var(ADDRESS).unwrap())
            .state_directory(state)
            .handoff_lease(LEASE),
    );
}

fn start(state: &Path, address: impl ToString) -> ServerProcess {
    let mut command = server_process::command("killed::a_server_process_of_its_own");
    ServerProcess::start(command.env(STATE, state).env(ADDRESS, address.to_string()))
}

fn client(server: &ServerProcess) -> SandboxBuilder {
    Sandbox::create(server.url())
        .enable_sandbox_checkpoint(true)
        .enable_auto_reconnect(true)
}

async fn restored(server: &ServerProcess, code: &str) -> Sandbox {
    let first = client(server).await.expect("a sandbox");
    first.run(Language::Bash, code).await.expect("ran");
    first.checkpoint().await.expect("stored");
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let attach = Sandbox::attach(server.url(), id, token).enable_auto_reconnect(true);
    attach.await.expect("restored")
}

#[actix::test]
async fn a_client_restores_its_checkpoint_after_its_server_was_killed() {
    let state = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let server = start(state.path(), port.address());
    let sandbox = restored(&server, "echo kept > file").await;
    let mut events = events(&sandbox).await;
    server.kill();
    loop {
        let event = within("an event", events.recv()).await.expect("events");
        if let SandboxEvent::Reconnecting { .. } = event {
            break;
        }
    }
    let _server = start(state.path(), port.address());
    // A call during the outage waits until the outage is over.
    let run = sandbox.run(Language::Bash, "cat file");
    let output = match within("the run", run).await {
        Ok(output) => output,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
            while !matches!(
                within("an event", events.recv()).await.expect("events"),
                SandboxEvent::Reconnected
            ) {}
            sandbox.run(Language::Bash, "cat file").await.expect("ran")
        }
    };
    assert_eq!(output.stdout, "kept\n");
    assert_eq!(sandbox.state(), SandboxState::Running);
}

/// The checkpoint doesn't contain the process, so pending calls fail with the reason instead of
/// hanging.
#[actix::test]
async fn what_a_checkpoint_does_not_hold_fails_with_the_reason() {
    let state = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let server = start(state.path(), port.address());
    let sandbox = restored(&server, "true").await;
    let process = sandbox.exec(Language::Bash, "echo begun; sleep 1000").await;
    let process = process.expect("started");
    let waiting = actix::spawn({
        let process = process.clone();
        async move { process.wait().await }
    });
    server.kill();
    let _server = start(state.path(), port.address());
    let end = within("the end", waiting).await.unwrap().expect("an end");
    let ProcessEnd::SandboxLost { end } = end else {
        panic!("{end:?}");
    };
    assert!(
        matches!(end, SandboxEnd::ProcessLost { reason: Some(_) }),
        "{end:?}"
    );
    let output = within("the output", process.stdout().read_all()).await;
    assert!(
        output.is_err(),
        "the rest of the output may be missing: {output:?}"
    );
}

/// Without a checkpoint, the sandbox is gone, and calls and subscribers learn it.
#[actix::test]
async fn a_sandbox_without_a_checkpoint_is_gone_with_its_server() {
    let state = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let server = start(state.path(), port.address());
    let sandbox = client(&server).await.expect("a sandbox");
    let process = sandbox.exec(Language::Bash, "sleep 1000").await;
    let process = process.expect("started");
    let mut events = events(&sandbox).await;
    server.kill();
    let _server = start(state.path(), port.address());
    let (kill, end) = within(
        "both",
        futures::future::join(process.kill(), process.wait()),
    )
    .await;
    assert!(kill.is_err(), "the kill was not confirmed");
    assert!(matches!(end, Ok(ProcessEnd::SandboxLost { .. })), "{end:?}");
    let over = loop {
        let event = within("an event", events.recv()).await.expect("the end");
        if let SandboxEvent::Ended(end) = event {
            break end;
        }
    };
    assert!(over.to_string().contains("SANDBOX_NOT_FOUND"), "{over}");
}

/// When the client gives up, every pending call fails with the last cause.
#[actix::test]
async fn a_server_that_never_comes_back_is_given_up() {
    let state = tempfile::tempdir().unwrap();
    let server = start(state.path(), "127.0.0.1:0");
    let policy = ReconnectPolicy {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(20),
        max_attempts: Some(5),
        ..ReconnectPolicy::default()
    };
    let sandbox = client(&server).reconnect_policy(policy).await;
    let sandbox = sandbox.expect("a sandbox");
    let process = sandbox.exec(Language::Bash, "sleep 1000").await;
    let process = process.expect("started");
    let mut events = events(&sandbox).await;
    server.kill();
    let end = within("the end", process.wait()).await.expect("an end");
    let ProcessEnd::SandboxLost {
        end: SandboxEnd::LinkLost { attempts: 5, cause },
    } = end
    else {
        panic!("{end:?}");
    };
    assert!(cause.to_string().contains("refused"), "{cause}");
    let mut attempts = Vec::new();
    loop {
        match within("an event", events.recv()).await.expect("the end") {
            SandboxEvent::Reconnecting { attempt, .. } => attempts.push(attempt),
            SandboxEvent::GaveUp { attempts: 5, .. } => break,
            _ => {}
        }
    }
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
}

/// A raw client, attached to a sandbox that has a checkpoint and may be handed over.
async fn holder(server: &ServerProcess) -> (Client, Identity) {
    let mut client = Client::connect_to(server.url(), "/create").await;
    let config =
        json!({"idle_timeout": 60, "enable_checkpoint": true, "enable_sandbox_handoff": true});
    client.send(config).await;
    let lines = client.until("SANDBOX_RUNNING").await;
    let identity = lines[3].strip_prefix("sandbox_id ").unwrap();
    let (id, token) = identity.split_once(' ').unwrap();
    let identity = Identity {
        id: id.to_owned(),
        token: token.to_owned(),
    };
    client.bash("echo kept > file").await;
    client.action("checkpoint").await;
    client.until("close 1000").await;
    let mut client = attach_at(server.url(), &identity).await;
    client.until("SANDBOX_RUNNING").await;
    (client, identity)
}

/// The waiting server gets the lock when the lease of the killed owner expires.
#[tokio::test]
async fn a_waiting_server_gets_the_lock_of_a_killed_owner() {
    let state = tempfile::tempdir().unwrap();
    let [a, b] = [(); 2].map(|()| start(state.path(), "127.0.0.1:0"));
    let (_first, identity) = holder(&a).await;
    a.kill();
    let mut second = attach_at(b.url(), &identity).await;
    assert_eq!(
        second.until("SANDBOX_RUNNING").await,
        [
            "SANDBOX_RESTORING",
            "SANDBOX_LOCK_ACQUIRING",
            "SANDBOX_LOCK_ACQUIRED",
            "SANDBOX_RUNNING"
        ]
    );
    assert_eq!(second.bash("cat file").await, "kept\n");
}

/// Without a checkpoint, another server can't restore the sandbox, and says so.
#[tokio::test]
async fn a_killed_owner_without_a_checkpoint_leaves_nothing() {
    let state = tempfile::tempdir().unwrap();
    let [a, b] = [(); 2].map(|()| start(state.path(), "127.0.0.1:0"));
    let mut first = Client::connect_to(a.url(), "/create").await;
    let config =
        json!({"idle_timeout": 60, "enable_checkpoint": true, "enable_sandbox_handoff": true});
    first.send(config).await;
    let lines = first.until("SANDBOX_RUNNING").await;
    let (id, token) = lines[3]["sandbox_id ".len()..].split_once(' ').unwrap();
    let identity = Identity {
        id: id.to_owned(),
        token: token.to_owned(),
    };
    a.kill();
    let mut second = attach_at(b.url(), &identity).await;
    let lines = second.until("close 4000").await;
    let end = &lines[lines.len() - 5..];
    assert_eq!(
        end[..3],
        [
            "SANDBOX_LOCK_RELEASING",
            "SANDBOX_LOCK_RELEASED",
            "SANDBOX_RESTORE_ERROR"
        ]
    );
    assert!(
        end[3].contains("has stopped and left no checkpoint"),
        "{lines:?}"
    );
    // The lock is gone, too.
    let locks = entries(&state.path().join("locks"));
    let of_it = |path: &std::path::PathBuf| path.display().to_string().contains(&identity.id);
    assert!(!locks.iter().any(of_it), "{locks:?}");
}

/// The lease of an owner expires while the owner is suspended. The owner must notice that before it
/// touches the sandbox.
#[tokio::test]
async fn an_owner_that_slept_too_long_lets_go_and_destroys_nothing() {
    let state = tempfile::tempdir().unwrap();
    let [a, b] = [(); 2].map(|()| start(state.path(), "127.0.0.1:0"));
    let (mut first, identity) = holder(&a).await;
    a.signal("STOP");
    let mut second = attach_at(b.url(), &identity).await;
    second.until("SANDBOX_RUNNING").await;
    second.bash("echo newer > file").await;
    // The client's kill must not delete the newer checkpoint either.
    first.action("kill_sandbox").await;
    a.signal("CONT");
    let lines = first.until("close 4000").await;
    assert_eq!(lines[0], "SANDBOX_LOCK_RENEWAL_ERROR");
    assert!(lines[1].contains("lost the lock"), "{lines:?}");
    assert_eq!(entries(&state.path().join("checkpoints")).len(), 1);

    second.action("checkpoint").await;
    second.until("close 1000").await;
    let mut third = attach_at(a.url(), &identity).await;
    third.until("SANDBOX_RUNNING").await;
    assert_eq!(third.bash("cat file").await, "newer\n");
}
