//! Rows of docs/parity.md that no other file tests: the client against the local server, or against
//! a scripted server where the server must misbehave.

use std::{future::IntoFuture, time::Duration};

use crate::support::scripted::{Scripted, Watched, within};
use actix_sandbox::{
    ErrorKind, Language, LocalServer, ProtocolVersion, Sandbox, SandboxEnd, SandboxEvent,
};
use futures::{FutureExt, StreamExt, future::join};
use serde_json::json;

/// A local server, and a running sandbox whose link speaks this version.
async fn on_local_server(version: ProtocolVersion) -> (LocalServer, Sandbox) {
    let server = LocalServer::start().await.expect("a local server");
    let builder = Sandbox::create(server.url()).max_protocol_version(version);
    let sandbox = builder.await.expect("a sandbox");
    (server, sandbox)
}

/// The scheme may be `http` or `ws`, and the URL may end with `/`.
#[actix::test]
async fn every_form_of_the_url_reaches_the_server() {
    let server = LocalServer::start().await.expect("a local server");
    let (_, address) = server.url().split_once("://").expect("a URL");
    for url in [
        format!("http://{address}"),
        format!("http://{address}/"),
        format!("ws://{address}"),
        format!("ws://{address}/"),
        format!("WS://{address}//"),
    ] {
        let sandbox = Sandbox::create(&url).await.expect(&url);
        let output = sandbox.run(Language::Bash, "echo $((6 * 7))").await;
        assert_eq!(output.expect(&url).stdout, "42\n");
        sandbox.kill().await.expect("killed");
    }
}

/// `idle_timeout`: the server deletes the sandbox, and subscribers learn it.
#[actix::test]
async fn an_idle_sandbox_is_deleted_and_its_client_is_told() {
    let server = LocalServer::start().await.expect("a local server");
    let builder = Sandbox::create(server.url()).idle_timeout(Duration::from_secs(1));
    let mut watched = Watched::start(builder).await;
    watched.open().await.expect("a sandbox");
    let over = |event: &SandboxEvent| matches!(event, SandboxEvent::Ended(_));
    assert_eq!(
        watched.event_like("the end", over).await,
        SandboxEvent::Ended(SandboxEnd::Deleted)
    );
    assert_eq!(server.sandbox_count(), 0);
}

/// A caller may read both streams at once, or none.
#[actix::test]
async fn both_streams_are_read_at_once_or_neither() {
    for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
        let (_server, sandbox) = on_local_server(version).await;
        // Alternate lines, far more than pipes and sockets hold: reading only one stream would
        // never end.
        let script = "for i in range(20000):\n  print('out', i)\n  import sys; print('err', i, file=sys.stderr)";
        let process = sandbox
            .exec(Language::Python, script)
            .await
            .expect("started");
        let (stdout, stderr) = within(
            "both streams",
            join(process.stdout().read_all(), process.stderr().read_all()),
        )
        .await;
        let lines =
            |name: &str| -> String { (0..20000).map(|i| format!("{name} {i}\n")).collect() };
        assert!(stdout.expect("stdout") == lines("out"));
        assert!(stderr.expect("stderr") == lines("err"));

        let process = sandbox
            .exec(Language::Bash, "echo unread; echo unread >&2")
            .await
            .expect("started");
        within("the end", process.wait()).await.expect("ended");
        let output = sandbox.run(Language::Bash, "echo next").await;
        assert_eq!(output.expect("ran").stdout, "next\n");
    }
}

#[actix::test]
async fn exec_resolves_when_the_server_says_that_it_runs() {
    let server = Scripted::bind().await;
    let (sandbox, mut peer) = join(
        Sandbox::create(server.url()).into_future(),
        server.running(),
    )
    .await;
    let sandbox = sandbox.expect("a sandbox");
    let mut exec = Box::pin(sandbox.exec(Language::Bash, "true"));
    let asked = peer.expect(json!({"language": "bash", "code": "true"}));
    let ((), still_waits) = join(asked, async { (&mut exec).now_or_never().is_none() }).await;
    assert!(still_waits, "the server has said nothing yet");
    peer.status("SANDBOX_EXECUTION_RUNNING").await;
    let process = within("the exec", exec).await.expect("started");
    peer.stdout("live\n").await;
    let mut lines = process.stdout().lines();
    let line = within("a line", lines.next()).await;
    assert_eq!(line.expect("a line").expect("text"), "live");
}

/// A kill without a timely confirmation is an error: first of a process, then of the sandbox.
#[actix::test]
async fn an_unconfirmed_kill_is_an_error() {
    let server = Scripted::bind().await;
    let builder = Sandbox::create(server.url()).kill_timeout(Duration::from_millis(100));
    let (sandbox, mut peer) = join(builder.into_future(), server.running()).await;
    let sandbox = sandbox.expect("a sandbox");
    let (process, ()) = join(sandbox.exec(Language::Bash, "sleep 1000"), async {
        peer.heard().await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
    })
    .await;
    let process = process.expect("started");

    let (killed, ()) = join(
        within("the process's kill", process.kill()),
        peer.expect(json!({"action": "kill_process"})),
    )
    .await;
    assert_eq!(killed.expect_err("unconfirmed").kind(), ErrorKind::Timeout);
    assert!(
        process.wait().now_or_never().is_none(),
        "no end was reported"
    );

    let (killed, ()) = join(
        within("the sandbox's kill", sandbox.kill()),
        peer.expect(json!({"action": "kill_sandbox"})),
    )
    .await;
    assert_eq!(killed.expect_err("unconfirmed").kind(), ErrorKind::Timeout);
}
