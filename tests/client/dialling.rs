//! Peers that can't be reached, or that are not a sandbox service. Each gives a distinct error with
//! the address and the cause.

use std::time::Duration;

use actix_sandbox::{Error, ErrorKind, Sandbox};
use tokio::io::AsyncWriteExt;

use crate::support::{
    port::Port,
    scripted::{Heard, Peer, Scripted, drain, read_head, within},
};

async fn create(server: &Scripted) -> Error {
    within(
        "the end of create",
        Sandbox::create(server.url()).into_future(),
    )
    .await
    .expect_err("no sandbox")
}

/// Asserts the kind of an error, and that its text names the address and the cause.
fn check(error: &Error, kind: ErrorKind, address: &str, cause: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(address), "no address {address} in: {text}");
    assert!(text.contains(cause), "no cause {cause:?} in: {text}");
    assert!(text.chars().count() < 1_000, "too long: {text}");
    assert!(
        std::error::Error::source(error).is_some(),
        "no source: {text}"
    );
}

#[actix::test]
async fn a_port_where_nothing_listens_says_so() {
    let port = Port::reserve();
    let address = port.address();
    let create = Sandbox::create(format!("ws://{address}")).into_future();
    let error = within("the end of create", create).await.unwrap_err();
    check(
        &error,
        ErrorKind::Connect,
        &address.to_string(),
        "is the server running",
    );
    assert!(error.is_retryable());
}

#[actix::test]
async fn a_host_that_does_not_resolve_says_so() {
    let create = Sandbox::create("ws://no-such-host.invalid:8080")
        .connect_timeout(Duration::from_secs(25))
        .into_future();
    let error = within("the end of create", create).await.unwrap_err();
    check(
        &error,
        ErrorKind::Resolve,
        "`no-such-host.invalid`",
        "does not resolve: ",
    );
}

/// The error of a refused upgrade gives the HTTP status. For 401 and 403, it adds how to
/// authenticate.
#[actix::test]
async fn a_refused_upgrade_says_the_status_and_what_to_do() {
    for (status, hint) in [
        ("401 Unauthorized", "roles/run.invoker"),
        ("403 Forbidden", "`Authorization` header"),
        ("404 Not Found", "is this the URL of a sandbox service?"),
        ("426 Upgrade Required", "426"),
        ("500 Internal Server Error", "500"),
        ("503 Service Unavailable", "503"),
        ("200 OK", "200"),
        (
            "301 Moved Permanently\r\nlocation: http://elsewhere/",
            "301",
        ),
    ] {
        let server = Scripted::bind().await;
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let builder = Sandbox::create(server.url()).create_timeout(Duration::from_millis(1));
        let (error, _stream) = futures::join!(
            within("the end of create", builder.into_future()),
            server.answer(answer.as_bytes())
        );
        let error = error.expect_err("no sandbox");
        check(&error, ErrorKind::UpgradeRefused, &server.address(), hint);
        let code = &status[..3];
        assert!(
            error.to_string().contains(&format!("HTTP status {code}")),
            "{error}"
        );
        assert_eq!(error.http_status(), code.parse().ok());
        assert_eq!(error.is_retryable(), code.starts_with('5'), "{error}");
        let hinted = error.to_string().contains("Authorization");
        assert_eq!(hinted, code == "401" || code == "403", "{error}");
    }
}

#[actix::test]
async fn the_connection_of_a_refused_upgrade_is_closed() {
    let server = Scripted::bind().await;
    let (_, mut stream) = futures::join!(
        create(&server),
        server.answer(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
    );
    assert_eq!(drain(&mut stream).await, 0);
}

/// The answer to the upgrade request is not valid HTTP.
#[actix::test]
async fn a_peer_that_speaks_no_http_is_no_websocket_server() {
    let long = vec![b'A'; 300_000];
    for answer in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"220 smtp.example.com ESMTP\r\n",
        b"\x00\x01\x02\x03\xff\xfe garbage \r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"HTTP/1.1 abc nonsense\r\n\r\n",
        b"HTTP/9.9 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nbad header\r\n\r\n",
        &long,
    ] {
        let server = Scripted::bind().await;
        let (error, _stream) = futures::join!(create(&server), async {
            let mut stream = server.tcp().await;
            read_head(&mut stream).await;
            // The client may close before it has read all of a long answer.
            let _ = stream.write_all(answer).await;
            stream
        });
        check(
            &error,
            ErrorKind::NotWebSocket,
            &server.address(),
            "is not a WebSocket server: ",
        );
        assert!(!error.is_retryable(), "{error}");
    }
}

/// The answer has status 101, but its headers don't complete a WebSocket upgrade. The error quotes
/// at most an excerpt of them.
#[actix::test]
async fn a_wrong_upgrade_answer_is_no_websocket_server() {
    let huge = format!("connection: {}", "x".repeat(50_000));
    for (headers, cause) in [
        (
            "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "challenge",
        ),
        ("upgrade: websocket\r\nconnection: upgrade", "Accept"),
        ("upgrade: h2c\r\nconnection: upgrade", "upgrade header"),
        ("connection: upgrade", "upgrade header"),
        ("upgrade: websocket", "onnection header"),
        (
            "upgrade: websocket\r\nconnection: close",
            "onnection header",
        ),
        (&format!("upgrade: websocket\r\n{huge}"), "onnection header"),
    ] {
        let server = Scripted::bind().await;
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n\r\n");
        let (error, mut stream) = futures::join!(create(&server), server.answer(answer.as_bytes()));
        check(&error, ErrorKind::NotWebSocket, &server.address(), cause);
        assert_eq!(
            drain(&mut stream).await,
            0,
            "the client sent a configuration"
        );
    }
}

