//! Limits on the memory that a client can make the server use. One test in its own binary, because
//! it measures the memory of the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use actix_sandbox::server::LocalServer;
use serde_json::json;
use support::{archives, raw_client::Client};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Peak resident memory of this process, in bytes.
fn peak_resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[tokio::test]
async fn clients_cannot_make_the_server_hold_more_than_they_send() {
    a_message_takes_no_memory_beyond_its_size().await;
    a_session_that_is_quiet_holds_no_memory().await;
    an_archive_takes_no_memory_beyond_its_limits().await;
}

/// The archive has a name of 1 GiB, which the server must not read into memory.
async fn an_archive_takes_no_memory_beyond_its_limits() {
    let state = tempfile::tempdir().unwrap();
    let builder = LocalServer::builder().state_directory(state.path());
    let server = builder.start().await.unwrap();
    archives::long_name(&state.path().join("snapshots/long.tar.lz4"));
    let before = peak_resident();
    let mut client = Client::connect(&server, "/create").await;
    let config = json!({"filesystem_snapshot_name": "long"});
    client.send(config).await;
    let lines = client.until("close 4000").await;
    assert!(lines[2].contains("headers of an entry"), "{lines:?}");
    let peak = peak_resident();
    assert!(peak.saturating_sub(before) < 64 << 20, "{before} {peak}");
    server.stop().await;
}

async fn a_message_takes_no_memory_beyond_its_size() {
    let server = LocalServer::start().await.unwrap();
    let before = peak_resident();
    let (mut client, _) = Client::create(&server).await;
    // As a parsed tree, each of these objects would take about 100 times the memory of its text.
    let objects = "{\"\":0},".repeat(2_000_000);
    let message = format!("{{\"action\":\"kill_process\",\"x\":[{objects}0]}}");
    client.send_raw(Message::text(message)).await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_FORCE_KILLED");
    let config = format!("{{\"idle_timeout\":7,\"x\":[{objects}0]}}");
    let mut other = Client::connect(&server, "/create").await;
    other.send_raw(Message::text(config)).await;
    other.until("SANDBOX_RUNNING").await;
    let peak = peak_resident();
    assert!(peak.saturating_sub(before) < 200 << 20, "{before} {peak}");
    server.stop().await;
}

async fn a_session_that_is_quiet_holds_no_memory() {
    let server = LocalServer::start().await.unwrap();
    let code = format!("# {}\necho done", "x".repeat(8 << 20));
    let message = json!({"language": "bash", "code": code}).to_string();
    // Written directly to the socket: the client's WebSocket would keep a buffer, too.
    let mut frame = vec![0x81, 0xFF];
    frame.extend((message.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(message.as_bytes());
    let mut clients = Vec::new();
    let mut before = 0;
    for number in 0..16 {
        let (mut client, _) = Client::create(&server).await;
        client.socket().write_all(&frame).await.unwrap();
        client.until("SANDBOX_EXECUTION_DONE").await;
        clients.push(client);
        if number == 3 {
            before = resident();
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown}");
    server.stop().await;
}
