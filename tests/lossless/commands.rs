//! [`Command`](actix_sandbox::Command): arguments, environment, directory, stdin, concurrency.

use actix_sandbox::{Effect, ErrorKind, Language, LocalServer, ProcessEnd, ProtocolVersion};
use futures::future::try_join_all;

use super::support::{self, sandbox, sandbox_of, within};

#[actix::test]
async fn arguments_environment_and_directory_reach_the_code() {
    let (_server, sandbox) = sandbox().await;
    sandbox
        .run(Language::Bash, "mkdir -p 'a dir/b'")
        .await
        .expect("ran");
    let odd = ["", "a b", "'\"$HOME`x`\\", "line\nbreak", "é😀", "-c", "--"];
    for (language, code) in [
        (
            Language::Bash,
            r#"for arg; do printf '%s\0' "$arg"; done; printf %s "$ODD"; pwd >&2"#,
        ),
        (
            Language::Python,
            "import os, sys\nfor a in sys.argv[1:]: print(a, end='\\0')\nprint(os.environ['ODD'], end='')\nprint(os.getcwd(), file=sys.stderr)",
        ),
    ] {
        let command = sandbox
            .command(language.clone(), code)
            .args(odd)
            .env("ODD", "first")
            .env("ODD", odd[2])
            .cwd("a dir/b")
            .output();
        let output = within("the command", command).await.expect("ran");
        let expected: String = odd.iter().map(|arg| format!("{arg}\0")).collect();
        assert_eq!(output.stdout, expected + odd[2], "{language}");
        assert!(
            output.stderr_lossy().trim_end().ends_with("/a dir/b"),
            "{output:?}"
        );
        assert_eq!(output.end, ProcessEnd::Exited(0));
    }
}

#[actix::test]
async fn a_command_that_cannot_start_gives_the_reason() {
    let (_server, sandbox) = sandbox().await;
    let refused = [
        sandbox.command(Language::Bash, "touch ran").cwd("nowhere"),
        sandbox.command(Language::Bash, "touch ran").env("A=B", "x"),
        sandbox.command(Language::Bash, "touch ran").env("", "x"),
        sandbox.command(Language::Bash, "touch ran").env("A", "x\0"),
        sandbox.command(Language::Bash, "touch ran").arg("x\0y"),
    ];
    for command in refused {
        let shown = format!("{command:?}");
        let error = within("the refusal", command.output()).await;
        let error = error.expect_err(&shown);
        assert_eq!(error.kind(), ErrorKind::ExecFailed, "{shown}");
        assert_eq!(error.effect(), Effect::NotApplied);
        assert!(
            error.server_reason().is_some_and(|it| !it.is_empty()),
            "{shown}"
        );
    }
    let left = sandbox.run(Language::Bash, "ls").await.expect("ran");
    assert_eq!(left.stdout, "");
}

#[actix::test]
async fn stdin_ends_where_the_caller_closes_it() {
    let (_server, sandbox) = sandbox().await;
    let given = sandbox.command(Language::Bash, "cat").stdin("all of it");
    assert_eq!(given.output().await.expect("ran").stdout, "all of it");
    // Without stdin, the process reads the end of its input at once.
    let none = within("no input", sandbox.run(Language::Bash, "cat; echo over")).await;
    assert_eq!(none.expect("ran").stdout, "over\n");

    let process = sandbox.exec(Language::Bash, "cat").await.expect("started");
    process.write_to_stdin("x").await.expect("written");
    process.close_stdin().await.expect("closed");
    process.close_stdin().await.expect("closed before");
    let error = process.write_to_stdin("y").await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::StdinClosed);
    within("the flush", process.flush_stdin())
        .await
        .expect("taken");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(0));
}

/// Writes fail once the process has closed its stdin, and the process goes on.
#[actix::test]
async fn input_that_the_process_closed_is_refused() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .exec(Language::Bash, "exec <&-; echo closed; sleep 1000")
        .await
        .expect("started");
    let mut lines = process.stdout().lines();
    let line = within("a line", futures::StreamExt::next(&mut lines)).await;
    assert_eq!(line.expect("some").expect("text"), "closed");
    let error = within("the refusal", async {
        loop {
            if let Err(error) = process.write_to_stdin(vec![b'x'; 65_536]).await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::StdinClosed);
    within("the kill", process.kill()).await.expect("killed");
}

#[actix::test]
async fn several_run_at_once_each_for_itself() {
    let (_server, sandbox) = sandbox().await;
    let processes = (0..8).map(|_| {
        sandbox
            .exec(Language::Bash, "read x; echo $x; exit $x")
            .into_future()
    });
    let processes = try_join_all(processes).await.expect("started");
    // In the reverse order of their start.
    for (number, process) in processes.iter().enumerate().rev() {
        process
            .write_to_stdin(format!("{number}\n"))
            .await
            .expect("written");
        let output = within("its output", super::read(process.stdout())).await;
        assert_eq!(output.expect("whole"), format!("{number}\n").as_bytes());
        let end = within("its end", process.wait()).await.expect("an end");
        assert_eq!(end, ProcessEnd::Exited(number as i32));
    }
}

/// Options that v1 can't transmit fail with `Unsupported` and the name of the feature. No code
/// runs.
#[actix::test]
async fn features_that_v1_lacks_are_refused_by_name() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let command = || sandbox.command(Language::Bash, "touch ran");
    for (command, feature) in [
        (command().arg("x"), "arguments"),
        (command().env("A", "x"), "environment variables"),
        (command().cwd("."), "working directory"),
        (command().timeout(support::LONG), "timeout"),
        (command().stdin("x"), "end of input"),
        (command().exec_id("x"), "named processes"),
    ] {
        let error = command.output().await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.effect(), Effect::NotApplied);
        assert!(error.to_string().contains(feature), "{error}");
    }
    let process = sandbox
        .exec(Language::Bash, "read x")
        .await
        .expect("started");
    let error = process.close_stdin().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = process
        .write_to_stdin(vec![0xff])
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = process.to_ref().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    process.kill().await.expect("killed");
    let left = sandbox.run(Language::Bash, "ls").await.expect("ran");
    assert_eq!(left.stdout, "");
    sandbox.kill().await.expect("killed");
    let error = command().arg("x").output().await.expect_err("over");
    assert_eq!(error.kind(), ErrorKind::WrongState);
}

/// Only the exec whose request is too large fails. The client doesn't resend it on each new link,
/// and the sandbox keeps running.
#[actix::test]
async fn code_larger_than_a_message_fails_alone() {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = support::create(server.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(support::eager())
        .await
        .expect("a sandbox");
    let other = sandbox.exec(Language::Bash, "read x; echo $x").await;
    let other = other.expect("started");
    let code = format!("# {}", "x".repeat(17 << 20));
    let error = within("the refusal", sandbox.run(Language::Bash, code)).await;
    let error = error.expect_err("too large");
    assert!(
        matches!(error.kind(), ErrorKind::ExecFailed | ErrorKind::LinkLost),
        "{error:?}"
    );
    other.write_to_stdin("on\n").await.expect("written");
    let output = within("the other", super::read(other.stdout())).await;
    assert_eq!(output.expect("whole"), b"on\n");
    let next = within("the next", sandbox.run(Language::Bash, "echo next")).await;
    assert_eq!(next.expect("ran").stdout, "next\n");
    sandbox.kill().await.expect("killed");
}
