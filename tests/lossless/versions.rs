//! A reconnect that reaches a server with another protocol version.

use std::{net::SocketAddr, path::Path};

use actix_sandbox::{
    ErrorKind, Language, LocalServer, ProcessEnd, ProtocolVersion, Sandbox, SandboxEvent,
};
use tokio::sync::mpsc;

use super::{
    read,
    support::{eager, events, port::Port, proxy::Proxy, within},
};

async fn server(state: &Path, address: SocketAddr, version: ProtocolVersion) -> LocalServer {
    let server = LocalServer::builder()
        .address(address)
        .state_directory(state)
        .max_protocol_version(version)
        .start();
    server.await.expect("a server")
}

async fn until(events: &mut mpsc::Receiver<SandboxEvent>, is_it: fn(&SandboxEvent) -> bool) {
    while !is_it(&within("an event", events.recv()).await.expect("an event")) {}
}

/// Moves a sandbox with a running process to a server with another version, while the link is down.
/// Returns the end of the process.
async fn moved(
    before: ProtocolVersion,
    after: ProtocolVersion,
) -> (LocalServer, Sandbox, ProcessEnd) {
    let state = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let first = server(state.path(), port.address(), before).await;
    let mut proxy = Proxy::plain(&first).await;
    let sandbox = Sandbox::create(proxy.url())
        .enable_sandbox_checkpoint(true)
        .enable_idle_timeout_auto_checkpoint(true)
        .enable_auto_reconnect(true)
        .reconnect_policy(eager())
        .await
        .expect("a sandbox");
    assert_eq!(sandbox.protocol_version(), before);
    let mut events = events(&sandbox).await;
    let process = sandbox.exec(Language::Bash, "echo begun; sleep 1000").await;
    let process = process.expect("started");
    let begun = within("output", futures::StreamExt::next(&mut process.stdout())).await;
    assert_eq!(begun.expect("some").expect("output"), "begun\n");

    proxy.refuse().await;
    proxy.cut();
    until(&mut events, |event| {
        matches!(event, SandboxEvent::Reconnecting { .. })
    })
    .await;
    first.stop().await;
    let second = server(state.path(), port.address(), after).await;
    proxy.accept().await;
    let end = within("the end", process.wait()).await.expect("an end");
    let output = within("the output", read(process.stdout())).await;
    assert!(output.is_err(), "the output may be incomplete: {output:?}");
    drop(proxy);
    (second, sandbox, end)
}

#[actix::test]
async fn a_peer_that_falls_back_to_v1_loses_only_the_process() {
    let (_server, sandbox, end) = moved(ProtocolVersion::V2, ProtocolVersion::V1).await;
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end:?}");
    assert!(end.to_string().contains("protocol v1"), "{end}");
    assert_eq!(sandbox.protocol_version(), ProtocolVersion::V1);
    let next = within("the next", sandbox.run(Language::Bash, "echo next")).await;
    let next = next.expect("ran");
    assert_eq!(next.stdout, "next\n");
    assert_eq!(next.end, ProcessEnd::Unknown);
    let error = sandbox
        .command(Language::Bash, "true")
        .arg("x")
        .run_to_end()
        .await;
    assert_eq!(error.expect_err("v1").kind(), ErrorKind::Unsupported);
    sandbox.kill().await.expect("killed");
}

#[actix::test]
async fn a_peer_that_moves_to_v2_loses_only_the_v1_process() {
    let (_server, sandbox, end) = moved(ProtocolVersion::V1, ProtocolVersion::V2).await;
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end:?}");
    assert_eq!(sandbox.protocol_version(), ProtocolVersion::V2);
    let next = within("the next", sandbox.run(Language::Bash, "exit 4")).await;
    assert_eq!(next.expect("ran").end, ProcessEnd::Exited(4));
    sandbox.kill().await.expect("killed");
}

/// The server selects the newest version that both support.
#[actix::test]
async fn either_version_is_offered_and_selected() {
    for (server_speaks, client_offers) in [
        (ProtocolVersion::V1, ProtocolVersion::V2),
        (ProtocolVersion::V2, ProtocolVersion::V1),
        (ProtocolVersion::V1, ProtocolVersion::V1),
        (ProtocolVersion::V2, ProtocolVersion::V2),
    ] {
        let server = LocalServer::builder()
            .max_protocol_version(server_speaks)
            .start()
            .await
            .expect("a server");
        let sandbox = Sandbox::create(server.url())
            .max_protocol_version(client_offers)
            .await
            .expect("a sandbox");
        assert_eq!(sandbox.protocol_version(), server_speaks.min(client_offers));
        let output = sandbox.run(Language::Bash, "echo hello").await;
        assert_eq!(output.expect("ran").stdout, "hello\n");
        sandbox.kill().await.expect("killed");
    }
}
