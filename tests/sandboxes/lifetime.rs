//! The maximum lifetime of a sandbox: it ends in time, and its client learns why.

use std::time::{Duration, SystemTime};

use actix_sandbox::{
    Builtin, BuiltinErrorKind, Effect, ErrorKind, Language, LocalServer, ProcessEnd,
    ProtocolVersion, Sandbox, SandboxEnd, SandboxEvent, SandboxState,
    actor::{Exec, Wait},
};
use futures::StreamExt;
use serde_json::json;

use crate::support::{
    eager, events, patient,
    proxy::{Plan, Proxy},
    raw_client::{Client, eventually},
    sandbox, within,
};

/// Long enough to create a sandbox on a busy machine.
const LIFETIME: Duration = Duration::from_secs(10);

async fn end_of(sandbox: &Sandbox) -> SandboxEnd {
    let mut events = sandbox.events();
    loop {
        let event = within("an event", events.next()).await;
        if let SandboxEvent::Ended(end) = event.expect("the end") {
            return end;
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
        let event = within("an event", events.recv()).await;
        if let SandboxEvent::Ended(end) = event.expect("the end") {
            break end;
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

#[actix::test]
async fn an_extended_sandbox_lives_longer() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url())
        .max_lifetime(LIFETIME)
        .checkpoint(true);
    let sandbox = within("create", create).await.unwrap();
    let ends_at = async || {
        let listed = within("a list", Sandbox::list(server.url())).await;
        listed.unwrap()[0].ends_at().unwrap()
    };
    let first = ends_at().await;
    let extended = within("extend", sandbox.extend(LIFETIME)).await.unwrap();
    assert_eq!(extended, first + LIFETIME);
    assert_eq!(ends_at().await, extended);

    // By message, and twice at once.
    let extend = || {
        sandbox
            .addr()
            .send(Exec::builtin(Builtin::Extend { seconds: 1 }))
    };
    for started in [extend().await, extend().await] {
        let process = started.unwrap().unwrap();
        let end = within("extend", process.actor.send(Wait)).await;
        let end = end.unwrap().unwrap();
        assert!(end.success(), "{end}");
    }
    let second = Duration::from_secs(1);
    assert_eq!(ends_at().await, extended + 2 * second);

    eventually("its first end is past", || SystemTime::now() > first).await;
    let output = within("run", sandbox.run(Language::Bash, "echo alive")).await;
    assert_eq!(output.unwrap().stdout, "alive\n");
    // A checkpoint keeps the new end.
    within("checkpoint", sandbox.checkpoint()).await.unwrap();
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    let attach = Sandbox::attach(server.url(), id, token);
    let restored = within("attach", attach).await.unwrap();
    assert_eq!(ends_at().await, extended + 2 * second);
    assert_eq!(end_of(&restored).await, SandboxEnd::LifetimeEnded);
    assert!(SystemTime::now() >= extended + 2 * second, "it ended early");
    within("stop", server.stop()).await;
}

/// The links break while the requests are answered. Each request moves the end once.
#[actix::test]
async fn lost_links_extend_a_lifetime_exactly_once() {
    let server = LocalServer::start().await.unwrap();
    // The first connection is whole, so that the sandbox is created. The others end after a few
    // bytes of the server.
    let plan = |connection: usize| match connection {
        0 => Plan::default(),
        number => Plan::default().cut_down(300 + 40 * (number as u64 % 20)),
    };
    let proxy = Proxy::start(&server, plan).await;
    let create = patient(&proxy.url()).max_lifetime(Duration::from_secs(3_600));
    let create = create.auto_reconnect(true).reconnect_policy(eager());
    let sandbox = within("create", create).await.unwrap();
    let listed = within("a list", Sandbox::list(server.url())).await.unwrap();
    let before = listed[0].ends_at().unwrap();
    let mut last = before;
    for number in 1..=20 {
        proxy.cut();
        let ends_at = within("extend", sandbox.extend(Duration::from_secs(7))).await;
        last = ends_at.unwrap();
        assert_eq!(last, before + number * Duration::from_secs(7));
    }
    let listed = within("a list", Sandbox::list(server.url())).await.unwrap();
    assert_eq!(listed[0].ends_at(), Some(last));
    assert!(proxy.accepted() > 20, "{}", proxy.accepted());
    within("stop", server.stop()).await;
}

#[actix::test]
async fn the_idle_timeout_can_be_changed() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).idle_timeout(Duration::from_secs(3_600));
    let sandbox = within("create", create.checkpoint(true)).await.unwrap();
    let second = Duration::from_secs(1);
    let longer = sandbox.set_idle_timeout(1_000 * second);
    within("a longer timeout", longer).await.unwrap();
    // A checkpoint keeps the changed timeout.
    within("checkpoint", sandbox.checkpoint()).await.unwrap();
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    let attach = Sandbox::attach(server.url(), id, token);
    let restored = within("attach", attach).await.unwrap();
    let output = within("run", restored.run(Language::Bash, "echo ok")).await;
    assert_eq!(output.unwrap().stdout, "ok\n");
    within("a shorter timeout", restored.set_idle_timeout(second))
        .await
        .unwrap();
    assert_eq!(end_of(&restored).await, SandboxEnd::MaybeCheckpointed);
    eventually("it is deleted", || server.sandbox_count() == 0).await;
    within("stop", server.stop()).await;
}

