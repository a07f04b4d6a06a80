//! Snapshots and checkpoints: the client against the local server. docs/parity.md names many of
//! these tests.

use crate::support::{LONG, attach_when_free, events, within};
use actix_sandbox::{
    Effect, Error, ErrorKind, Language, LocalServer, Sandbox, SandboxBuilder, SandboxEnd,
    SandboxEvent, SandboxState,
};

fn checkpointable(server: &LocalServer) -> SandboxBuilder {
    Sandbox::create(server.url()).enable_sandbox_checkpoint(true)
}

async fn bash(sandbox: &Sandbox, code: &str) -> String {
    let output = sandbox.run(Language::Bash, code).await;
    output.expect("ran").stdout_lossy().into_owned()
}

async fn attach(server: &LocalServer, old: &Sandbox) -> Result<Sandbox, Error> {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    within("the attach", Sandbox::attach(server.url(), id, token)).await
}

/// `snapshotFilesystem` and `filesystemSnapshotName` of the reference clients.
#[actix::test]
async fn a_sandbox_starts_from_the_snapshot_of_another() {
    let server = LocalServer::start().await.expect("a local server");
    let first = Sandbox::create(server.url()).await.expect("a sandbox");
    bash(&first, "echo kept > file").await;
    let snapshot = first.snapshot_filesystem("prepared");
    within("the snapshot", snapshot).await.expect("stored");
    bash(&first, "echo changed > file").await;

    let second = Sandbox::create(server.url()).filesystem_snapshot_name("prepared");
    let second = second.await.expect("a sandbox");
    assert_eq!(bash(&second, "cat file").await, "kept\n");
    assert_eq!(bash(&first, "cat file").await, "changed\n");

    let none = Sandbox::create(server.url()).filesystem_snapshot_name("missing");
    let error = none.await.expect_err("no such snapshot");
    assert_eq!(error.kind(), ErrorKind::CreationFailed);
    let reason = error.server_reason().expect("a reason");
    assert!(reason.contains("'missing'"), "{reason}");
}

#[actix::test]
async fn a_failed_snapshot_says_why_and_the_sandbox_goes_on() {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = Sandbox::create(server.url()).await.expect("a sandbox");
    let error = sandbox.snapshot_filesystem("../outside").await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.effect(), Effect::NotApplied);
    let reason = error.server_reason().expect("a reason");
    assert!(reason.contains("../outside"), "{reason}");
    assert_eq!(bash(&sandbox, "echo on").await, "on\n");
}

/// `checkpoint`, then `attach`: on the same server, and on a server that started later.
#[actix::test]
async fn a_checkpointed_sandbox_is_taken_up_again() {
    let state = tempfile::tempdir().expect("a directory");
    let on = || LocalServer::builder().state_directory(state.path()).start();
    let server = on().await.expect("a local server");
    let first = checkpointable(&server).await.expect("a sandbox");
    bash(&first, "echo kept > file").await;
    let checkpoint = first.checkpoint();
    within("the checkpoint", checkpoint).await.expect("stored");
    let second = attach(&server, &first).await.expect("restored");
    bash(&second, "echo more >> file").await;
    second.checkpoint().await.expect("stored");
    server.stop().await;

    let server = on().await.expect("a local server");
    let third = attach(&server, &first).await.expect("restored");
    assert_eq!(bash(&third, "cat file").await, "kept\nmore\n");
    third.kill().await.expect("killed");
    let gone = attach(&server, &first).await.expect_err("gone");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// A second operation at the same time is a state error. So is any after the checkpoint.
#[actix::test]
async fn only_a_running_sandbox_is_stored_and_once_at_a_time() {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = checkpointable(&server).await.expect("a sandbox");
    bash(&sandbox, "head -c 100000000 /dev/urandom > noise").await;
    let (first, second) = futures::join!(
        sandbox.snapshot_filesystem("one"),
        sandbox.snapshot_filesystem("two")
    );
    let results = [first, second];
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let error = results.into_iter().find_map(Result::err).expect("one");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("already in progress"), "{error}");

    let (first, second) = futures::join!(sandbox.checkpoint(), sandbox.checkpoint());
    first.expect("stored");
    let error = second.expect_err("not twice");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    for error in [
        sandbox.checkpoint().await.expect_err("over"),
        sandbox.snapshot_filesystem("late").await.expect_err("over"),
    ] {
        assert_eq!(error.kind(), ErrorKind::WrongState);
        assert!(error.to_string().contains("checkpointed"), "{error}");
    }
}

