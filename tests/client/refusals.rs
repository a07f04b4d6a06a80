//! Refused upgrades. The error contains the server's reason, and the client retries if the server
//! is busy.

use std::time::{Duration, SystemTime};

use actix_http::header::HttpDate;
use actix_sandbox::{Error, ErrorKind, Language, ReconnectPolicy, Sandbox};
use futures::future::join;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::scripted::{Heard, Scripted, TOKEN, clock, drain, read_head, shown, within};

/// Returns the error of a `create` whose upgrade request gets this answer.
async fn refused(answer: &str) -> Error {
    let server = Scripted::bind().await;
    let create = within(
        "the end of create",
        Sandbox::create(server.url())
            .header("x-key", "key-7c1b9e-secret")
            .create_timeout(Duration::from_millis(1))
            .into_future(),
    );
    let (error, _stream) = join(create, server.answer(answer.as_bytes())).await;
    let error = error.expect_err("no sandbox");
    assert_eq!(error.kind(), ErrorKind::UpgradeRefused, "{error}");
    error
}

fn with_body(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

#[actix::test]
async fn the_body_of_a_refusal_is_in_the_error() {
    for (body, part) in [
        (
            "quota used up\nask billing",
            "HTTP status 403: quota used up",
        ),
        (
            "\r\n\r\n  {\n \"error\": \"no such tenant\"}",
            "no such tenant",
        ),
        ("bad\u{1b}[31m\u{7}", "bad\u{fffd}[31m\u{fffd}"),
    ] {
        let error = refused(&with_body("403 Forbidden", "", body))
            .await
            .to_string();
        assert!(error.contains(part), "{error:?}");
        assert!(!error.contains("billing"), "the first line alone: {error}");
        assert!(!error.contains("google"), "{error}");
    }
    let chunked = "HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n\
                   6\r\nquota \r\n7\r\nused up\r\n0\r\n\r\n";
    let error = refused(chunked).await.to_string();
    assert!(error.contains("403: quota used up"), "{error}");
    // This body ends with the connection, and starts with a byte order mark.
    let closed = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n\u{feff}quota used up";
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let answer = async { drop(server.answer(closed.as_bytes()).await) };
    let (error, ()) = join(within("the end of create", create), answer).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("403: quota used up"), "{error}");
    assert!(!error.contains("google"), "{error}");
    let long = with_body("500 Oops", "", &"x".repeat(1_000_000));
    assert!(refused(&long).await.to_string().len() < 400);
}

#[actix::test]
async fn authentication_is_advised_only_without_a_reason_in_the_body() {
    let page = "<!doctype html><title>403</title>";
    for (status, body, advised) in [
        ("401 Unauthorized", "", true),
        ("401 Unauthorized", "Unauthorized\n", true),
        ("403 Forbidden", page, true),
        ("403 Forbidden", "quota used up", false),
        ("404 Not Found", "", false),
        ("429 Too Many Requests", "", false),
    ] {
        let error = refused(&with_body(status, "", body)).await.to_string();
        let advice = ".use_google_auth(true)";
        assert_eq!(error.contains(advice), advised, "{status} {body}: {error}");
    }
}

#[actix::test]
async fn a_redirect_is_not_followed_and_named_without_secrets() {
    for status in [301, 302, 307, 308] {
        let elsewhere = Scripted::bind().await;
        let to = elsewhere.address();
        let location = format!("location: http://me:pass-90a1@{to}/new?key=pass-90a1\r\n");
        let error = refused(&with_body(&format!("{status} Moved"), &location, "")).await;
        let text = error.to_string();
        assert_eq!(error.http_status(), Some(status));
        assert!(!error.is_retryable());
        assert!(
            text.contains(&format!("to http://{to}/…; redirects")),
            "{text}"
        );
        let shown = shown(&error);
        assert!(
            !shown.contains("pass-90a1") && !shown.contains("new"),
            "{text}"
        );
        elsewhere.assert_not_dialled().await;
    }
}

/// The server repeats a header or the token in the body of its refusal.
#[actix::test]
async fn a_refusal_that_repeats_secrets_shows_none() {
    let key = "key-7c1b9e-secret";
    let error = refused(&with_body("403 Forbidden", "", &format!("no {key}"))).await;
    assert!(error.to_string().contains("403: no …"), "{error}");
    assert!(!shown(&error).contains("7c1b9e"));

    let server = Scripted::bind().await;
    let attach = Sandbox::attach(server.url(), "sandbox-1", TOKEN).into_future();
    let answer = with_body(
        "403 Forbidden",
        "",
        &format!("GET /attach/sandbox-1?{TOKEN}"),
    );
    let (error, _stream) = join(attach, server.answer(answer.as_bytes())).await;
    crate::support::scripted::assert_no_secret(&shown(&error.unwrap_err()));
}

