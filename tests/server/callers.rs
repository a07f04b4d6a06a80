//! Access to the server, and limits for each caller.

use std::{net::SocketAddr, time::Duration};

use crate::support::raw_client::{Client, Identity, PATIENCE, eventually, get, parts};
use actix_sandbox::server::LocalServer;
use futures::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Sends these bytes. Returns all that the server answers until it closes, without the date header.
async fn answer(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    rest(socket).await
}

async fn rest(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    let _ = read.expect("the answer ends");
    let answer = String::from_utf8_lossy(&answer);
    let lines = answer.split("\r\n").filter(|it| !it.starts_with("date: "));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn requests_without_the_secret_all_get_the_same_empty_404() {
    let server = LocalServer::builder()
        .access_token("an-access-token-of-this-test")
        .start()
        .await
        .unwrap();
    let (address, secret) = (server.address(), parts(server.url()).1);
    let expected = "HTTP/1.1 404 Not Found\ncontent-length: 0\nconnection: close\n\n";
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let wrong = format!("/{}", "0".repeat(secret.len() - 1));
    let longer = format!("{secret}0");
    let shorter = &secret[..secret.len() - 1];
    let doubled = format!("/{secret}");
    let encoded = format!("/%{:02x}{}", secret.as_bytes()[1], &secret[2..]);
    for base in [
        "",
        &wrong,
        &longer,
        shorter,
        &doubled,
        &encoded,
        "/create",
        "/healthz",
        "/{secret}",
    ] {
        for path in [
            "/",
            "/create",
            "/status",
            "/sandboxes",
            "/execute?language=bash",
            "/attach/a",
            "/attach/a?sandbox_token=b",
            "/nothing",
        ] {
            for method in ["GET", "POST", "HEAD", "OPTIONS", "PUT", "NONSENSE"] {
                for headers in [
                    "Host: localhost\r\n",
                    "Host: evil.example\r\n",
                    "Host: localhost\r\nOrigin: https://evil.example\r\n",
                    "Host: localhost\r\nAuthorization: Bearer wrong\r\n",
                ] {
                    let request = format!(
                        "{method} {base}{path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"
                    );
                    assert_eq!(answer(address, &request).await, expected, "{request}");
                }
            }
            let request = format!("GET {base}{path} HTTP/1.1\r\nHost: {address}\r\n{upgrade}\r\n");
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            let said = rest(socket).await;
            assert!(
                said.starts_with("HTTP/1.1 404 Not Found\ncontent-length: 0\n"),
                "{request}{said}"
            );
        }
    }
    // With the secret, the server makes the other checks.
    for (headers, status) in [
        ("Origin: https://evil.example\r\n", 403),
        ("", 401),
        (
            "Authorization: Bearer an-access-token-of-this-test\r\n",
            200,
        ),
    ] {
        let request = format!(
            "GET {secret}/status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
        );
        let said = answer(address, &request).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
    }
    server.stop().await;
}

#[tokio::test]
async fn health_checks_need_no_secret_and_show_none() {
    let server = LocalServer::builder()
        .max_sandboxes(3)
        .start()
        .await
        .unwrap();
    let address = server.address();
    for (path, body) in [
        ("/healthz", r#"{"status":"ok"}"#),
        (
            "/readyz",
            r#"{"status":"ready","sandboxes":0,"max_sandboxes":3}"#,
        ),
    ] {
        let ask = |method: &str| {
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        };
        let said = answer(address, &ask("GET")).await;
        assert!(
            said.starts_with("HTTP/1.1 200 OK\n") && said.ends_with(body),
            "{said}"
        );
        let said = answer(address, &ask("POST")).await;
        assert!(said.starts_with("HTTP/1.1 404 Not Found\n"), "{said}");
    }
    server.stop().await;
}

#[tokio::test]
async fn no_debug_of_a_server_shows_its_secret() {
    const SECRET: &str = "a-secret-of-this-test-alone";
    let builder = LocalServer::builder().secret(SECRET);
    let shown = format!("{builder:?} {builder:#?}");
    let server = builder.start().await.unwrap();
    assert_eq!(
        server.url(),
        format!("http://{}/{SECRET}", server.address())
    );
    assert_eq!(get(&server, "/status", &[]).await.0, 200);
    for shown in [shown, format!("{server:?} {server:#?}")] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    server.stop().await;
    let error = LocalServer::builder().secret("too short").start().await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("expected 22 to 128"), "{error}");
}

#[tokio::test]
async fn slow_uploads_are_answered_408_and_closed() {
    let server = LocalServer::builder()
        .request_timeout(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    let secret = parts(server.url()).1;
    let slow = |_| async {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        let head = format!(
            "POST {secret}/execute?language=bash HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\necho"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        rest(socket).await
    };
    for said in join_all((0..200).map(slow)).await {
        assert!(said.starts_with("HTTP/1.1 408 Request Timeout\n"), "{said}");
        assert!(
            said.contains("did not come in whole within 300ms"),
            "{said}"
        );
    }
    assert_eq!(server.sandbox_count(), 0);
    // A client that never sends its configuration gets a reason, too.
    let mut silent = Client::connect(&server, "/create").await;
    assert_eq!(silent.line().await, "SANDBOX_CREATION_ERROR");
    let reason = silent.line().await;
    assert!(
        reason.contains("No configuration came within 300ms"),
        "{reason}"
    );
    server.stop().await;
}

/// Creates a sandbox from this local address. The error is the reason of a refusal.
async fn create_from(server: &LocalServer, from: &str) -> Result<(Client, Identity), String> {
    let (_, secret) = parts(server.url());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    let socket = socket.connect(server.address()).await.unwrap();
    let mut client =
        Client::upgrade(&format!("ws://{}{secret}/create", server.address()), socket).await;
    client.send(json!({"idle_timeout": 60})).await;
    assert_eq!(client.line().await, "SANDBOX_CREATING");
    let line = client.line().await;
    let Some(identity) = line.strip_prefix("sandbox_id ") else {
        assert_eq!(line, "SANDBOX_CREATION_ERROR");
        return Err(client.line().await);
    };
    let (id, token) = identity.split_once(' ').unwrap();
    let (id, token) = (id.to_owned(), token.to_owned());
    assert_eq!(client.line().await, "SANDBOX_RUNNING");
    Ok((client, Identity { id, token }))
}

/// Only on Linux can a process bind any address of 127.0.0.0/8.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_does_not_take_the_places_of_others() {
    let server = LocalServer::builder()
        .max_sandboxes_per_client(2)
        .start()
        .await
        .unwrap();
    let (greedy, modest) = ("127.0.0.2:0", "127.0.0.3:0");
    let first = create_from(&server, greedy).await.unwrap();
    let _second = create_from(&server, greedy).await.unwrap();
    let refused = create_from(&server, greedy).await.err().unwrap();
    assert!(refused.contains("limit of 2 sandboxes"), "{refused}");
    let _other = create_from(&server, modest).await.unwrap();
    // `/execute` counts against the same limit.
    let _own = [Client::create(&server).await, Client::create(&server).await];
    let (_, secret) = parts(server.url());
    let request = format!(
        "POST {secret}/execute?language=bash HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\ntrue"
    );
    let said = answer(server.address(), &request).await;
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(said.contains("limit of 2 sandboxes"), "{said}");
    first.0.kill_sandbox().await;
    eventually("the killed sandbox is gone", || server.sandbox_count() == 4).await;
    let _again = create_from(&server, greedy).await.unwrap();
    server.stop().await;
}
