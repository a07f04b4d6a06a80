//! A link is lost, the sandbox stays alive, and another link takes over its exec.

use std::{path::Path, time::Duration};

use crate::support::{
    backend,
    raw_client::{Client, Identity, entries, eventually, processes_of},
};
use actix_sandbox::server::LocalServer;

#[tokio::test]
async fn detached_output_is_kept_in_order() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client
        .exec(
            "bash",
            "for i in {1..8}; do echo L$i; done; read go; for i in {9..20}; do echo L$i; sleep 0.05; done",
        )
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    let mut heard = String::new();
    while !heard.contains("L8\n") {
        heard += client.line().await.strip_prefix("stdout: ").unwrap();
    }
    drop(client);
    // A client that only writes to stdin receives no output.
    let mut feeder = Client::attach(&server, &identity).await;
    feeder.feed().await;
    drop(feeder);
    eventually("all is written", || processes_of(&identity).is_empty()).await;

    let mut client = Client::attach(&server, &identity).await;
    client.stays_silent(Duration::from_millis(50)).await;
    client.action("reconnect").await;
    let all: String = (1..=20).map(|i| format!("L{i}\n")).collect();
    let rest = all.strip_prefix(&heard).unwrap();
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await,
        [
            "SANDBOX_EXECUTION_RUNNING",
            &format!("stdout: {rest}"),
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    assert_eq!(client.bash("echo after").await, "after\n");
    client.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn a_reconnect_in_the_middle_continues_the_output() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client
        .exec(
            "bash",
            "echo one; read a; echo two; read b; echo three; sleep 0.2; echo four",
        )
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    assert_eq!(client.line().await, "stdout: one\n");
    client.stdin("x\n").await;
    assert_eq!(client.line().await, "stdout: two\n");
    drop(client);
    let mut client = Client::attach(&server, &identity).await;
    client.action("reconnect").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    client.stdin("x\n").await;
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await,
        ["stdout: three\nfour\n", "SANDBOX_EXECUTION_DONE"]
    );
    // The end may have been lost on the way, so the server repeats it on request.
    client.action("reconnect").await;
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await,
        ["SANDBOX_EXECUTION_RUNNING", "SANDBOX_EXECUTION_DONE"]
    );
    server.stop().await;
}

#[tokio::test]
async fn a_reconnect_without_an_exec_ends_only_the_session() {
    let server = LocalServer::start().await.unwrap();
    let (client, identity) = Client::create(&server).await;
    drop(client);
    let mut client = Client::attach(&server, &identity).await;
    client.action("reconnect").await;
    assert_eq!(
        client.until("close 4000").await,
        [
            "SANDBOX_ERROR",
            "error: There is no execution to reconnect to.",
            "close 4000"
        ]
    );
    let mut client = Client::attach(&server, &identity).await;
    assert_eq!(client.bash("echo here").await, "here\n");
    server.stop().await;
}

#[tokio::test]
async fn unread_output_is_bounded_and_not_lost() {
    let server = LocalServer::builder()
        .output_buffer(128 * 1024)
        .start()
        .await
        .unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client
        .exec("bash", "read go; seq 1 1000000; touch done")
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    client.stdin("\n").await;
    assert_eq!(client.line().await.split('\n').next(), Some("stdout: 1"));
    drop(client);

    // Before `reconnect`, the server answers requests, but holds back the output.
    let mut client = Client::attach(&server, &identity).await;
    client.exec("bash", "echo second").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_ERROR");
    assert_eq!(
        client.line().await,
        "error: An execution is already in progress."
    );
    client.stays_silent(Duration::from_millis(100)).await;
    client.action("reconnect").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    // Output that was on the wire when the link broke is lost: v1 has no acknowledgements. Output
    // that the server still had is complete and in order.
    let numbers: Vec<u32> = lines[1]
        .strip_prefix("stdout: ")
        .unwrap()
        .split_whitespace()
        .skip(1)
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b));
    assert_eq!(numbers.last(), Some(&1_000_000));
    server.stop().await;
}