/// The client's sandbox ends, but the sandbox on the server doesn't.
#[actix::test]
async fn a_fatal_checkpoint_error_closes_the_sandbox_for_its_client() {
    let server = LocalServer::start().await.expect("a local server");
    let created = Sandbox::create(server.url()).await.expect("a sandbox");
    // A client that attaches doesn't know the options that the sandbox was created with.
    let (id, token) = (
        created.sandbox_id().clone(),
        created.sandbox_token().clone(),
    );
    drop(created);
    let attach = Sandbox::attach(server.url(), id, token);
    let sandbox = attach_when_free(attach.clone()).await;
    let error = sandbox.checkpoint().await.expect_err("not configured");
    assert_eq!(error.effect(), Effect::Unknown);
    assert!(!error.is_safe_to_retry() && !error.is_retryable());
    let reason = error.server_reason().expect("a reason");
    assert!(
        reason.contains("is not configured for checkpointing"),
        "{reason}"
    );
    let state = sandbox.state();
    assert!(
        matches!(state, SandboxState::Ended(SandboxEnd::Failed { .. })),
        "{state:?}"
    );
    let exec = sandbox.exec(Language::Bash, "echo").await;
    assert_eq!(exec.expect_err("over").kind(), ErrorKind::WrongState);

    // The sandbox still exists on the server, so a kill here must not succeed.
    let error = sandbox.kill().await.expect_err("it was not killed");
    assert_eq!(error.effect(), Effect::Unknown);
    assert!(error.to_string().contains("attach to it"), "{error}");
    drop(sandbox);
    let again = attach_when_free(attach).await;
    again.kill().await.expect("killed");
}

#[actix::test]
async fn a_checkpoint_is_refused_while_a_process_runs_and_it_goes_on() {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = checkpointable(&server).await.expect("a sandbox");
    let process = sandbox.exec(Language::Bash, "read line; echo $line").await;
    let process = process.expect("started");
    let error = sandbox.checkpoint().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(
        error.server_reason(),
        Some("Cannot checkpoint while an execution is in progress.")
    );
    process.write_to_stdin("on\n").await.expect("written");
    within("the end", process.wait()).await.expect("ended");
    sandbox.checkpoint().await.expect("stored");
}

#[actix::test]
async fn after_a_checkpoint_there_is_no_exec_and_never_a_reconnect() {
    let server = LocalServer::start().await.expect("a local server");
    let builder = checkpointable(&server).enable_auto_reconnect(true);
    let sandbox = builder.await.expect("a sandbox");
    let mut events = events(&sandbox).await;
    sandbox.checkpoint().await.expect("stored");
    let error = sandbox.exec(Language::Bash, "echo").await;
    let error = error.expect_err("over");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("checkpointed"), "{error}");
    loop {
        match within("an event", events.recv()).await.expect("the end") {
            SandboxEvent::Reconnecting { .. } => panic!("it dials again"),
            SandboxEvent::Ended(end) => break assert_eq!(end, SandboxEnd::Checkpointed),
            _ => {}
        }
    }
    // The client did not reconnect, so another client can attach.
    attach(&server, &sandbox).await.expect("restored");
}

/// The client refuses the request itself: the server would answer it with a fatal error.
#[actix::test]
async fn a_checkpoint_that_was_not_enabled_leaves_the_sandbox_running() {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = Sandbox::create(server.url()).await.expect("a sandbox");
    let error = sandbox.checkpoint().await.expect_err("not enabled");
    assert_eq!(error.kind(), ErrorKind::NotEnabled);
    assert!(error.is_safe_to_retry());
    assert!(
        error.to_string().contains("`enable_sandbox_checkpoint`"),
        "{error}"
    );
    assert_eq!(bash(&sandbox, "echo alive").await, "alive\n");
    sandbox.kill().await.expect("killed");
}

/// Programs often kill the sandbox in a `finally` block, even after a checkpoint.
#[actix::test]
async fn a_kill_after_a_checkpoint_succeeds_and_keeps_the_checkpoint() {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = checkpointable(&server).await.expect("a sandbox");
    bash(&sandbox, "echo kept > file").await;
    sandbox.checkpoint().await.expect("stored");
    sandbox.kill().await.expect("nothing to kill");
    let again = attach(&server, &sandbox).await.expect("restored");
    assert_eq!(bash(&again, "cat file").await, "kept\n");
    again.kill().await.expect("killed");
}

/// `enableIdleTimeoutAutoCheckpoint` of the reference clients.
#[actix::test]
async fn an_idle_sandbox_is_checkpointed_instead_of_deleted() {
    let server = LocalServer::start().await.expect("a local server");
    let sandbox = checkpointable(&server)
        .enable_idle_timeout_auto_checkpoint(true)
        .idle_timeout(std::time::Duration::from_secs(5))
        .await
        .expect("a sandbox");
    let mut events = events(&sandbox).await;
    bash(&sandbox, "echo kept > file").await;
    loop {
        let event = tokio::time::timeout(LONG, events.recv()).await;
        if let SandboxEvent::Ended(end) = event.expect("the end").expect("events") {
            // The server only reports a deletion.
            assert_eq!(end, SandboxEnd::MaybeCheckpointed);
            let says = end.to_string();
            break assert!(says.contains("attach to it to restore it"), "{says}");
        }
    }
    let again = attach(&server, &sandbox).await.expect("restored");
    assert_eq!(bash(&again, "cat file").await, "kept\n");
}
