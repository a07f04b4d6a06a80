//! A client that has not read the output of its exec yet. Its next requests lose none of the
//! output, and the sandbox ends only after it.

use std::path::Path;

use crate::support::{
    backend,
    raw_client::{Client, Identity, eventually, processes_of},
};
use actix_sandbox::server::LocalServer;
use serde_json::json;

/// How many bytes [`unread`] leaves to a client. The buffers of the sockets hold fewer.
const UNREAD: usize = 32 << 20;

/// A server that keeps [`UNREAD`] bytes of output.
async fn with_room(state: &Path) -> LocalServer {
    let builder = backend::with_visible_processes().output_buffer(2 * UNREAD);
    builder.state_directory(state).start().await.unwrap()
}

/// Starts an exec that prints [`UNREAD`] bytes and then runs `after`. Waits until that runs, or
/// until no process is left if it is empty.
async fn unread(client: &mut Client, identity: &Identity, after: &str) {
    let print = format!("head -c {UNREAD} /dev/zero | tr '\\0' x");
    client.exec("bash", &format!("{print}; {after}")).await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    let name = after.split(' ').nth(1).unwrap_or_default();
    let is_printed = || {
        let mut names = processes_of(identity).into_iter().map(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.unwrap_or_default()
        });
        match name {
            "" => names.count() == 0,
            name => names.any(|it| it.trim() == name),
        }
    };
    eventually("all is printed", is_printed).await;
}

/// The lines up to `last`, without the output, which must come first.
async fn after_the_output(client: &mut Client, last: &str) -> Vec<String> {
    let mut lines = client.until(last).await;
    let output = lines.remove(0);
    assert_eq!(output.len(), "stdout: ".len() + UNREAD, "{lines:?}");
    lines
}

#[tokio::test]
async fn a_checkpoint_is_refused_before_the_output_is_read() {
    let state = tempfile::tempdir().unwrap();
    let server = with_room(state.path()).await;
    let config = json!({"idle_timeout": 60, "enable_checkpoint": true});
    let (mut client, identity) = Client::create_with(&server, config).await;
    unread(&mut client, &identity, "").await;
    client.action("checkpoint").await;
    let mut lines = client.until("SANDBOX_EXECUTION_DONE").await;
    lines.retain(|line| !line.starts_with("stdout: "));
    assert_eq!(
        lines,
        [
            "SANDBOX_CHECKPOINTING",
            "SANDBOX_EXECUTION_IN_PROGRESS_ERROR",
            "error: Cannot checkpoint while an execution is in progress.",
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    client.action("checkpoint").await;
    client.until("SANDBOX_CHECKPOINTED").await;
}

#[tokio::test]
async fn a_handoff_first_delivers_the_output() {
    let state = tempfile::tempdir().unwrap();
    let servers = [with_room(state.path()).await, with_room(state.path()).await];
    for after in ["", "exec sleep 1000"] {
        let (mut client, identity) = Client::create_for_handoff(&servers[0]).await;
        unread(&mut client, &identity, after).await;
        let mut next = Client::connect(&servers[1], &identity.attach_path()).await;
        next.until("SANDBOX_RUNNING").await;
        let lines = after_the_output(&mut client, "close 1000").await;
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let mut expected = vec![
            "SANDBOX_LOCK_RELEASE_REQUESTED",
            "SANDBOX_CHECKPOINTING",
            "SANDBOX_DELETING",
            "SANDBOX_LOCK_RELEASING",
            "SANDBOX_LOCK_RELEASED",
            "SANDBOX_DELETED",
            "SANDBOX_CHECKPOINTED",
            "close 1000",
        ];
        match lines[0] {
            "SANDBOX_EXECUTION_DONE" => expected.insert(0, lines[0]),
            // The server had not noticed the end of the exec, or killed the exec.
            _ => {
                expected.insert(2, "SANDBOX_EXECUTION_FORCE_KILLED");
                expected.insert(3, "SANDBOX_EXECUTION_DONE");
            }
        }
        assert_eq!(lines, expected);
        next.kill_sandbox().await;
    }
}

/// The time limit for the answer to the close frame must not count while the client reads.
#[tokio::test]
async fn a_slow_client_gets_all_output_before_the_close() {
    let state = tempfile::tempdir().unwrap();
    let server = with_room(state.path()).await;
    let (mut client, identity) = Client::create(&server).await;
    unread(&mut client, &identity, "exec sleep 1000").await;
    client.action("kill_sandbox").await;
    let (mut read, mut next_pause) = (0, UNREAD / 8);
    loop {
        let line = client.line().await;
        match line.strip_prefix("stdout: ") {
            Some(data) => read += data.len(),
            None if line == "close 1000" => break,
            None => assert!(line.starts_with("SANDBOX_"), "{line} after {read} bytes"),
        }
        if read >= next_pause {
            // The input of this test is a slow client: it takes 8 s in all.
            next_pause += UNREAD / 8;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
    assert_eq!(read, UNREAD);
}

#[tokio::test]
async fn a_kill_of_a_sandbox_first_delivers_the_output() {
    let state = tempfile::tempdir().unwrap();
    let server = with_room(state.path()).await;
    for after in ["", "exec sleep 1000"] {
        let (mut client, identity) = Client::create(&server).await;
        unread(&mut client, &identity, after).await;
        client.action("kill_sandbox").await;
        let lines = after_the_output(&mut client, "close 1000").await;
        // `DONE` is missing if the exec was killed.
        let is_done = lines[0] == "SANDBOX_EXECUTION_DONE";
        let expected = [
            "SANDBOX_KILLING",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_KILLED",
            "close 1000",
        ];
        assert_eq!(lines[usize::from(is_done)..], expected);
    }
}

#[tokio::test]
async fn input_after_the_exit_costs_no_output() {
    let state = tempfile::tempdir().unwrap();
    let server = with_room(state.path()).await;
    let (mut client, identity) = Client::create(&server).await;
    unread(&mut client, &identity, "").await;
    client.stdin("late\n").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    let (output, mut lines): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.starts_with("stdout: "));
    let printed: usize = output
        .iter()
        .map(|line| line.len() - "stdout: ".len())
        .sum();
    assert_eq!(printed, UNREAD);
    // If the server has not noticed the end of the process yet, it accepts the input.
    if lines.len() > 1 {
        let refused = [
            "SANDBOX_STDIN_ERROR",
            "error: The input was not accepted: the process has closed its standard input.",
        ];
        assert_eq!(lines.drain(..2).collect::<Vec<_>>(), refused);
    }
    assert_eq!(lines, ["SANDBOX_EXECUTION_DONE"]);
    client.stdin("later\n").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_ERROR");
}
