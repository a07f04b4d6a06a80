//! The maximum lifetime of a sandbox: it ends in time, and its client learns why.

use std::time::{Duration, SystemTime};

use actix_sandbox::{
    Effect, ErrorKind, Language, LocalServer, ProcessEnd, Sandbox, SandboxEnd, SandboxEvent,
    SandboxState,
};
use serde_json::json;

use crate::support::{
    eager, events, patient,
    proxy::Proxy,
    raw_client::{Client, eventually},
    within,
};

/// Long enough to create a sandbox on a busy machine.
const LIFETIME: Duration = Duration::from_secs(5);

async fn end_of(sandbox: &Sandbox) -> SandboxEnd {
    let mut events = sandbox.events();
    loop {
        use futures::StreamExt;
        match within("an event", events.next()).await.expect("the end") {
            SandboxEvent::Ended(end) => return end,
            _ => {}
        }
    }
}

#[actix::test]
async fn a_sandbox_with_a_running_exec_ends_in_time_and_says_why() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).max_lifetime(LIFETIME);
    let sandbox = within("create", create).await.unwrap();
    let listed = within("a list", Sandbox::list(server.url())).await.unwrap();
    let ends_at = listed[0].ends_at().unwrap();
    let process = sandbox.exec(Language::Bash, "echo ready; sleep 1000").await;
    let process = process.unwrap();
    let end = within("the end of the exec", process.wait()).await.unwrap();
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end}");
    assert!(end.to_string().contains("lifetime"), "{end}");
    assert_eq!(end_of(&sandbox).await, SandboxEnd::LifetimeEnded);
    assert!(SystemTime::now() >= ends_at, "it ended early");
    assert_eq!(
        process.stdout().read_all().await.ok(),
        Some("ready\n".into())
    );

    assert_eq!(
        sandbox.state(),
        SandboxState::Ended(SandboxEnd::LifetimeEnded)
    );
    let error = sandbox.run(Language::Bash, "true").await.unwrap_err();
    assert!(error.to_string().contains("`max_lifetime`"), "{error}");
    // Nothing is left to kill, and nothing to attach to.
    sandbox.kill().await.unwrap();
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    let error = Sandbox::attach(server.url(), id.clone(), token).await;
    let error = error.expect_err("over");
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
    assert!(error.to_string().contains("`max_lifetime`"), "{error}");
    // Only a client with the token may know that the sandbox existed.
    let error = Sandbox::attach(server.url(), id, "wrong")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    eventually("it is deleted", || server.sandbox_count() == 0).await;
    within("stop", server.stop()).await;
}

/// A client that is never silent doesn't keep the sandbox alive.
#[actix::test]
async fn a_busy_client_does_not_delay_the_end() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).max_lifetime(LIFETIME).label("k", "v");
    let sandbox = within("create", create).await.unwrap();
    let error = within("the end", async {
        loop {
            if let Err(error) = sandbox.files().metadata("").await {
                return error;
            }
        }
    })
    .await;
    assert!(error.to_string().contains("lifetime"), "{error}");
    assert_eq!(end_of(&sandbox).await, SandboxEnd::LifetimeEnded);
    within("stop", server.stop()).await;
}

#[actix::test]
async fn a_client_that_was_disconnected_at_the_end_is_told_why() {
    let server = LocalServer::start().await.unwrap();
    let mut proxy = Proxy::plain(&server).await;
    let create = patient(&proxy.url()).max_lifetime(LIFETIME);
    let create = create.auto_reconnect(true).reconnect_policy(eager());
    let sandbox = within("create", create).await.unwrap();
    let process = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
    let mut events = events(&sandbox).await;
    proxy.refuse().await;
    proxy.cut();
    eventually("it ends", || server.sandbox_count() == 0).await;
    proxy.accept().await;
    let end = loop {
        match within("an event", events.recv()).await.expect("the end") {
            SandboxEvent::Ended(end) => break end,
            _ => {}
        }
    };
    assert_eq!(end, SandboxEnd::LifetimeEnded);
    let end = within("the end of the exec", process.wait()).await.unwrap();
    let expected = SandboxEnd::LifetimeEnded;
    assert_eq!(end, ProcessEnd::SandboxLost { end: expected });
    within("stop", server.stop()).await;
}