#[tokio::test]
async fn a_kill_by_a_client_that_did_not_take_over_is_confirmed() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.exec("bash", "echo begun; sleep 1000").await;
    assert_eq!(client.until("stdout: begun\n").await.len(), 2);
    drop(client);
    let mut client = Client::attach(&server, &identity).await;
    client.action("kill_process").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_FORCE_KILLED");
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    client.action("reconnect").await;
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await,
        ["SANDBOX_EXECUTION_RUNNING", "SANDBOX_EXECUTION_DONE"]
    );
    server.stop().await;
}

#[tokio::test]
async fn a_refused_request_keeps_the_output_for_reconnect() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.exec("bash", "read line; echo kept").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    drop(client);
    let mut feeder = Client::attach(&server, &identity).await;
    feeder.feed().await;
    eventually("it has printed", || processes_of(&identity).is_empty()).await;
    // The answer shows that the exec has ended.
    feeder.action("kill_process").await;
    assert_eq!(feeder.line().await, "SANDBOX_EXECUTION_FORCE_KILLED");
    drop(feeder);
    let mut client = Client::attach(&server, &identity).await;
    client.action("nope").await;
    client.until("SANDBOX_EXECUTION_DONE").await;
    client.action("reconnect").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(lines[1..], ["stdout: kept\n", "SANDBOX_EXECUTION_DONE"]);
    server.stop().await;
}

#[tokio::test]
async fn a_request_sent_just_before_a_cut_is_served() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.exec("bash", "echo done > file").await;
    drop(client);
    let mut client = Client::attach(&server, &identity).await;
    client.action("reconnect").await;
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await,
        ["SANDBOX_EXECUTION_RUNNING", "SANDBOX_EXECUTION_DONE"]
    );
    assert_eq!(client.bash("cat file").await, "done\n");
    server.stop().await;
}

/// Drops the client of a sandbox, and waits until the server has deleted the sandbox.
async fn leave_until_deleted(directory: &Path, client: Client, identity: &Identity) {
    let root = entries(directory).remove(0);
    let its_own = root.join(&identity.id);
    assert!(its_own.exists());
    drop(client);
    eventually("its directory is gone", || !its_own.exists()).await;
}

#[tokio::test]
async fn a_sandbox_without_a_client_is_deleted_when_it_is_idle() {
    let directory = tempfile::tempdir().unwrap();
    let server = LocalServer::builder()
        .directory(directory.path())
        .start()
        .await
        .unwrap();
    let config = serde_json::json!({"idle_timeout": 5});
    let (mut client, identity) = Client::create_with(&server, config).await;
    client
        .exec("bash", "sleep 1000 > /dev/null 2>&1 & echo")
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    leave_until_deleted(directory.path(), client, &identity).await;
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    let mut late = Client::connect(&server, &identity.attach_path()).await;
    assert_eq!(late.line().await, "SANDBOX_RESTORING");
    assert_eq!(late.line().await, "SANDBOX_NOT_FOUND");
    server.stop().await;
}

/// A builtin has no time limit, so one that waits for a lost client must not keep the sandbox.
#[tokio::test]
async fn a_builtin_without_a_client_keeps_no_sandbox() {
    let directory = tempfile::tempdir().unwrap();
    let server = LocalServer::builder()
        .directory(directory.path())
        .start()
        .await
        .unwrap();
    let config = serde_json::json!({"idle_timeout": 5});
    let (mut client, identity) = Client::create_v2_with(&server, config).await;
    let write = serde_json::json!({"op": "write", "path": "file", "mode": "replace"});
    client
        .send(serde_json::json!({"exec": "write", "builtin": write}))
        .await;
    assert_eq!(client.json().await["status"], "SANDBOX_EXECUTION_RUNNING");
    leave_until_deleted(directory.path(), client, &identity).await;
    server.stop().await;
}
