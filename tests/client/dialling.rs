//! Peers that are not there, or that are no sandbox service: a distinct error each, with the address
//! and the cause.

use std::time::Duration;

use actix_sandbox::{Error, ErrorKind, Sandbox};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::support::scripted::{Heard, Peer, Scripted, drain, read_head, within};

async fn create(server: &Scripted) -> Error {
    within(
        "the end of create",
        Sandbox::create(server.url()).into_future(),
    )
    .await
    .expect_err("no sandbox")
}

/// The kind, and an error that names the address and the cause.
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

/// Bad input: "nothing listens".
#[actix::test]
async fn a_port_where_nothing_listens_says_so() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
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

/// Bad input: "host does not resolve".
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

/// Bad input: "the upgrade is refused (status)"; parity: "a refused upgrade says the HTTP status; 401
/// and 403 add the authentication hint".
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

/// The connection of a failed upgrade is given up, not kept.
#[actix::test]
async fn the_connection_of_a_refused_upgrade_is_closed() {
    let server = Scripted::bind().await;
    let (_, mut stream) = futures::join!(
        create(&server),
        server.answer(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
    );
    assert_eq!(drain(&mut stream).await, 0);
}

/// Bad input: "the peer is no WebSocket server": no HTTP at all.
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
            // The client may be gone before it has taken a long answer.
            let _ = stream.write_all(answer).await;
            stream
        });
        check(
            &error,
            ErrorKind::NotWebSocket,
            &server.address(),
            "is no WebSocket server: ",
        );
        assert!(!error.is_retryable(), "{error}");
    }
}

/// Bad input: "the peer is no WebSocket server": HTTP, status 101, and yet no WebSocket. The text
/// quotes none of it at length.
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
            "a configuration was sent all the same"
        );
    }
}

/// Bad input: the peer accepts TCP and closes, before or after it read the request, or in the middle of
/// its answer. That can be a restart: dialling again may help.
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
            // Unread, the request makes this a reset instead of an end.
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

/// Bad input: the peer accepts TCP and says nothing, or never ends its answer.
#[actix::test]
async fn a_peer_that_never_answers_the_upgrade_is_a_timeout() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: webso",
    ] {
        let server = Scripted::bind().await;
        let builder = Sandbox::create(server.url()).connect_timeout(Duration::from_millis(200));
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
        assert!(error.to_string().contains("200ms"), "{error}");
        assert!(error.is_retryable());
        // The connection is given up with the call.
        drain(&mut stream).await;
    }
}

/// What the server says in the same breath as its answer to the upgrade counts.
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

/// Parity: "dropping the future of `create` cancels it": while the upgrade is waited for.
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
            futures::future::Either::Left((result, _)) => panic!("nobody answered, yet {result:?}"),
            futures::future::Either::Right((stream, _create)) => stream,
        }
    };
    assert_eq!(drain(&mut stream).await, 0);
}

/// Parity: "dropping the future of `create` cancels it": an upgrade that succeeds at that moment.
#[actix::test]
async fn dropping_create_during_the_upgrade_leaves_nothing_open() {
    let server = Scripted::bind().await;
    let stream = {
        let create = Sandbox::create(server.url()).into_future();
        let accepted = std::pin::pin!(server.tcp());
        match futures::future::select(create, accepted).await {
            futures::future::Either::Left((result, _)) => panic!("nobody answered, yet {result:?}"),
            futures::future::Either::Right((stream, _create)) => stream,
        }
    };
    let mut stream = stream;
    drain(&mut stream).await;
}

/// A server that lets one connection fail serves the next: nothing of the first is left behind.
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
