//! [`Command::exec_id`](actix_sandbox::Command::exec_id): a start that is repeated with the same id
//! runs the code once.

use actix_sandbox::{
    Effect, ErrorKind, Language, LocalServer, OutputPolicy, Process, ProcessEnd, Sandbox,
};
use futures::StreamExt;

use super::{
    random, read,
    support::{self, attach_when_free, sandbox, within},
};

const ID: &str = "job-17";

/// Drops the handle, and attaches another client.
async fn attach(server: &LocalServer, old: Sandbox) -> Sandbox {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    drop(old);
    attach_when_free(support::attach(server.url(), &id, &token)).await
}

#[actix::test]
async fn a_repeated_start_finds_the_process_and_repeats_its_input() {
    let code = "echo ran >> runs; cat > copy; echo out; exit 7";
    let (server, sandbox) = sandbox().await;
    let first = sandbox.command(Language::Bash, code).exec_id(ID).spawn();
    let first = within("the start", first).await.expect("started");
    first.write_to_stdin("abc").await.expect("written");
    within("the flush", first.flush_stdin())
        .await
        .expect("taken");
    drop(first);

    let sandbox = attach(&server, sandbox).await;
    let command = sandbox.command(Language::Bash, code).exec_id(ID);
    let output = within("the end", command.stdin("abcdef").output()).await;
    let output = output.expect("ran");
    assert_eq!(
        (output.end, output.stdout),
        (ProcessEnd::Exited(7), "out\n".into())
    );

    // The process has ended, and the second client has read its output.
    let sandbox = attach(&server, sandbox).await;
    let command = sandbox.command(Language::Bash, "touch other; exit 8");
    let process = within("the start", command.exec_id(ID).spawn()).await;
    let process = process.expect("found");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(7));
    let lost = within("the output", read(process.stdout())).await;
    let lost = lost.expect_err("a gap");
    assert_eq!(lost.kind(), ErrorKind::OutputLost);

    let files = "cat runs copy; ls other";
    let output = within("the files", sandbox.run(Language::Bash, files)).await;
    assert_eq!(output.expect("ran").stdout, "ran\nabcdef");
}

/// Starts the code with the id.
async fn start(sandbox: &Sandbox, code: &str) -> Process {
    let command = sandbox.command(Language::Bash, code).exec_id(ID);
    within("the start", command.spawn()).await.expect("started")
}

#[actix::test]
async fn a_repeated_start_repeats_written_input() {
    let code = "cat > copy";
    let (server, sandbox) = sandbox().await;
    let input = random(17, 3_000_000);
    let write = async |process: &Process, length: usize| {
        for piece in input[..length].chunks(100_000) {
            let written = process.write_to_stdin(piece.to_vec());
            within("a write", written).await.expect("written");
        }
        let flushed = within("the flush", process.flush_stdin());
        flushed.await.expect("taken");
    };
    write(&start(&sandbox, code).await, 2_000_000).await;
    let sandbox = attach(&server, sandbox).await;
    write(&start(&sandbox, code).await, 1_000_000).await;
    let sandbox = attach(&server, sandbox).await;
    let process = start(&sandbox, code).await;
    write(&process, 3_000_000).await;
    within("the close", process.close_stdin()).await.unwrap();
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(0));
    let copy = within("the copy", sandbox.files().read("copy")).await;
    assert!(copy.expect("read") == input, "each byte once");
}

#[actix::test]
async fn a_repeated_start_that_fails_does_not_kill_the_process() {
    let (server, sandbox) = sandbox().await;
    let code = "head -c 2000000 /dev/zero; until [ -e go ]; do sleep 0.02; done; exit 3";
    let first = start(&sandbox, code).await;
    let mut stdout = first.stdout();
    let mut read = 0;
    while read < 2_000_000 {
        let piece = within("output", stdout.next()).await;
        read += piece.expect("a piece").expect("no gap").len();
    }
    drop((stdout, first));
    let command = |sandbox: &Sandbox| sandbox.command(Language::Bash, code).exec_id(ID);
    let mut sandbox = attach(&server, sandbox).await;
    // The future is dropped, before or after the server has answered.
    for polls in [1, 10, 100] {
        let mut starting = Box::pin(command(&sandbox).spawn());
        for _ in 0..polls {
            if futures::poll!(starting.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(starting);
        sandbox = attach(&server, sandbox).await;
    }
    let error = within("the output", command(&sandbox).output()).await;
    assert_eq!(error.expect_err("a gap").kind(), ErrorKind::OutputLost);
    let sandbox = attach(&server, sandbox).await;
    let process = start(&sandbox, code).await;
    let written = within("the file", sandbox.files().write("go", "")).await;
    written.expect("written");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(3));
}

#[actix::test]
async fn a_repeated_start_with_a_smaller_budget_loses_no_output() {
    let (server, sandbox) = sandbox().await;
    let code = "touch begun; seq 200000";
    drop(start(&sandbox, code).await.to_ref().await.expect("kept"));
    let sandbox = attach(&server, sandbox).await;
    let policy = OutputPolicy {
        budget: 2_000,
        ..OutputPolicy::default()
    };
    let command = sandbox.command(Language::Bash, code).exec_id(ID);
    let output = within("the end", command.output_policy(policy).output()).await;
    let output = output.expect("no gap");
    assert_eq!(output.stdout_lossy().lines().count(), 200_000);
}

#[actix::test]
async fn a_client_has_one_handle_to_an_id() {
    let (_server, sandbox) = sandbox().await;
    let command = || sandbox.command(Language::Bash, "read x").exec_id(ID);
    let first = within("the start", command().spawn()).await;
    let first = first.expect("started");
    let error = within("the refusal", command().spawn()).await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert_eq!(error.effect(), Effect::NotApplied);
    within("the kill", first.kill()).await.expect("killed");
}

#[actix::test]
async fn an_id_has_1_to_128_bytes() {
    let (_server, sandbox) = sandbox().await;
    let command = |id: &str| sandbox.command(Language::Bash, "exit 3").exec_id(id);
    for id in ["", &"x".repeat(129), &"é".repeat(65)] {
        let error = within("the refusal", command(id).output()).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert_eq!(error.effect(), Effect::NotApplied);
        let shown = error.to_string();
        assert!(
            shown.contains("exec_id") && shown.contains("128 bytes"),
            "{shown}"
        );
    }
    for id in ["x", &"é".repeat(64), "\0 \"\n"] {
        let output = within("the end", command(id).output()).await;
        assert_eq!(output.expect("ran").end, ProcessEnd::Exited(3));
    }
}