/// The client waits for the body only briefly, because the head is enough for the error.
#[actix::test]
async fn a_refusal_with_an_incomplete_body_is_reported() {
    let error = refused("HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\nquota").await;
    assert!(error.to_string().contains("403: quota"), "{error}");
}

#[actix::test]
async fn a_busy_service_is_redialled_after_retry_after() {
    for (status, wait) in [
        ("429 Too Many Requests", "retry-after: 1\r\n"),
        ("503 Service Unavailable", "retry-after: 1\r\n"),
        ("503 Service Unavailable", ""),
    ] {
        let server = Scripted::bind().await;
        let answer = with_body(status, wait, "busy");
        let create = within("the sandbox", Sandbox::create(server.url()).into_future());
        let script = async {
            let mut first = server.answer(answer.as_bytes()).await;
            let answered = clock();
            drain(&mut first).await;
            let peer = server.running().await;
            (answered.elapsed(), peer)
        };
        let (sandbox, (waited, mut peer)) = join(create, script).await;
        drop(sandbox.unwrap());
        assert_eq!(peer.heard().await, Heard::Close(Some(1000)));
        if !wait.is_empty() {
            assert!(waited >= Duration::from_secs(1), "{status}: {waited:?}");
        }
    }
}

#[actix::test]
async fn a_busy_service_is_given_up_within_the_create_timeout() {
    let server = Scripted::bind().await;
    let create = within(
        "the end of create",
        Sandbox::create(server.url())
            .create_timeout(Duration::from_secs(1))
            .reconnect_policy(ReconnectPolicy {
                initial: Duration::from_millis(50),
                ..ReconnectPolicy::default()
            })
            .into_future(),
    );
    let answers = async {
        loop {
            let mut stream = server.tcp().await;
            read_head(&mut stream).await;
            let busy = with_body("503 Service Unavailable", "", "being deployed");
            stream.write_all(busy.as_bytes()).await.unwrap();
        }
    };
    let begin = clock();
    let error = tokio::select! {
        error = create => error.unwrap_err(),
        () = answers => unreachable!(),
    };
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(error.http_status(), Some(503));
    assert!(error.to_string().contains("being deployed"), "{error}");
    assert!(error.is_safe_to_retry() && error.is_retryable());
}

/// The server asks for a wait that is longer than the create timeout, so the client doesn't wait.
#[actix::test]
async fn a_retry_after_over_the_create_timeout_fails_at_once() {
    let date = SystemTime::now() + Duration::from_secs(3600);
    for wait in ["3600".to_owned(), HttpDate::from(date).to_string()] {
        let server = Scripted::bind().await;
        let answer = with_body(
            "429 Too Many Requests",
            &format!("retry-after: {wait}\r\n"),
            "",
        );
        let create = within(
            "the end of create",
            Sandbox::create(server.url()).into_future(),
        );
        let (error, _stream) = join(create, server.answer(answer.as_bytes())).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("it asks to wait"), "{error}");
    }
}

#[actix::test]
async fn a_dial_after_a_lost_link_honours_retry_after() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            initial: Duration::from_millis(1),
            ..ReconnectPolicy::default()
        })
        .into_future();
    let (sandbox, peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    drop(peer);
    let busy = with_body("503 Service Unavailable", "retry-after: 1\r\n", "");
    drop(server.answer(busy.as_bytes()).await);
    let answered = clock();
    let mut peer = server.peer().await;
    assert!(answered.elapsed() >= Duration::from_secs(1));
    peer.status("SANDBOX_RUNNING").await;
    drop(sandbox);
    peer.heard().await;
}

/// This also holds under protocol v1, which is all that the scripted server speaks.
#[actix::test]
async fn an_exec_while_the_link_is_lost_waits_for_it() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            initial: Duration::from_millis(1),
            ..ReconnectPolicy::default()
        })
        .into_future();
    let (sandbox, peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    drop(peer);
    // The server accepts the dial and doesn't answer it yet, so the outage goes on.
    let stream = server.tcp().await;
    let run = sandbox.run(Language::Bash, "echo hi");
    let script = async {
        let mut peer = crate::support::scripted::Peer::upgrade(stream).await;
        peer.status("SANDBOX_RUNNING").await;
        peer.expect(json!({"language": "bash", "code": "echo hi"}))
            .await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
        peer.stdout("hi\n").await;
        peer.status("SANDBOX_EXECUTION_DONE").await;
        peer
    };
    let (output, _peer) = join(within("the output", run), script).await;
    assert_eq!(output.unwrap().stdout, "hi\n");
}
