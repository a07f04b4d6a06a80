//! When the lift's program starts, ends and starts again, and what its execs see of that.

use actix_sandbox::{
    Language, LocalServer, Process, ProcessEnd, Sandbox, SandboxEnd, SandboxEvent, SandboxId,
    SandboxState, SandboxToken,
};

use super::support::{
    LONG, attach_when_free, backend::LONG_ENOUGH_TO_BEGIN, events, lift, lifted, within,
};

async fn server() -> LocalServer {
    LocalServer::start().await.expect("a server")
}

async fn first_line(process: &Process) -> String {
    let mut lines = process.stdout().lines();
    let line = within("a line", futures::StreamExt::next(&mut lines)).await;
    line.expect("a line").expect("text")
}

/// Attaches with the lift.
async fn attach(server: &LocalServer, id: &SandboxId, token: &SandboxToken) -> Sandbox {
    let attach = lift(Sandbox::attach(server.url(), id.clone(), token.clone()));
    attach_when_free(attach.create_timeout(LONG)).await
}

/// Drops the handle, and attaches with the lift.
async fn attach_instead(server: &LocalServer, old: Sandbox) -> Sandbox {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    drop(old);
    attach(server, &id, &token).await
}

#[actix::test]
async fn another_client_finds_the_program_and_its_processes() {
    let server = server().await;
    let sandbox = lifted(server.url()).await.expect("a sandbox");
    let process = sandbox.exec(Language::Bash, "echo $PPID; read x; echo got $x; exit 7");
    let process = process.await.expect("started");
    let program = first_line(&process).await;
    let reference = process.to_ref().await.expect("a reference");
    drop(process);

    let other = attach_instead(&server, sandbox).await;
    let process = other.attach_process(&reference).await.expect("attached");
    process.write_to_stdin("on\n").await.expect("written");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(7));
    let output = other.run(Language::Bash, "echo $PPID").await.expect("ran");
    assert_eq!(output.stdout_lossy().trim(), program, "the same program");
}

#[actix::test]
async fn an_idle_program_ends_so_that_the_service_can_end_the_sandbox() {
    let server = server().await;
    let sandbox = lifted(server.url()).idle_timeout(LONG_ENOUGH_TO_BEGIN);
    let sandbox = sandbox.await.expect("a sandbox");
    let mut events = events(&sandbox).await;
    let end = within("the end", async {
        loop {
            if let Some(SandboxEvent::State(SandboxState::Ended(end))) = events.recv().await {
                break end;
            }
        }
    });
    assert_eq!(end.await, SandboxEnd::Deleted);
    assert_eq!(server.sandbox_count(), 0);
}

#[actix::test]
async fn a_program_that_ended_starts_again_for_the_next_exec() {
    let server = server().await;
    let sandbox = lifted(server.url()).await.expect("a sandbox");
    let program = |output: actix_sandbox::Output| output.stdout_lossy().trim().to_owned();
    let first = sandbox.run(Language::Bash, "echo $PPID").await;
    let first = program(first.expect("ran"));
    let process = sandbox.exec(Language::Bash, "kill -9 $PPID; sleep 1000");
    let process = process.await.expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    let ProcessEnd::SandboxLost { end } = end else {
        panic!("{end:?}")
    };
    let text = end.to_string();
    assert!(text.contains("the lift's program has ended"), "{text}");
    let second = within("the next", sandbox.run(Language::Bash, "echo $PPID")).await;
    assert_ne!(program(second.expect("ran")), first);
}

#[actix::test]
async fn a_checkpoint_fails_while_execs_run_and_a_restore_lifts_again() {
    let state = tempfile::tempdir().unwrap();
    let server = LocalServer::builder().state_directory(state.path()).start();
    let server = server.await.expect("a server");
    let sandbox = lifted(server.url()).enable_sandbox_checkpoint(true);
    let sandbox = sandbox.await.expect("a sandbox");
    let process = sandbox.exec(Language::Bash, "echo kept > file; echo written; read");
    let process = process.await.expect("started");
    assert_eq!(first_line(&process).await, "written");
    let refused = within("the checkpoint", sandbox.checkpoint()).await;
    let text = refused.expect_err("an error").to_string();
    assert!(
        text.contains("while executions are in progress (1)"),
        "{text}"
    );
    process.kill().await.expect("killed");
    let reference = process.to_ref().await.expect("a reference");
    drop(process);
    within("the checkpoint", sandbox.checkpoint())
        .await
        .expect("checkpointed");

    let restored = attach(&server, sandbox.sandbox_id(), sandbox.sandbox_token()).await;
    let file = restored.files().read_to_string("file").await;
    assert_eq!(file.expect("the file"), "kept\n");
    // The new program doesn't know the exec.
    let process = restored.attach_process(&reference).await.expect("attached");
    let end = within("the end", process.wait()).await.expect("an end");
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end:?}");
}

#[actix::test]
async fn a_handoff_reports_the_end_and_lifts_the_sandbox_again() {
    let state = tempfile::tempdir().unwrap();
    let start = || LocalServer::builder().state_directory(state.path()).start();
    let (first, second) = (start().await.expect("one"), start().await.expect("two"));
    let sandbox = lifted(first.url())
        .enable_sandbox_checkpoint(true)
        .enable_sandbox_handoff(true);
    let sandbox = sandbox.await.expect("a sandbox");
    let process = sandbox.exec(Language::Bash, "echo moved > file; echo written; read");
    let process = process.await.expect("started");
    assert_eq!(first_line(&process).await, "written");
    let moved = attach(&second, sandbox.sandbox_id(), sandbox.sandbox_token()).await;
    let end = within("the end", process.wait()).await.expect("an end");
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end:?}");
    let file = moved.files().read_to_string("file").await;
    assert_eq!(file.expect("the file"), "moved\n");
}
