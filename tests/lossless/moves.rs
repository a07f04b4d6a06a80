//! Handoff, and checkpoint and restore, while output is unread. The server delivers each byte that
//! the reader hasn't acknowledged, and no other. The end gives the reason.

use std::path::Path;

use actix_sandbox::{
    Language, LocalServer, OutputPolicy, Overflow, Process, ProcessEnd, Sandbox, SandboxEnd,
};
use futures::StreamExt;

use super::{
    random, read,
    support::{self, within},
};

async fn server(state: &Path) -> LocalServer {
    let server = LocalServer::builder().state_directory(state).start();
    server.await.expect("a server")
}

/// Creates a sandbox with the file `data`.
async fn create(server: &LocalServer, data: &[u8]) -> Sandbox {
    let sandbox = support::create(server.url())
        .enable_sandbox_checkpoint(true)
        .enable_sandbox_handoff(true)
        .await
        .expect("a sandbox");
    let stored = sandbox
        .command(Language::Bash, "cat > data")
        .stdin(data.to_vec())
        .run_to_end();
    let stored = within("the file", stored).await;
    assert_eq!(stored.expect("ran"), ProcessEnd::Exited(0));
    sandbox
}

async fn attach(server: &LocalServer, old: &Sandbox) -> Sandbox {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    let attach = support::attach(server.url(), &id, &token);
    within("the attach", attach).await.expect("attached")
}

/// Reads at least `least` bytes of stdout.
async fn read_some(process: &Process, least: usize) -> Vec<u8> {
    let mut stdout = process.stdout();
    let mut some = Vec::new();
    while some.len() < least {
        let piece = within("output", stdout.next()).await.expect("some");
        some.extend_from_slice(&piece.expect("no gap"));
    }
    some
}

#[actix::test]
async fn unread_output_survives_a_checkpoint() {
    let state = tempfile::tempdir().unwrap();
    let first = server(state.path()).await;
    let data = random(1, 300_000);
    let sandbox = create(&first, &data).await;
    let process = sandbox
        .exec(Language::Bash, "cat data; cat data >&2; exit 5")
        .await
        .expect("started");
    let end = within("the end", process.wait()).await;
    assert_eq!(end.expect("an end"), ProcessEnd::Exited(5));
    let before = read_some(&process, 100_000).await;
    let reference = process.to_ref().await.expect("a name");
    assert_eq!(reference.stdout_offset(), before.len() as u64);
    let reference = serde_json::to_string(&reference).expect("JSON");
    within("the checkpoint", sandbox.checkpoint())
        .await
        .expect("stored");
    // Another server restores the sandbox.
    first.stop().await;
    let second = server(state.path()).await;
    let again = attach(&second, &sandbox).await;
    let reference = serde_json::from_str(&reference).expect("a reference");
    let process = again.attach_process(&reference).await.expect("attached");
    let rest = within("the rest", read(process.stdout())).await;
    assert!([before, rest.expect("whole")].concat() == data);
    let stderr = within("stderr", read(process.stderr())).await;
    assert!(stderr.expect("whole") == data);
    let end = within("the end", process.wait()).await;
    assert_eq!(end.expect("an end"), ProcessEnd::Exited(5));
    again.kill().await.expect("killed");
}

#[actix::test]
async fn a_handoff_loses_no_output_and_gives_the_reason_of_the_end() {
    let state = tempfile::tempdir().unwrap();
    let (first, second) = (server(state.path()).await, server(state.path()).await);
    let data = random(2, 200_000);
    let sandbox = create(&first, &data).await;
    // The output is larger than the window, so a part of it stays in the pipe. The process is still
    // running.
    let process = sandbox
        .command(Language::Bash, "cat data; cat >> nowhere")
        .output_policy(OutputPolicy {
            budget: 32 * 1024,
            overflow: Overflow::default(),
        })
        .spawn()
        .await
        .expect("started");
    let before = read_some(&process, 150_000).await;
    let reference = process.to_ref().await.expect("a name");
    let again = attach(&second, &sandbox).await;

    // The first client learns the reason, and keeps the output that it received.
    let lost = ProcessEnd::SandboxLost {
        end: SandboxEnd::HandedOff,
    };
    let end = within("the end", process.wait()).await;
    assert_eq!(end.expect("an end"), lost);

    // The second client resumes where the reader of the first left off.
    let process = again.attach_process(&reference).await.expect("attached");
    let rest = within("the rest", read(process.stdout())).await;
    let all = [before, rest.expect("whole")].concat();
    assert!(
        data.starts_with(&all) && all.len() > 150_000,
        "{}",
        all.len()
    );
    let end = within("the end", process.wait()).await.expect("an end");
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end:?}");
    assert!(!end.is_confirmed());
    again.kill().await.expect("killed");
}
