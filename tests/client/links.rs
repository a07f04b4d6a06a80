//! Pings, links that go silent, and the close handshake.

use std::time::Duration;

use actix_sandbox::{
    ErrorKind, Language, ProcessEnd, Sandbox, SandboxEnd, SandboxEvent, SandboxState,
};
use futures::future::join;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::scripted::{Heard, PATIENCE, Scripted, Watched, within};

#[actix::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    for payload in [&b""[..], b"hello", &[0xFF; 125]] {
        assert!(peer.try_send(Message::Ping(payload.to_vec().into())).await);
        assert_eq!(peer.heard().await, Heard::Pong(payload.to_vec()));
    }
    drop(sandbox);
}

/// The client pings a quiet link, and keeps it while the server answers.
#[actix::test]
async fn a_quiet_link_is_pinged_and_stays() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        // Pings follow the interval. The timeout is longer than the test waits.
        .keepalive(Duration::from_millis(50), 10 * PATIENCE)
        .into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    for _ in 0..3 {
        assert_eq!(peer.any().await, Heard::Ping);
    }
    assert_eq!(sandbox.state(), SandboxState::Running);
}

/// The client detects a half-open link within the sum of interval and timeout.
#[actix::test]
async fn a_half_open_link_is_noticed() {
    let (interval, timeout) = (Duration::from_millis(500), Duration::from_secs(1));
    let server = Scripted::bind().await;
    let mut watched =
        Watched::start(Sandbox::create(server.url()).keepalive(interval, timeout)).await;
    let (opened, peer) = join(watched.open(), server.running()).await;
    opened.expect("a sandbox");
    // The test never reads from the peer, so the peer answers no ping. Without the keepalive, the
    // test would time out here.
    let events = watched.rest().await;
    let Some(SandboxEvent::Ended(SandboxEnd::LinkLost { cause, .. })) = events.last() else {
        panic!("{events:?}");
    };
    assert!(
        cause.to_string().contains("not even an answer to a ping"),
        "{cause}"
    );
    drop(peer);
}

/// The link becomes half-open while a process runs and a kill waits: every call ends with the link.
#[actix::test]
async fn calls_on_a_half_open_link_end_with_it() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .keepalive(Duration::from_millis(500), Duration::from_secs(1))
        .into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    let exec = sandbox.exec(Language::Bash, "sleep 60");
    let (process, ()) = join(within("the process", exec), async {
        peer.heard().await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
    })
    .await;
    let process = process.unwrap();
    let (end, kill, killed) = within(
        "the end of all calls",
        futures::future::join3(process.wait(), process.kill(), sandbox.kill()),
    )
    .await;
    assert!(matches!(end.unwrap(), ProcessEnd::SandboxLost { .. }));
    assert!(
        kill.is_err(),
        "the server didn't confirm the kill of the process"
    );
    assert_eq!(killed.unwrap_err().kind(), ErrorKind::LinkLost);
    drop(peer);
}

/// The keepalive detects a silent link during `create`, before the create timeout expires.
#[actix::test]
async fn a_half_open_link_is_noticed_during_create() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .keepalive(Duration::from_millis(500), Duration::from_secs(1))
        .into_future();
    let (error, peer) = join(within("the end of create", create), server.peer()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
    assert!(
        error
            .to_string()
            .contains("nothing arrived from the server"),
        "{error}"
    );
    drop(peer);
}

/// The client starts the close handshake once the server has confirmed the kill.
#[actix::test]
async fn after_a_kill_the_client_closes_with_1000() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    let (killed, ()) = join(within("the kill", sandbox.kill()), async {
        peer.expect(json!({"action": "kill_sandbox"})).await;
        for status in [
            "SANDBOX_KILLING",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_KILLED",
        ] {
            peer.status(status).await;
        }
        assert_eq!(peer.rest().await, [Heard::Close(Some(1000))]);
    })
    .await;
    killed.unwrap();
    assert_eq!(sandbox.state(), SandboxState::Ended(SandboxEnd::Killed));
    // A second kill succeeds, because the sandbox was killed.
    within("the second kill", sandbox.kill()).await.unwrap();
}

/// The server starts the close handshake when the client does.
#[actix::test]
async fn a_server_that_closes_after_the_kill_is_answered() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    let (killed, heard) = join(within("the kill", sandbox.kill()), async {
        peer.expect(json!({"action": "kill_sandbox"})).await;
        peer.status("SANDBOX_KILLED").await;
        peer.close(1000, "").await
    })
    .await;
    killed.unwrap();
    assert_eq!(heard, [Heard::Close(Some(1000))]);
}

/// The server never answers the client's close frame, and the client closes the connection.
#[actix::test]
async fn a_close_that_is_never_answered_does_not_keep_the_connection() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let (sandbox, peer) = join(within("the sandbox", create), server.running()).await;
    drop(sandbox.unwrap());
    // This reads below the WebSocket layer, which would answer the close frame.
    let mut stream = peer.into_inner();
    let mut heard = Vec::new();
    within("the end of the connection", stream.read_to_end(&mut heard))
        .await
        .ok();
    assert_eq!(heard[0], 0x88, "a close frame: {heard:?}");
}

/// The server closes while the sandbox runs. The error of a later call gives the code and the
/// reason.
#[actix::test]
async fn calls_after_the_link_is_lost_say_so() {
    let server = Scripted::bind().await;
    let mut watched = Watched::start(Sandbox::create(server.url())).await;
    let (opened, peer) = join(watched.open(), server.running()).await;
    opened.expect("a sandbox");
    peer.close(1011, "restart").await;
    watched
        .event_like("the end", |event| matches!(event, SandboxEvent::Ended(_)))
        .await;
    let exec = watched
        .addr
        .send(actix_sandbox::actor::Exec::new(Language::Bash, "true"));
    let error = within("the answer", exec).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("code 1011: restart"), "{error}");
}
