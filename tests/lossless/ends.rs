//! The end of a process reports its cause.

use std::time::Duration;

use actix_sandbox::{ErrorKind, Language, LocalServer, ProcessEnd, SandboxEnd};
use futures::StreamExt;

use super::support::{self, backend::LONG_ENOUGH_TO_BEGIN, sandbox, within};

#[actix::test]
async fn every_end_is_told_by_its_cause() {
    let (_server, sandbox) = sandbox().await;
    for (code, end) in [
        ("exit 0", ProcessEnd::Exited(0)),
        ("exit 255", ProcessEnd::Exited(255)),
        ("kill -TERM $$", ProcessEnd::Signaled(15)),
        ("kill -KILL $$", ProcessEnd::Signaled(9)),
    ] {
        let output = within(code, sandbox.run(Language::Bash, code)).await;
        assert_eq!(output.expect("ran").end, end, "{code}");
    }
    let timeout = sandbox
        .command(Language::Bash, "echo begun; sleep 1000")
        .timeout(LONG_ENOUGH_TO_BEGIN)
        .output();
    let output = within("the timeout", timeout).await.expect("ran");
    assert_eq!(output.end, ProcessEnd::TimedOut);
    assert_eq!(output.stdout, "begun\n");

    let process = sandbox.exec(Language::Bash, "sleep 1000").await;
    let process = process.expect("started");
    within("the kill", process.kill()).await.expect("killed");
    assert_eq!(process.wait().await.expect("an end"), ProcessEnd::Killed);

    let process = sandbox.exec(Language::Bash, "sleep 1000").await;
    let process = process.expect("started");
    within("the kill", sandbox.kill()).await.expect("killed");
    assert_eq!(process.wait().await.expect("an end"), ProcessEnd::Killed);
}

#[actix::test]
async fn a_server_that_stops_says_that_the_sandbox_is_lost() {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = support::create(server.url()).await.expect("a sandbox");
    let process = sandbox
        .exec(Language::Bash, "echo begun; sleep 1000")
        .await
        .expect("started");
    let first = within("the output", process.stdout().next()).await;
    assert_eq!(first.expect("some").expect("output"), "begun\n");
    server.stop().await;
    let end = within("the end", process.wait()).await.expect("an end");
    let ProcessEnd::SandboxLost { end } = end else {
        panic!("{end:?}");
    };
    assert_eq!(end, SandboxEnd::Deleted);
    assert!(!end.is_reattachable());
}

#[actix::test]
async fn only_a_success_is_one() {
    let (_server, sandbox) = sandbox().await;
    let good = sandbox.run(Language::Bash, "echo good").await.expect("ran");
    assert_eq!(good.error_for_status().expect("success").stdout, "good\n");
    let bad = sandbox
        .run(Language::Python, "import nowhere")
        .await
        .expect("ran");
    let error = bad.error_for_status().expect_err("it failed");
    assert_eq!(error.kind(), ErrorKind::ProcessFailed);
    let text = error.to_string();
    assert!(
        text.contains("exited with code 1") && text.contains("No module named 'nowhere'"),
        "{text}"
    );
}

/// A process ends even if its output is unread and doesn't fit into the window.
#[actix::test]
async fn an_end_is_reported_with_unread_output() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .command(Language::Bash, "head -c 3000000 /dev/zero; sleep 1000")
        .timeout(Duration::from_millis(300))
        .spawn()
        .await
        .expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::TimedOut);
    let process = sandbox
        .exec(Language::Bash, "yes & yes >&2")
        .await
        .expect("started");
    let (_stdout, _stderr) = (process.stdout(), process.stderr());
    within("the kill", process.kill()).await.expect("killed");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Killed);
}
