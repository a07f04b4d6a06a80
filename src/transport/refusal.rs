//! [`Refusals`]: what the server says when it refuses the WebSocket upgrade.
//!
//! awc drops the response and reports the status alone. This layer sits between awc's WebSocket
//! request and its connector, and reads the response before awc drops it.

use std::time::{Duration, SystemTime};

use actix_codec::Framed;
use actix_http::{
    ResponseHead,
    h1::{ClientCodec, MessageType},
    header::HttpDate,
};
use actix_service::Service;
use awc::{
    BoxedSocket, ConnectRequest, ConnectResponse,
    error::SendRequestError,
    http::{
        StatusCode,
        header::{HeaderMap, HeaderName, LOCATION, RETRY_AFTER},
    },
    middleware::Transform,
};
use futures::{StreamExt, future::LocalBoxFuture};

use crate::protocol::{excerpt, limits::EXCERPT_CHARS};

/// Most bytes of a body that are read: the reason is at its beginning.
const MAX_BODY: usize = 4 * 1024;

/// The response to an upgrade that the server refused.
#[derive(Debug, thiserror::Error)]
#[error("the server refused the WebSocket upgrade with HTTP status {status}")]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// What the body says beyond the status.
    pub(super) reason: Option<String>,
    /// The target of a redirect, without user, password, query and fragment.
    pub(super) location: Option<String>,
    /// The time that the server asks clients to wait.
    pub(super) retry_after: Option<Duration>,
}

/// Turns every response but `101 Switching Protocols` into a [`Refusal`].
pub(super) struct Refusals {
    /// Longest time to wait for the body. The head has come by then.
    pub(super) body_timeout: Duration,
}

impl<S> Transform<S, ConnectRequest> for Refusals
where
    S: Service<ConnectRequest, Response = ConnectResponse, Error = SendRequestError>,
    S::Future: 'static,
{
    type Transform = Refusing<S>;

    fn new_transform(self, inner: S) -> Refusing<S> {
        Refusing {
            inner,
            body_timeout: self.body_timeout,
        }
    }
}

/// The service that [`Refusals`] makes.
pub(super) struct Refusing<S> {
    inner: S,
    body_timeout: Duration,
}

impl<S> Service<ConnectRequest> for Refusing<S>
where
    S: Service<ConnectRequest, Response = ConnectResponse, Error = SendRequestError>,
    S::Future: 'static,
{
    type Response = ConnectResponse;
    type Error = SendRequestError;
    type Future = LocalBoxFuture<'static, Result<ConnectResponse, SendRequestError>>;

    actix_service::forward_ready!(inner);

    fn call(&self, request: ConnectRequest) -> Self::Future {
        let response = self.inner.call(request);
        let body_timeout = self.body_timeout;
        Box::pin(async move {
            match response.await? {
                ConnectResponse::Tunnel(head, framed)
                    if head.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    let mut body = Vec::new();
                    // What came in time counts.
                    let _ = tokio::time::timeout(body_timeout, read_body(framed, &mut body)).await;
                    let refusal = Refusal::new(&head, &body, SystemTime::now());
                    Err(SendRequestError::Custom(
                        Box::new(refusal),
                        Box::new("upgrade"),
                    ))
                }
                response => Ok(response),
            }
        })
    }
}

impl Refusal {
    fn new(head: &ResponseHead, body: &[u8], now: SystemTime) -> Self {
        Self {
            status: head.status.as_u16(),
            reason: reason(head.status, body),
            location: text(head.headers(), LOCATION).map(without_secrets),
            retry_after: text(head.headers(), RETRY_AFTER)
                .and_then(|value| parse_retry_after(value, now)),
        }
    }
}

/// Reads the beginning of the body.
async fn read_body(framed: Framed<BoxedSocket, ClientCodec>, body: &mut Vec<u8>) {
    if matches!(framed.codec_ref().message_type(), MessageType::None) {
        return;
    }
    let mut chunks = framed.into_map_codec(ClientCodec::into_payload_codec);
    while body.len() < MAX_BODY
        && let Some(Ok(Some(chunk))) = chunks.next().await
    {
        let room = MAX_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
}

/// The first line of the body with a letter or a digit in it. `None` for a web page, whose first
/// line is markup, and for a body that only repeats the status.
fn reason(status: StatusCode, body: &[u8]) -> Option<String> {
    let body = String::from_utf8_lossy(body);
    if body.trim_start().starts_with('<') {
        return None;
    }
    let mut lines = body.lines().map(str::trim);
    let line = lines.find(|line| line.contains(char::is_alphanumeric))?;
    let words = line.trim_start_matches(status.as_str()).trim();
    let words = words.trim_matches(|it: char| !it.is_alphanumeric());
    let repeats = status.canonical_reason();
    if words.is_empty() || repeats.is_some_and(|status| status.eq_ignore_ascii_case(words)) {
        return None;
    }
    Some(excerpt(line.as_bytes()))
}

/// The value of a header, where it is text.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A URL or path of a `Location` header, without what may be a secret.
fn without_secrets(location: &str) -> String {
    let location = &location[..location.find(['?', '#']).unwrap_or(location.len())];
    let shown = match location.split_once("//") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}//{host}{path}")
        }
        None => location.to_owned(),
    };
    shown
        .chars()
        .filter(|it| !it.is_control())
        .take(EXCERPT_CHARS)
        .collect()
}

/// The wait of a `Retry-After` header: a number of seconds, or a date.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = SystemTime::from(value.parse::<HttpDate>().ok()?);
            let wait = date.duration_since(now).unwrap_or_default();
            // Rounded up: dates have no fractions.
            Some(Duration::from_secs(wait.as_secs_f64().ceil() as u64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason_of(status: u16, body: &str) -> Option<String> {
        reason(
            StatusCode::from_u16(status).expect("a status"),
            body.as_bytes(),
        )
    }

    #[test]
    fn the_reason_is_the_first_line_that_says_something() {
        assert_eq!(
            reason_of(403, "\n\n  quota used up \nmore").as_deref(),
            Some("quota used up")
        );
        assert_eq!(
            reason_of(429, "{\n  \"error\": \"slow down\"\n}").as_deref(),
            Some("\"error\": \"slow down\"")
        );
        for silent in [
            "",
            "\r\n",
            "<html><title>403</title>",
            "Forbidden",
            "403 Forbidden\n",
            "{}",
        ] {
            assert_eq!(reason_of(403, silent), None, "{silent:?}");
        }
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
            ("https://a.example/x?token=s3cret", "https://a.example/x"),
            ("https://me:s3cret@a.example", "https://a.example"),
            ("//me:s3cret@a.example/x#s3cret", "//a.example/x"),
            ("/login?next=s3cret", "/login"),
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
}
