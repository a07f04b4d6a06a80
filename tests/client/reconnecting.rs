//! Reconnects.

use std::time::Duration;

use actix_sandbox::{Language, ProcessEnd, ReconnectPolicy, Sandbox};
use futures::{StreamExt, future::join};
use serde_json::json;

use crate::support::scripted::{Heard, Peer, Scripted, within};

fn at_once() -> ReconnectPolicy {
    ReconnectPolicy {
        initial: Duration::from_millis(1),
        ..ReconnectPolicy::default()
    }
}

#[actix::test]
async fn a_sandbox_dropped_during_an_outage_is_killed_after_it() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .kill_on_drop(true)
        .enable_auto_reconnect(true)
        .reconnect_policy(at_once())
        .into_future();
    let (sandbox, peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    drop(peer);
    // The server accepts the dial, and answers it only after the drop.
    let stream = server.tcp().await;
    drop(sandbox);
    let mut peer = Peer::upgrade(stream).await;
    peer.status("SANDBOX_RUNNING").await;
    peer.expect(json!({"action": "kill_sandbox"})).await;
    peer.status("SANDBOX_KILLED").await;
    assert_eq!(peer.heard().await, Heard::Close(Some(1000)));
}

/// On a new link, the client sends nothing until the server reports that the sandbox runs. But it
/// reads the link from the start, whether `SANDBOX_RUNNING` arrives with the upgrade or later.
#[actix::test]
async fn a_link_that_is_dialled_again_is_read_from_the_start() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(at_once())
        .into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    let exec = sandbox.exec(Language::Bash, "x");
    let (process, ()) = join(exec, async {
        assert!(matches!(peer.heard().await, Heard::Json(_)));
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
    })
    .await;
    let process = process.unwrap();
    let mut stdout = process.stdout();
    for pause in [0, 50, 0, 50] {
        drop(peer);
        peer = server.peer().await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        peer.status("SANDBOX_RUNNING").await;
        peer.expect(json!({"action": "reconnect"})).await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
        peer.stdout("on").await;
        let piece = within("output", stdout.next()).await;
        assert_eq!(piece.unwrap().unwrap(), "on");
    }
    peer.status("SANDBOX_EXECUTION_DONE").await;
    let end = within("the end", process.wait()).await;
    assert_eq!(end.unwrap(), ProcessEnd::Unknown);
}