#[actix::test]
async fn a_restored_sandbox_ends_at_the_time_of_its_creation() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).checkpoint(true);
    let create = create.max_lifetime(2 * LIFETIME).label("k", "v");
    let sandbox = within("create", create).await.unwrap();
    let list = || async { Sandbox::list(server.url()).label("k", "v").await.unwrap() };
    let before = within("a list", list()).await;
    within("checkpoint", sandbox.checkpoint()).await.unwrap();
    assert_eq!(within("a list", list()).await, []);
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    let attach = Sandbox::attach(server.url(), id.clone(), token.clone());
    let restored = within("attach", attach).await.unwrap();
    assert_eq!(within("a list", list()).await, before);
    let process = restored.exec(Language::Bash, "sleep 1000").await.unwrap();
    assert_eq!(end_of(&restored).await, SandboxEnd::LifetimeEnded);
    let end = within("the end of the exec", process.wait()).await.unwrap();
    assert!(end.to_string().contains("lifetime"), "{end}");
    // The old checkpoint is gone, too.
    eventually("it is deleted", || server.sandbox_count() == 0).await;
    let error = Sandbox::attach(server.url(), id, token).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    within("stop", server.stop()).await;
}

#[actix::test]
async fn a_checkpoint_whose_lifetime_has_ended_is_removed() {
    let state = tempfile::tempdir().unwrap();
    for handoff in [false, true] {
        let start = || LocalServer::builder().state_directory(state.path()).start();
        let first = start().await.unwrap();
        let create = patient(first.url()).checkpoint(true).handoff(handoff);
        let sandbox = within("create", create.max_lifetime(LIFETIME))
            .await
            .unwrap();
        let listed = within("a list", Sandbox::list(first.url())).await.unwrap();
        let ends_at = listed[0].ends_at().unwrap();
        within("checkpoint", sandbox.checkpoint()).await.unwrap();
        within("stop", first.stop()).await;
        eventually("its lifetime ends", || SystemTime::now() > ends_at).await;

        // Another server reads the end from the checkpoint.
        let second = start().await.unwrap();
        let (id, token) = (
            sandbox.sandbox_id().clone(),
            sandbox.sandbox_token().clone(),
        );
        let attach = |token: &str| Sandbox::attach(second.url(), id.clone(), token);
        let error = within("attach", attach("wrong")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        for _ in 0..2 {
            let error = within("attach", attach(token.expose_secret())).await;
            let error = error.expect_err("over");
            assert!(error.to_string().contains("`max_lifetime`"), "{error}");
        }
        let left = |name| {
            let entries = std::fs::read_dir(state.path().join(name)).unwrap();
            let entries = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
            entries.filter(|it| it.contains(id.as_str())).count()
        };
        assert_eq!(left("checkpoints"), 0);
        assert_eq!(left("locks"), 0);
        assert_eq!(second.sandbox_count(), 0);
        within("stop", second.stop()).await;
    }
}

#[actix::test]
async fn a_handoff_keeps_the_lifetime() {
    let state = tempfile::tempdir().unwrap();
    let start = || LocalServer::builder().state_directory(state.path()).start();
    let (first, second) = (start().await.unwrap(), start().await.unwrap());
    let create = patient(first.url()).checkpoint(true).handoff(true);
    let create = create.max_lifetime(2 * LIFETIME).env("KEY", "value");
    let sandbox = within("create", create).await.unwrap();
    let before = within("a list", Sandbox::list(first.url())).await.unwrap();
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    let attach = Sandbox::attach(second.url(), id, token);
    let taken = within("attach", attach).await.unwrap();
    assert_eq!(end_of(&sandbox).await, SandboxEnd::HandedOff);
    let output = within("run", taken.run(Language::Bash, "echo $KEY")).await;
    assert_eq!(output.unwrap().stdout, "value\n");
    let after = within("a list", Sandbox::list(second.url())).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(end_of(&taken).await, SandboxEnd::LifetimeEnded);
    within("stop", first.stop()).await;
    within("stop", second.stop()).await;
}

/// Protocol v1 has no status for the end of the lifetime.
#[actix::test]
async fn a_client_of_v1_sees_a_deletion() {
    let server = LocalServer::start().await.unwrap();
    let config = json!({"idle_timeout": 60, "max_lifetime": 1});
    let mut client = Client::connect(&server, "/create").await;
    client.send(config).await;
    let lines = client.until("SANDBOX_DELETED").await;
    let end = &lines[lines.len() - 2..];
    assert_eq!(end, ["SANDBOX_DELETING", "SANDBOX_DELETED"]);
    assert_eq!(client.line().await, "close 1000");
    let listed = within("a list", Sandbox::list(server.url())).await.unwrap();
    assert_eq!(listed, []);
    within("stop", server.stop()).await;
}

#[actix::test]
async fn a_sandbox_that_is_idle_before_its_end_is_deleted_as_usual() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).idle_timeout(Duration::from_secs(1));
    let create = create.max_lifetime(Duration::from_secs(3_600));
    let sandbox = within("create", create).await.unwrap();
    assert_eq!(end_of(&sandbox).await, SandboxEnd::Deleted);
    within("stop", server.stop()).await;
}
