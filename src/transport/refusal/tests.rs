//! Tests of [`Refusal`].

use std::{cell::Cell, rc::Rc};

use actix_http::RequestHead;
use actix_service::fn_service;
use tokio::{io::AsyncWriteExt, task::LocalSet};

use super::*;
use crate::protocol::{SandboxToken, limits::EXCERPT_CHARS};

fn reason_of(status: u16, body: &str) -> Option<String> {
    let status = StatusCode::from_u16(status).expect("a status");
    reason(status, body.as_bytes(), true)
}

#[test]
fn the_reason_is_the_first_line_with_words() {
    assert_eq!(
        reason_of(403, "\n\n  quota used up \nmore").as_deref(),
        Some("quota used up")
    );
    assert_eq!(
        reason_of(429, "\u{feff} slow down").as_deref(),
        Some("slow down")
    );
    for silent in [
        "",
        "\r\n",
        "<html><title>403</title>",
        "Forbidden",
        "403 Forbidden\n",
        "{}",
        "\u{feff}<html><title>403</title>",
        r#"{"message":"Forbidden"}"#,
        "{\n  \"error\": {\n    \"code\": 403,\n    \"message\": \"Forbidden\"\n  }\n}",
    ] {
        assert_eq!(reason_of(403, silent), None, "{silent:?}");
    }
}

