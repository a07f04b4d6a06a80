//! [`Command::exec_id`](actix_sandbox::Command::exec_id): a start that is repeated with the same id
//! runs the code once.

use actix_sandbox::{Effect, ErrorKind, Language, LocalServer, ProcessEnd, Sandbox};

use super::{
    read,
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