#[actix::test]
async fn bad_changes_are_refused_and_the_sandbox_goes_on() {
    let (server, sandbox) = sandbox().await;
    let second = Duration::from_secs(1);
    for duration in [Duration::ZERO, Duration::from_millis(1_500), Duration::MAX] {
        for error in [
            within("extend", sandbox.extend(duration))
                .await
                .unwrap_err(),
            within("idle", sandbox.set_idle_timeout(duration))
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        }
    }
    let error = within("extend", sandbox.extend(second)).await.unwrap_err();
    let invalid = ErrorKind::Builtin(BuiltinErrorKind::InvalidInput);
    assert_eq!(error.kind(), invalid, "{error}");
    assert!(error.to_string().contains("no maximum lifetime"), "{error}");
    let aeons = Duration::from_secs(1 << 33);
    let error = within("idle", sandbox.set_idle_timeout(aeons))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), invalid, "{error}");
    let create = patient(server.url()).max_lifetime(Duration::from_secs(60));
    let limited = within("create", create).await.unwrap();
    for seconds in [u64::from(u32::MAX), u64::MAX] {
        let duration = Duration::from_secs(seconds);
        let error = within("extend", limited.extend(duration))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), invalid, "{error}");
    }
    // The client refuses zero itself, so ask the server by message.
    for builtin in [
        Builtin::Extend { seconds: 0 },
        Builtin::SetIdleTimeout { seconds: 0 },
    ] {
        let started = limited.addr().send(Exec::builtin(builtin)).await;
        let process = started.unwrap().unwrap();
        let end = within("an end", process.actor.send(Wait)).await.unwrap();
        let end = end.unwrap();
        assert!(matches!(end, ProcessEnd::Completed(Err(_))), "{end}");
    }
    for sandbox in [sandbox, limited] {
        let output = within("run", sandbox.run(Language::Bash, "echo ok")).await;
        assert_eq!(output.unwrap().stdout, "ok\n");
    }
    within("stop", server.stop()).await;

    let server = LocalServer::builder().max_protocol_version(ProtocolVersion::V1);
    let server = server.start().await.unwrap();
    let sandbox = within("create", patient(server.url())).await.unwrap();
    for error in [
        within("extend", sandbox.extend(second)).await.unwrap_err(),
        within("idle", sandbox.set_idle_timeout(second))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    within("stop", server.stop()).await;
}
