//! Reconnects: the client and the local server, with a proxy between them that cuts, stalls and
//! refuses links. A scripted server sends what the local server never does.

use std::{future::IntoFuture, time::Duration};

use crate::{
    exec::exited,
    support::{
        VERSIONS, events,
        proxy::{Plan, Proxy},
        scripted::{Heard, Peer, Scripted},
        within,
    },
};
use actix_sandbox::{
    ErrorKind, Language, LinkError, LocalServer, Process, ProcessEnd, ProtocolVersion,
    ReconnectPolicy, Sandbox, SandboxEnd, SandboxEvent, SandboxState, server::Backend,
};
use futures::{FutureExt, StreamExt, future::join};
use serde_json::json;
use tokio::sync::mpsc;

fn soon() -> ReconnectPolicy {
    ReconnectPolicy {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(20),
        ..ReconnectPolicy::default()
    }
}

/// Starts a server and a proxy in front of it, and creates a sandbox through the proxy.
async fn behind_a_proxy() -> (LocalServer, Proxy, Sandbox) {
    proxied(LocalServer::start().await.expect("a local server")).await
}

async fn proxied(server: LocalServer) -> (LocalServer, Proxy, Sandbox) {
    let proxy = Proxy::start(&server, |_| Plan::default()).await;
    let sandbox = Sandbox::create(proxy.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(soon())
        .await
        .expect("a sandbox");
    (server, proxy, sandbox)
}

/// Waits for an event that `is_it` accepts, and skips the others.
async fn event_like(
    events: &mut mpsc::Receiver<SandboxEvent>,
    what: &str,
    is_it: impl Fn(&SandboxEvent) -> bool,
) -> SandboxEvent {
    loop {
        let event = within(what, events.recv()).await.expect(what);
        if is_it(&event) {
            return event;
        }
        assert!(
            !matches!(event, SandboxEvent::Ended(_)),
            "instead of {what}: {event:?}"
        );
    }
}

async fn is_back(events: &mut mpsc::Receiver<SandboxEvent>) {
    let back = |event: &SandboxEvent| *event == SandboxEvent::Reconnected;
    event_like(events, "the link is back", back).await;
}

async fn is_lost(events: &mut mpsc::Receiver<SandboxEvent>) {
    let lost = |event: &SandboxEvent| matches!(event, SandboxEvent::Reconnecting { .. });
    event_like(events, "the link is lost", lost).await;
}

async fn bash(sandbox: &Sandbox, code: &str) -> Process {
    let exec = sandbox.exec(Language::Bash, code);
    within("the exec", exec).await.expect("started")
}

/// Without an exec in flight, the client must not send `reconnect`: the server would end the
/// session.
#[actix::test]
async fn a_sandbox_that_runs_nothing_comes_back() {
    let (_server, proxy, sandbox) = behind_a_proxy().await;
    let mut events = events(&sandbox).await;
    for _ in 0..3 {
        proxy.cut();
        is_lost(&mut events).await;
        is_back(&mut events).await;
        assert_eq!(sandbox.state(), SandboxState::Running);
    }
    let output = sandbox.run(Language::Bash, "echo still here").await;
    assert_eq!(output.expect("ran").stdout, "still here\n");
}

/// The streams and `wait` continue. Stdin that is written during the outage is queued, and sent in
/// order after it.
#[actix::test]
async fn streams_stdin_and_wait_go_on_over_an_outage() {
    for version in VERSIONS {
        streams_stdin_and_wait_go_on(version).await;
    }
}

async fn streams_stdin_and_wait_go_on(version: ProtocolVersion) {
    let server = LocalServer::builder().max_protocol_version(version).start();
    let (_server, mut proxy, sandbox) = proxied(server.await.unwrap()).await;
    let mut events = events(&sandbox).await;
    let code = "echo ready; while read line; do echo \"got $line\"; [ $line = end ] && break; done";
    let process = bash(&sandbox, code).await;
    let mut lines = process.stdout().lines();
    let mut next = async || {
        let line = within("a line", lines.next()).await;
        line.expect("a line").expect("text")
    };
    assert_eq!(next().await, "ready");
    let mut wait = Box::pin(process.wait());
    for outage in 0..3 {
        proxy.refuse().await;
        proxy.cut();
        is_lost(&mut events).await;
        for i in 0..50 {
            let written = process.write_to_stdin(format!("{outage}-{i}\n"));
            within("the write", written).await.expect("queued");
        }
        assert!((&mut wait).now_or_never().is_none(), "the process runs");
        proxy.accept().await;
        is_back(&mut events).await;
        for i in 0..50 {
            assert_eq!(next().await, format!("got {outage}-{i}"));
        }
    }
    process.write_to_stdin("end\n").await.expect("written");
    assert_eq!(next().await, "got end");
    assert_eq!(within("the end", wait).await.unwrap(), exited(version));
}

/// The process ends while no client is connected.
#[actix::test]
async fn an_end_during_an_outage_is_delivered_after_its_output() {
    for version in VERSIONS {
        an_end_during_an_outage_is_delivered(version).await;
    }
}

async fn an_end_during_an_outage_is_delivered(version: ProtocolVersion) {
    // The host backend lets the script wait for a file of the test.
    let server = LocalServer::builder().backend(Backend::Host);
    let server = server.max_protocol_version(version).start();
    let (server, mut proxy, sandbox) = proxied(server.await.unwrap()).await;
    let mut events = events(&sandbox).await;
    let trigger = tempfile::tempdir().unwrap();
    let file = trigger.path().join("go");
    let done = trigger.path().join("done");
    let code = format!(
        "echo before; until [ -e {} ]; do sleep 0.01; done; seq 1 1000; touch {}",
        file.display(),
        done.display()
    );
    let process = bash(&sandbox, &code).await;
    let mut stdout = process.stdout();
    let first = within("the first line", stdout.next()).await;
    assert_eq!(first.unwrap().unwrap(), "before\n");
    proxy.refuse().await;
    proxy.cut();
    is_lost(&mut events).await;
    std::fs::write(&file, "").unwrap();
    let ended = async {
        while !done.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the script's end", ended).await;
    proxy.accept().await;
    let end = within("the end", process.wait()).await;
    assert_eq!(end.unwrap(), exited(version));
    let rest = within("the rest", stdout.read_all()).await.expect("whole");
    let expected: String = (1..=1000).map(|i| format!("{i}\n")).collect();
    assert_eq!(rest, expected);
    assert_eq!(server.sandbox_count(), 1);
    let output = sandbox.run(Language::Bash, "echo next").await;
    assert_eq!(output.expect("ran").stdout, "next\n");
}

/// Only the client detects that the link is half-open. The server still considers it attached and
/// answers each dial with `SANDBOX_IN_USE`, so the client retries.
#[actix::test]
async fn a_half_open_link_is_left_and_the_server_asked_until_it_knows() {
    let server = LocalServer::start().await.expect("a local server");
    let proxy = Proxy::start(&server, |_| Plan::default()).await;
    let short = Duration::from_secs(1);
    let sandbox = Sandbox::create(proxy.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(soon())
        .keepalive(short, short)
        .await
        .expect("a sandbox");
    let mut events = events(&sandbox).await;
    let process = bash(&sandbox, "read line; echo got $line").await;
    proxy.stall();
    is_lost(&mut events).await;
    proxy.pass();
    for _ in 0..3 {
        let told =
            |event: &SandboxEvent| matches!(event, SandboxEvent::Reconnecting { attempt: 2.., .. });
        match event_like(&mut events, "a refusal because of the old link", told).await {
            SandboxEvent::Reconnecting { cause, .. } => assert_eq!(cause, LinkError::InUse),
            _ => unreachable!(),
        }
    }
    process.write_to_stdin("it\n").await.expect("queued");
    // Now the server learns that the old link is gone.
    proxy.cut();
    is_back(&mut events).await;
    let output = within("its output", process.stdout().read_all()).await;
    assert_eq!(output.expect("whole"), "got it\n");
}

/// The port refuses for a while. An event reports each attempt, with its delay and the cause.
#[actix::test]
async fn refused_dials_are_retried_and_reported() {
    let (_server, mut proxy, sandbox) = behind_a_proxy().await;
    let mut events = events(&sandbox).await;
    proxy.refuse().await;
    proxy.cut();
    for expected in 1..=6 {
        let reconnecting =
            |event: &SandboxEvent| matches!(event, SandboxEvent::Reconnecting { .. });
        let event = event_like(&mut events, "an attempt", reconnecting).await;
        let SandboxEvent::Reconnecting {
            attempt,
            delay,
            cause,
        } = event
        else {
            unreachable!()
        };
        assert_eq!(attempt, expected);
        assert!(delay <= Duration::from_millis(20), "{delay:?}");
        assert_eq!(
            cause.to_string().contains("refused"),
            expected > 1,
            "{cause}"
        );
    }
    proxy.accept().await;
    is_back(&mut events).await;
}

/// Without auto-reconnect, a lost link ends the sandbox and every waiting call.
#[actix::test]
async fn without_the_option_a_lost_link_is_final() {
    let server = LocalServer::start().await.expect("a local server");
    let proxy = Proxy::plain(&server).await;
    let sandbox = Sandbox::create(proxy.url()).await.expect("a sandbox");
    let process = bash(&sandbox, "sleep 1000").await;
    let (wait, kill, ()) = within(
        "all",
        futures::future::join3(process.wait(), sandbox.kill(), async { proxy.cut() }),
    )
    .await;
    assert!(
        matches!(
            wait,
            Ok(ProcessEnd::SandboxLost { .. }) | Ok(ProcessEnd::Killed)
        ),
        "{wait:?}"
    );
    if let Err(error) = kill {
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
    }
    assert_eq!(proxy.accepted(), 1);
}

#[actix::test]
async fn after_a_kill_or_a_fatal_status_nothing_is_dialled() {
    let (server, proxy, sandbox) = behind_a_proxy().await;
    let mut seen = events(&sandbox).await;
    sandbox.kill().await.expect("killed");
    let over = within("the end", async {
        loop {
            match seen.recv().await.expect("the end") {
                SandboxEvent::Ended(end) => break end,
                SandboxEvent::Reconnecting { .. } => panic!("the client reconnects"),
                _ => {}
            }
        }
    });
    assert_eq!(over.await, SandboxEnd::Killed);
    assert_eq!(proxy.accepted(), 1);
    assert_eq!(server.sandbox_count(), 0);

    for status in [
        "SANDBOX_ERROR",
        "SANDBOX_NOT_FOUND",
        "SANDBOX_IN_USE",
        "SANDBOX_PERMISSION_DENIAL_ERROR",
        "SANDBOX_RESTORE_ERROR",
        "SANDBOX_CHECKPOINT_ERROR",
        "SANDBOX_LOCK_RENEWAL_ERROR",
        "SANDBOX_KILLED",
        "SANDBOX_CHECKPOINTED",
        "SANDBOX_DELETED",
    ] {
        let server = Scripted::bind().await;
        let create = Sandbox::create(server.url())
            .enable_auto_reconnect(true)
            .reconnect_policy(soon())
            .into_future();
        let (sandbox, mut peer) = join(create, server.running()).await;
        let sandbox = sandbox.expect("a sandbox");
        let mut seen = events(&sandbox).await;
        peer.status(status).await;
        peer.error("why").await;
        drop(peer);
        let over = within(status, async {
            loop {
                match seen.recv().await.expect("the end") {
                    SandboxEvent::Ended(_) => break,
                    SandboxEvent::Reconnecting { .. } => panic!("{status}: the client reconnects"),
                    _ => {}
                }
            }
        });
        over.await;
        server.assert_not_dialled().await;
    }
}

/// A newer cookie replaces an older one of the same name. The client doesn't send attributes back.
#[actix::test]
async fn cookies_of_every_answer_are_sent_on_each_later_dial() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(soon())
        .into_future();
    let (sandbox, mut peer) = join(create, async {
        let cookies = ["GAESA=first; Path=/; Max-Age=30; HttpOnly", "other=kept"];
        let mut peer = Peer::upgrade_with(server.tcp().await, &cookies).await;
        assert_eq!(peer.header("cookie"), None);
        peer.run().await;
        peer
    })
    .await;
    let _sandbox = sandbox.expect("a sandbox");
    let sorted = |peer: &Peer| {
        let mut cookies: Vec<String> = peer
            .header("cookie")
            .unwrap_or_default()
            .split("; ")
            .map(str::to_owned)
            .collect();
        cookies.sort();
        cookies
    };
    for (given, sent) in [
        ("GAESA=second; Secure", ["GAESA=first", "other=kept"]),
        ("unrelated=x", ["GAESA=second", "other=kept"]),
    ] {
        drop(peer);
        peer = Peer::upgrade_with(server.tcp().await, &[given]).await;
        assert_eq!(sorted(&peer), sent);
        peer.status("SANDBOX_RUNNING").await;
    }
    drop(peer);
    peer = server.peer().await;
    assert_eq!(sorted(&peer), ["GAESA=second", "other=kept", "unrelated=x"]);
}

/// The link breaks in the middle of the frame that reports the start of an exec. The caller gets no
/// handle to the process, so the client kills it.
#[actix::test]
async fn a_process_with_a_lost_start_frees_the_sandbox() {
    let server = LocalServer::start().await.expect("a local server");
    let measured = Proxy::start(&server, |_| Plan::default()).await;
    // Under v1 only: a v2 client resends the request and learns of the process.
    let create = |url| Sandbox::create(url).max_protocol_version(ProtocolVersion::V1);
    let sandbox = create(measured.url()).await.expect("a sandbox");
    let to_running = measured.records()[0].delivered as u64;
    drop(sandbox);
    let proxy = Proxy::start(&server, move |number| Plan {
        cut_down: (number == 0).then_some(to_running + 10),
        ..Plan::default()
    })
    .await;
    let sandbox = create(proxy.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(soon())
        .await
        .expect("a sandbox");
    let mut events = events(&sandbox).await;
    let exec = sandbox.exec(Language::Bash, "sleep 1000");
    let error = within("the exec", exec).await.expect_err("not heard of");
    assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
    is_back(&mut events).await;
    // The next exec waits until the first process is gone.
    let next = sandbox.run(Language::Bash, "echo next");
    let output = within("the next", next).await.expect("ran");
    assert_eq!(output.stdout, "next\n");
}

#[actix::test]
async fn reconnect_is_sent_only_when_an_exec_is_in_flight() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(soon())
        .into_future();
    let (sandbox, peer) = join(create, server.running()).await;
    let sandbox = sandbox.expect("a sandbox");
    let mut events = events(&sandbox).await;
    drop(peer);
    let mut peer = server.peer().await;
    peer.status("SANDBOX_RUNNING").await;
    is_back(&mut events).await;
    let exec = sandbox.exec(Language::Bash, "x");
    let (process, ()) = join(exec, async {
        // The first message is the exec, not `reconnect`.
        assert_eq!(
            peer.heard().await,
            Heard::Json(json!({"language": "bash", "code": "x"}))
        );
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
    })
    .await;
    let process = process.expect("started");
    drop(peer);
    let mut peer = server.peer().await;
    peer.status("SANDBOX_RUNNING").await;
    peer.expect(json!({"action": "reconnect"})).await;
    peer.status("SANDBOX_EXECUTION_DONE").await;
    within("the end", process.wait()).await.expect("ended");
    drop(peer);
    let mut peer = server.peer().await;
    peer.status("SANDBOX_RUNNING").await;
    is_back(&mut events).await;
    let kill = sandbox.kill();
    let (killed, ()) = join(kill, async {
        peer.expect(json!({"action": "kill_sandbox"})).await;
        peer.status("SANDBOX_KILLED").await;
    })
    .await;
    killed.expect("killed");
}
