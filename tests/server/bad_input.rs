//! Malformed and hostile messages of a client. The server gives the recorded answer or refuses with
//! a reason, it stays up, and other sandboxes are unaffected.

use crate::support::raw_client::{Client, PATIENCE, dial, get};
use actix_sandbox::server::LocalServer;
use serde_json::json;
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn wrong_values_in_the_configuration_are_refused_by_name() {
    let server = LocalServer::start().await.unwrap();
    for (config, part) in [
        (json!({"idle_timeout": -1}), "'idle_timeout'"),
        (json!({"idle_timeout": 0}), "'idle_timeout'"),
        (json!({"idle_timeout": 1.5}), "'idle_timeout'"),
        (json!({"idle_timeout": "60"}), "'idle_timeout'"),
        (json!({"idle_timeout": 1e300}), "'idle_timeout'"),
        (json!({"idle_timeout": u64::MAX}), "'idle_timeout'"),
        (json!({"idle_timeout": {"a": []}}), "'idle_timeout'"),
        (json!({"enable_checkpoint": "yes"}), "'enable_checkpoint'"),
        (
            json!({"filesystem_snapshot_name": 7}),
            "'filesystem_snapshot_name'",
        ),
        (
            json!({"filesystem_snapshot_name": "../../etc"}),
            "'../../etc' is not a valid name for a filesystem snapshot",
        ),
    ] {
        let mut client = Client::connect(&server, "/create").await;
        client.send(config).await;
        let lines = client.until("close 4000").await;
        assert_eq!(lines[..2], ["SANDBOX_CREATING", "SANDBOX_CREATION_ERROR"]);
        assert!(
            lines[2].starts_with("error: ") && lines[2].contains(part),
            "{lines:?}"
        );
        assert_eq!(lines.len(), 4);
    }
    server.stop().await;
}

#[tokio::test]
async fn wrong_types_in_messages_are_answered_and_the_session_goes_on() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    for (message, answer) in [
        (
            json!({"language": 7, "code": "x"}),
            "error: Unsupported language: '7'.",
        ),
        (
            json!({"language": null, "code": "x"}),
            "error: Unsupported language: ",
        ),
        (
            json!({"language": "bash", "code": 7}),
            "error: Invalid message format.",
        ),
        (
            json!({"language": "bash", "code": ["x"]}),
            "error: Invalid message format.",
        ),
        (
            json!({"event": "stdin", "data": 7}),
            "error: Invalid stdin message format.",
        ),
        (json!({"action": 7}), "error: Unsupported language: 'None'."),
        (json!({}), "error: Unsupported language: 'None'."),
        (
            json!({"language": "x".repeat(100_000), "code": ""}),
            "error: Unsupported language: 'xxx",
        ),
    ] {
        client.send(message).await;
        client.line().await;
        let line = client.line().await;
        assert!(line.starts_with(answer) && line.len() < 500, "{line}");
        if !answer.contains("stdin") {
            assert_eq!(client.line().await, "SANDBOX_EXECUTION_DONE");
        }
    }
    assert_eq!(client.bash("echo alive").await, "alive\n");
    server.stop().await;
}