/// The peer accepts TCP and closes: before or after it reads the request, or in the middle of its
/// answer. It may be restarting, so the error is retryable.
#[actix::test]
async fn a_peer_that_closes_instead_of_an_answer_is_a_lost_link() {
    let partial = b"HTTP/1.1 101 Switching Pro";
    for (read, answer) in [
        (true, &b""[..]),
        (false, b""),
        (true, partial),
        (false, partial),
    ] {
        let server = Scripted::bind().await;
        let (error, ()) = futures::join!(create(&server), async {
            let mut stream = server.tcp().await;
            if read {
                read_head(&mut stream).await;
            }
            // If the request is unread, the kernel resets the connection instead of closing it.
            let _ = stream.write_all(answer).await;
        });
        check(
            &error,
            ErrorKind::LinkLost,
            &server.address(),
            "before it answered the upgrade",
        );
        assert!(error.is_retryable(), "{error}");
    }
}

/// The peer accepts TCP, then sends nothing or never completes its answer.
#[actix::test]
async fn a_peer_that_never_answers_the_upgrade_is_a_timeout() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: webso",
    ] {
        let server = Scripted::bind().await;
        let builder = Sandbox::create(server.url()).connect_timeout(Duration::from_secs(2));
        let (error, mut stream) = futures::join!(
            within("the connect timeout", builder.into_future()),
            server.answer(answer)
        );
        let error = error.unwrap_err();
        check(
            &error,
            ErrorKind::Timeout,
            &server.address(),
            "no WebSocket connection",
        );
        assert!(error.to_string().contains("2s"), "{error}");
        assert!(error.is_retryable());
        // The client closes the connection when the call fails.
        drain(&mut stream).await;
    }
}

/// The server sends frames in the same write as its answer to the upgrade.
#[actix::test]
async fn frames_right_behind_the_upgrade_answer_are_not_lost() {
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

    let server = Scripted::bind().await;
    let (sandbox, _stream) = futures::join!(
        within("the sandbox", Sandbox::create(server.url()).into_future()),
        async {
            let mut stream = server.tcp().await;
            let head = read_head(&mut stream).await;
            let key = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .starts_with("sec-websocket-key:")
                        .then(|| line[18..].trim().to_owned())
                })
                .expect("a key");
            let mut answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
                derive_accept_key(key.as_bytes())
            )
            .into_bytes();
            for text in [
                r#"{"event":"sandbox_id","sandbox_id":"a","sandbox_token":"b"}"#,
                r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#,
            ] {
                answer.extend(crate::support::scripted::frame(0x81, text.as_bytes()));
            }
            stream.write_all(&answer).await.unwrap();
            stream
        }
    );
    assert_eq!(sandbox.unwrap().sandbox_id().as_str(), "a");
}

/// The future is dropped while the client waits for the answer to the upgrade.
#[actix::test]
async fn dropping_create_during_the_dial_ends_the_connection() {
    let server = Scripted::bind().await;
    let mut stream = {
        let create = Sandbox::create(server.url()).into_future();
        let accepted = async {
            let mut stream = server.tcp().await;
            read_head(&mut stream).await;
            stream
        };
        let accepted = std::pin::pin!(accepted);
        match futures::future::select(create, accepted).await {
            futures::future::Either::Left((result, _)) => panic!("no answer, yet {result:?}"),
            futures::future::Either::Right((stream, _create)) => stream,
        }
    };
    assert_eq!(drain(&mut stream).await, 0);
}

/// The future is dropped as soon as the server has accepted the TCP connection.
#[actix::test]
async fn dropping_create_during_the_upgrade_leaves_nothing_open() {
    let server = Scripted::bind().await;
    let stream = {
        let create = Sandbox::create(server.url()).into_future();
        let accepted = std::pin::pin!(server.tcp());
        match futures::future::select(create, accepted).await {
            futures::future::Either::Left((result, _)) => panic!("no answer, yet {result:?}"),
            futures::future::Either::Right((stream, _create)) => stream,
        }
    };
    let mut stream = stream;
    drain(&mut stream).await;
}

/// A failed create leaves no state behind that could affect the next one.
#[actix::test]
async fn a_failed_create_does_not_disturb_the_next() {
    let server = Scripted::bind().await;
    let (error, stream) = futures::join!(
        create(&server),
        server.answer(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    );
    assert_eq!(error.kind(), ErrorKind::UpgradeRefused);
    drop(stream);
    let (sandbox, mut peer): (_, Peer) = futures::join!(
        within("the sandbox", Sandbox::create(server.url()).into_future()),
        server.running()
    );
    drop(sandbox.unwrap());
    assert_eq!(peer.heard().await, Heard::Close(Some(1000)));
}