#[test]
fn the_reason_of_a_body_in_json_is_its_message() {
    for (body, reason) in [
        (
            "{\n  \"error\": {\n    \"code\": 403,\n    \"message\": \"no access to X\"\n  }\n}",
            "no access to X",
        ),
        (
            r#"{"code": 7, "message": "slow \"down\""}"#,
            r#"slow "down""#,
        ),
        (r#"{"error": "no such tenant"}"#, "no such tenant"),
        (
            r#"{"error": true, "message": "\n used up\nmore"}"#,
            "used up",
        ),
        (r#"{"detail": "not yours"}"#, "not yours"),
        // Without a message, or in truncated JSON, the reason is the first line with words.
        ("[\n  {\n    \"why\": 1\n  }\n]", "\"why\": 1"),
        ("{\n  \"error\": {\n    \"code\": 403,", "\"code\": 403,"),
    ] {
        assert_eq!(reason_of(403, body).as_deref(), Some(reason), "{body}");
    }
}

#[test]
fn a_secret_that_the_end_of_the_body_cuts_off_is_recognised() {
    let token = SandboxToken::new("tok-5e1f0c7a9b-secret");
    let reason_of_part = |body| reason(StatusCode::FORBIDDEN, body, false);
    let reason = reason_of_part(b"no tok-5e1f0c7a").expect("text");
    assert_eq!(token.redact(reason), "no …");
    let nothing = reason_of_part(b"{\n  \"error\": {");
    assert_eq!(nothing, None);
}

#[test]
fn reasons_are_bounded_and_without_control_characters() {
    let reason = reason_of(500, &format!("a\u{1b}[31m{}", "x".repeat(5_000))).expect("text");
    assert!(!reason.contains(char::is_control), "{reason:?}");
    assert_eq!(reason.chars().count(), EXCERPT_CHARS);
}

#[test]
fn redirect_targets_are_shown_without_secrets() {
    for (location, shown) in [
        ("https://a.example", "https://a.example"),
        ("http://a.example:8080/", "http://a.example:8080"),
        ("wss://[::1]:9/s3cret", "wss://[::1]:9/…"),
        ("https://a.example/s3cret/create", "https://a.example/…"),
        ("https://a.example/?token=s3cret", "https://a.example/…"),
        ("https://a.example/x;token=s3cret", "https://a.example/…"),
        ("https://a.example/x?next=/@s3cret", "https://a.example/…"),
        ("https://me:s3cret@a.example", "https://a.example"),
        ("https:me:s3cret@a.example/x", "https://a.example/…"),
        ("https:\\\\me:s3cret@a.example\\x", "https://a.example/…"),
        ("https://me:s3/cret@a.example/x", "/…"),
        ("https://me:80/s3cret@a.example/x", "/…"),
        ("//me:s3cret@a.example/x#s3cret", "/…"),
        ("/login?next=s3cret", "/…"),
        ("/login/%3Fsandbox_token=s3cret", "/…"),
        ("me:s3cret@a.example", "/…"),
        ("data:s3cret", "/…"),
        ("", "/…"),
    ] {
        assert_eq!(without_secrets(location), shown);
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = SystemTime::from(
        "Wed, 21 Oct 2015 07:28:00 GMT"
            .parse::<HttpDate>()
            .expect("a date"),
    );
    let parse = |value| parse_retry_after(value, now);
    assert_eq!(parse(" 120 "), Some(Duration::from_secs(120)));
    assert_eq!(
        parse("Wed, 21 Oct 2015 07:29:30 GMT"),
        Some(Duration::from_secs(90))
    );
    assert_eq!(
        parse("Wed, 21 Oct 2015 07:00:00 GMT"),
        Some(Duration::ZERO),
        "a date in the past"
    );
    for nonsense in ["", "soon", "-1", "1.5"] {
        assert_eq!(parse(nonsense), None, "{nonsense:?}");
    }
}

/// Dials in virtual time. The server sends `answer` after `delay` milliseconds, and then keeps the
/// connection open if `open` is set, or else closes it.
async fn dialled(answer: &str, delay: u64, open: bool) -> Result<UpgradeRefusal, SendRequestError> {
    let (client, mut server) = tokio::io::duplex(64 * 1024);
    server.write_all(answer.as_bytes()).await.expect("room");
    let _held = open.then_some(server);
    let client = Rc::new(Cell::new(Some(client)));
    let inner = fn_service(move |_: ConnectRequest| {
        let client: BoxedSocket = Box::new(client.take().expect("one dial"));
        async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            let mut framed = Framed::new(client, ClientCodec::default());
            let head = framed.next().await.expect("an answer")?;
            Ok(ConnectResponse::Tunnel(head, framed))
        }
    });
    let connect_timeout = Duration::from_secs(10);
    let refusals = Refusals {
        address: "host:1".into(),
        connect_timeout,
    };
    let refusing = refusals.new_transform(inner);
    let request = ConnectRequest::Tunnel(RequestHead::default(), None);
    // The codec's clock is a local task.
    let end = LocalSet::new().run_until(refusing.call(request)).await;
    match end {
        Ok(_) => panic!("not refused"),
        Err(SendRequestError::Custom(error, _)) => Ok(*error.downcast().expect("a refusal")),
        Err(error) => Err(error),
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_with_the_connection_is_read() {
    for head in [
        "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.0 403 Forbidden\r\n\r\n",
    ] {
        for (body, open, reason) in [
            ("quota used up\n", false, "quota used up"),
            ("quota used up\n", true, "quota used up"),
            ("quota used", true, "quota used…"),
        ] {
            let refusal = dialled(&format!("{head}{body}"), 0, open).await;
            let refusal = refusal.expect("a refusal");
            assert_eq!(refusal.reason.as_deref(), Some(reason), "{head}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_body_does_not_wait_for_one() {
    for head in [
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0",
        "HTTP/1.0 403 Forbidden\r\nContent-Length: 0",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304 Not Modified",
    ] {
        let begin = Instant::now();
        let refusal = dialled(&format!("{head}\r\n\r\n"), 0, true).await;
        assert_eq!(refusal.expect("a refusal").reason, None);
        assert_eq!(begin.elapsed(), Duration::ZERO, "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_never_hides_the_refusal() {
    for (delay, end) in [(0, 1_000), (8_000, 9_000), (9_500, 10_000), (9_999, 10_000)] {
        let begin = Instant::now();
        let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\nquota";
        let refusal = dialled(answer, delay, true).await.expect("a refusal");
        assert_eq!(refusal.reason.as_deref(), Some("quota…"));
        assert_eq!(begin.elapsed(), Duration::from_millis(end), "{delay}");
    }
    let late = dialled("HTTP/1.1 403 Forbidden\r\n\r\n", 10_001, true).await;
    assert!(matches!(late, Err(SendRequestError::Timeout)), "{late:?}");
}