#[tokio::test]
async fn ids_that_look_like_paths_are_not_found() {
    let server = LocalServer::start().await.unwrap();
    let long = "a".repeat(5_000);
    for id in [
        "..%2F..%2Fetc%2Fpasswd",
        "../../etc/passwd",
        "%2e%2e",
        "a%00b",
        "%FF%FE",
        "%",
        "",
        &long,
    ] {
        let mut client = Client::connect(&server, &format!("/attach/{id}?sandbox_token=x")).await;
        assert_eq!(
            client.until("close 1011").await,
            ["SANDBOX_RESTORING", "SANDBOX_NOT_FOUND", "close 1011"],
            "{id}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn web_pages_are_refused() {
    let server = LocalServer::builder()
        .allowed_origin("https://friend.example")
        .allowed_host("sandbox.example")
        .start()
        .await
        .unwrap();
    let (_client, identity) = Client::create(&server).await;
    for path in ["/create", "/status", "/", &identity.attach_path()] {
        for origin in ["https://evil.example", "null", "http://127.0.0.1"] {
            let (status, reason) = get(&server, path, &[("Origin", origin)]).await;
            assert_eq!(status, 403, "{path} {origin}");
            assert!(reason.contains("allowed_origin"), "{reason}");
        }
        for host in [
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "10.0.0.1",
        ] {
            let (status, reason) = get(&server, path, &[("Host", host)]).await;
            assert_eq!(status, 403, "{path} {host}");
            assert!(reason.contains("allowed_host"), "{reason}");
        }
    }
    assert!(
        dial(&server, "/create", &[("origin", "https://evil.example")])
            .await
            .is_err()
    );
    assert!(
        dial(&server, "/create", &[("host", "evil.example")])
            .await
            .is_err()
    );
    assert!(
        dial(&server, "/create", &[("origin", "https://friend.example")])
            .await
            .is_ok()
    );
    assert!(
        dial(&server, "/create", &[("host", "sandbox.example:80")])
            .await
            .is_ok()
    );
    let port = server.address().port();
    assert_eq!(
        get(
            &server,
            "/status",
            &[("Host", &format!("localhost:{port}"))]
        )
        .await
        .0,
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn a_frame_that_announces_too_much_is_not_read() {
    let server = LocalServer::start().await.unwrap();
    let (mut other, _) = Client::create(&server).await;
    let (mut client, identity) = Client::create(&server).await;
    let before = resident();
    // The header of a text frame of 1 GiB, masked with zeros. Only 64 MiB follow.
    let header = [0x81, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0];
    let socket = client.socket();
    socket.write_all(&header).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..64 {
        // The server may close the connection meanwhile.
        if !matches!(
            timeout(PATIENCE, socket.write_all(&chunk)).await,
            Ok(Ok(()))
        ) {
            break;
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown}");
    assert_eq!(client.line().await, "close 1009");
    drop(client);
    // Only the session has ended, not the sandbox.
    Client::attach(&server, &identity).await;
    assert_eq!(other.bash("echo fine").await, "fine\n");
    server.stop().await;
}

#[tokio::test]
async fn fragments_are_one_message_and_are_limited_together() {
    let server = LocalServer::builder()
        .max_message_size(1_000)
        .start()
        .await
        .unwrap();
    let (mut client, identity) = Client::create(&server).await;
    let fragment = |data: &str, opcode, last| {
        Message::Frame(Frame::message(data.to_owned(), OpCode::Data(opcode), last))
    };
    client
        .send_raw(fragment(r#"{"language":"bash","#, Data::Text, false))
        .await;
    client.send_raw(Message::Ping("between".into())).await;
    client
        .send_raw(fragment(r#""code":"#, Data::Continue, false))
        .await;
    client
        .send_raw(fragment(r#""echo joined"}"#, Data::Continue, true))
        .await;
    assert_eq!(client.line().await, "pong between");
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(lines[1], "stdout: joined\n");

    client
        .send_raw(fragment(&"x".repeat(600), Data::Text, false))
        .await;
    client
        .send_raw(fragment(&"x".repeat(600), Data::Continue, false))
        .await;
    assert_eq!(client.line().await, "close 1009");
    let mut client = Client::attach(&server, &identity).await;
    client.send_raw(Message::text("x".repeat(1_001))).await;
    assert_eq!(client.line().await, "close 1009");
    server.stop().await;
}

#[tokio::test]
async fn invalid_frames_end_only_their_session() {
    let server = LocalServer::start().await.unwrap();
    let (mut other, _) = Client::create(&server).await;
    for bytes in [
        &[0x81, 0x05, b'h', b'e', b'l', b'l', b'o'][..], // not masked
        &[0x8F, 0x80, 0, 0, 0, 0],                       // an unknown opcode
        &[0xF1, 0x80, 0, 0, 0, 0],                       // reserved bits
        &[0x80, 0x80, 0, 0, 0, 0],                       // a continuation without a message
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let (mut client, identity) = Client::create(&server).await;
        client.socket().write_all(bytes).await.unwrap();
        let line = client.line().await;
        assert!(line == "close 1002" || line == "lost", "{bytes:?} {line}");
        Client::attach(&server, &identity)
            .await
            .kill_sandbox()
            .await;
    }
    assert_eq!(other.bash("echo fine").await, "fine\n");
    server.stop().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_a_malformed_frame() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    let bytes = [0x81, 0x82, 0, 0, 0, 0, 0xFF, 0xFE];
    client.socket().write_all(&bytes).await.unwrap();
    assert_eq!(client.line().await, "lost");
    Client::attach(&server, &identity).await;
    server.stop().await;
}

#[tokio::test]
async fn a_sandbox_over_the_limit_is_refused_with_a_reason() {
    let server = LocalServer::builder()
        .max_sandboxes(2)
        .start()
        .await
        .unwrap();
    let (first, _) = Client::create(&server).await;
    let (_second, _) = Client::create(&server).await;
    let mut third = Client::connect(&server, "/create").await;
    third.send(json!({})).await;
    let lines = third.until("close 4000").await;
    assert_eq!(lines[1], "SANDBOX_CREATION_ERROR");
    assert!(lines[2].contains("limit of 2 sandboxes"), "{lines:?}");
    first.kill_sandbox().await;
    Client::create(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn answers_that_are_never_read_end_the_session_not_the_server() {
    let server = LocalServer::start().await.unwrap();
    let (mut deaf, identity) = Client::create(&server).await;
    let mut said = 0;
    // The socket buffers take some of the messages. Then the server ends the session.
    let flood = async {
        let message = Message::text(format!(r#"{{"language":"{}","code":""}}"#, "x".repeat(90)));
        loop {
            said += 1;
            if said > 500_000 {
                break;
            }
            deaf.send_raw(message.clone()).await;
        }
    };
    let attached = async {
        loop {
            let mut client = Client::connect(&server, &identity.attach_path()).await;
            if client.line().await == "SANDBOX_RUNNING" {
                break client;
            }
        }
    };
    let mut client = tokio::select! {
        client = attached => client,
        () = flood => panic!("the server took every message"),
    };
    assert_eq!(client.bash("echo here").await, "here\n");
    server.stop().await;
}
