//! [`Refusals`]: reads the server's response when it refuses the WebSocket upgrade.
//!
//! awc drops the response and only reports the status. This middleware sits between awc's WebSocket
//! request and its connector, and reads the response before awc drops it.

use std::time::{Duration, SystemTime};

use actix_codec::{BytesCodec, Framed};
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
        header::{CONTENT_LENGTH, HeaderMap, HeaderName, LOCATION, RETRY_AFTER},
    },
    middleware::Transform,
};
use futures::{StreamExt, TryStreamExt, future::LocalBoxFuture};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::{machine::UpgradeRefusal, protocol::excerpt};

/// Maximum bytes to read of a body, which has the reason at its start.
pub(super) const MAX_BODY: usize = 4 * 1024;

/// How long to wait for the body after the head has arrived.
const MAX_BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Turns every response except `101 Switching Protocols` into an [`UpgradeRefusal`], and applies
/// the connect timeout.
pub(super) struct Refusals {
    /// Host and port, for the error.
    pub(super) address: String,
    /// Timeout of DNS lookup, TCP, TLS and upgrade together, including the body of a refusal. If
    /// the head arrives in time, the refusal is reported even if the body is late.
    pub(super) connect_timeout: Duration,
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
            address: self.address,
            connect_timeout: self.connect_timeout,
        }
    }
}

/// The service that [`Refusals`] wraps around a connector.
pub(super) struct Refusing<S> {
    inner: S,
    address: String,
    connect_timeout: Duration,
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
        let (address, connect_timeout) = (self.address.clone(), self.connect_timeout);
        Box::pin(async move {
            let begin = Instant::now();
            let response = timeout(connect_timeout, response).await;
            match response.map_err(|_| SendRequestError::Timeout)?? {
                ConnectResponse::Tunnel(head, framed)
                    if head.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    let mut body = Vec::new();
                    let left = connect_timeout.saturating_sub(begin.elapsed());
                    let read = read_body(&head, framed, &mut body);
                    // Use the part of the body that arrived in time.
                    let read = timeout(left.min(MAX_BODY_TIMEOUT), read).await;
                    let whole = read.unwrap_or(false);
                    let (status, headers) = (head.status, head.headers());
                    let refusal = of_response(address, status, headers, &body, whole);
                    let refusal = Box::new(refusal);
                    Err(SendRequestError::Custom(refusal, Box::new("upgrade")))
                }
                response => Ok(response),
            }
        })
    }
}

/// Describes a response. `whole` says whether `body` is complete.
pub(super) fn of_response(
    address: String,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    whole: bool,
) -> UpgradeRefusal {
    UpgradeRefusal {
        address,
        status: status.as_u16(),
        reason: reason(status, body, whole),
        location: text(headers, LOCATION).map(without_secrets),
        retry_after: text(headers, RETRY_AFTER)
            .and_then(|value| parse_retry_after(value, SystemTime::now())),
    }
}

/// Reads at most [`MAX_BODY`] bytes of the body. Returns whether the body is complete.
async fn read_body(
    head: &ResponseHead,
    framed: Framed<BoxedSocket, ClientCodec>,
    body: &mut Vec<u8>,
) -> bool {
    let empty = text(head.headers(), CONTENT_LENGTH).is_some_and(|it| it.trim().parse() == Ok(0));
    if empty || matches!(head.status.as_u16(), 204 | 304) {
        return true;
    }
    // Without a length, the body ends with the connection. The codec supports that for HTTP/1.0
    // only.
    let closes = matches!(framed.codec_ref().message_type(), MessageType::None);
    let mut chunks = if closes {
        let chunks = framed.replace_codec(BytesCodec).map_err(drop);
        chunks.map_ok(|it| Some(it.freeze())).left_stream()
    } else {
        let chunks = framed.into_map_codec(ClientCodec::into_payload_codec);
        chunks.map_err(drop).right_stream()
    };
    while body.len() < MAX_BODY {
        match chunks.next().await {
            Some(Ok(Some(chunk))) => {
                let room = MAX_BODY - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Some(Ok(None)) => return true,
            Some(Err(())) => return false,
            None => return closes,
        }
    }
    false
}

/// Returns the message of a JSON body, or else the first line that contains a letter or a digit.
///
/// Returns `None` for a web page, whose first line is markup, and for a body that only repeats the
/// status.
fn reason(status: StatusCode, body: &[u8], whole: bool) -> Option<String> {
    let body = String::from_utf8_lossy(body);
    let body = body.trim_start_matches('\u{feff}').trim_start();
    if body.starts_with('<') {
        return None;
    }
    let text = match message(body) {
        Some(message) => message,
        None if whole => body.to_owned(),
        // Redaction recognises a truncated secret by the ellipsis after it.
        None => format!("{}…", body.trim_end_matches('\u{fffd}')),
    };
    let mut lines = text.lines().map(str::trim);
    // A line that only opens a JSON object or array is no reason.
    let opens = |line: &str| line.trim_end_matches('…').ends_with(['{', '[']);
    let line = lines.find(|line| line.contains(char::is_alphanumeric) && !opens(line))?;
    let words = line.trim_start_matches(status.as_str()).trim();
    let words = words.trim_matches(|it: char| !it.is_alphanumeric());
    let repeats = status.canonical_reason();
    if words.is_empty() || repeats.is_some_and(|status| status.eq_ignore_ascii_case(words)) {
        return None;
    }
    Some(excerpt(line.as_bytes()))
}

/// Returns the message of a JSON body, from the fields that services commonly use.
fn message(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let texts = ["/error/message", "/message", "/error", "/detail"];
    let mut texts = texts
        .into_iter()
        .filter_map(|at| body.pointer(at)?.as_str());
    texts.next().map(str::to_owned)
}

/// Returns the value of a header if it is visible ASCII.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the scheme, host and port of a `Location` header. All other parts may be secrets.
fn without_secrets(location: &str) -> String {
    const HIDDEN: &str = "/…";
    let Ok(url) = Url::parse(location) else {
        // A relative or invalid URL.
        return HIDDEN.to_owned();
    };
    let origin = url.origin();
    // An `@` in the path may end a password that contains a slash. Then the parsed host is not the
    // real one.
    if !origin.is_tuple() || url.path().contains('@') {
        return HIDDEN.to_owned();
    }
    let rest = if url.path() == "/" && url.query().is_none() {
        ""
    } else {
        HIDDEN
    };
    excerpt(format!("{}{rest}", origin.ascii_serialization()).as_bytes())
}

/// Parses a `Retry-After` header: a number of seconds, or a date.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = SystemTime::from(value.parse::<HttpDate>().ok()?);
            let wait = date.duration_since(now).unwrap_or_default();
            // Round up, because an HTTP date has no fractions of a second.
            Some(Duration::from_secs(wait.as_secs_f64().ceil() as u64))
        }
    }
}

#[cfg(test)]
mod tests;
