//! Who may call the endpoints.
//!
//! Requests from web pages are refused, by their `Origin`, or by their `Host` if a page has its own
//! name resolved to this machine (DNS rebinding). If the server has an access token, callers must
//! send it. The secret of a [`LocalServer`](crate::server::LocalServer) is checked before all of
//! these, in `listener`.

use std::net::IpAddr;

use actix_web::{
    Error, HttpRequest, HttpResponse,
    error::InternalError,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};
use percent_encoding::percent_decode_str;

use super::{connections::ConnectionInfo, secret::AccessToken};
use crate::server::sandbox::manager::Manager;

/// Checks whether the caller may use the endpoints, and then admits its connection. The error is
/// the response with the reason.
pub(super) fn check_caller(manager: &Manager, request: &HttpRequest) -> Result<(), Error> {
    let options = &manager.options;
    let headers = request.headers();
    for origin in headers.get_all(header::ORIGIN) {
        let allowed = origin.to_str().is_ok_and(|origin| {
            options
                .allowed_origins
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        });
        if !allowed {
            tracing::info!("refused: a request with an Origin");
            return Err(refused(
                StatusCode::FORBIDDEN,
                "Requests of web pages are refused: this server runs code. \
                 The server's option `allowed_origin` lets an origin in.",
            ));
        }
    }
    // A `SandboxService` that is mounted into an application has no `ConnectionInfo`.
    let connection = request.conn_data::<ConnectionInfo>();
    let bound = match connection {
        Some(connection) => connection.bound.ip(),
        None => request.app_config().local_addr().ip(),
    };
    let is_own = |host: &HeaderValue| {
        host.to_str()
            .is_ok_and(|host| is_own_host(host, bound, &options.allowed_hosts))
    };
    if !headers.contains_key(header::HOST) || !headers.get_all(header::HOST).all(is_own) {
        tracing::info!("refused: a request for another host");
        return Err(refused(
            StatusCode::FORBIDDEN,
            "Requests for this host name are refused: the name might have been pointed at this \
             machine by a web page. The server's option `allowed_host` lets a host name in.",
        ));
    }
    if let Some(token) = &options.access_token {
        check_token(token, headers.get(header::AUTHORIZATION))?;
    }
    if connection.is_some_and(|it| !it.connections.admit(it.id)) {
        tracing::warn!("refused: the limit on connections is reached");
        return Err(refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "This server has reached its limit on connections: close one, or raise its limit on open files \
             (`ulimit -n`) or on connections (`max_connections`).",
        ));
    }
    Ok(())
}

/// Checks the access token of a request. Compares in constant time for a given length.
fn check_token(token: &AccessToken, sent: Option<&HeaderValue>) -> Result<(), Error> {
    let Some(sent) = sent else {
        return Err(refused(
            StatusCode::UNAUTHORIZED,
            "This server asks for its access token: send it as `Authorization: Bearer …`.",
        ));
    };
    let bearer = sent.as_bytes().split_at_checked(7);
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match bearer {
        Some((_, sent)) if token.matches(sent.trim_ascii()) => Ok(()),
        _ => {
            tracing::info!("refused: a request with another access token");
            Err(refused(
                StatusCode::UNAUTHORIZED,
                "The access token is not that of this server: expected `Authorization: Bearer …` with \
                 the token that the server was started with.",
            ))
        }
    }
}

/// Whether a `Host` header names this server. Names other than `localhost` must be in the list,
/// because a web page can have its own name resolved to any address. It can't do that with an IP
/// address.
fn is_own_host(host: &str, bound: IpAddr, allowed: &[String]) -> bool {
    let name = without_port(host);
    if name.eq_ignore_ascii_case("localhost")
        || allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host))
    {
        return true;
    }
    let literal = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    literal
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback() || ip == bound || bound.is_unspecified())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // In `[::1]` the last colon is part of the address.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns the decoded value of a key in a query string. If the key is repeated, the first counts.
pub(super) fn query_value(query: &str, key: &str) -> Option<String> {
    query_values(query, key).next()
}

/// Returns the decoded values of a key in a query string, in order.
pub(super) fn query_values(query: &str, key: &str) -> impl Iterator<Item = String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(move |(name, _)| *name == key)
        .map(|(_, value)| decode(value))
}

pub(super) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Returns an error with the response that refuses a request and gives the reason.
pub(super) fn refused(status: StatusCode, reason: impl Into<String>) -> Error {
    let mut response = HttpResponse::build(status);
    if status == StatusCode::UNAUTHORIZED {
        response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    let response = response
        .content_type("text/plain; charset=utf-8")
        .body(reason.into());
    InternalError::from_response("the request was refused", response).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_and_addresses_are_accepted() {
        let loopback = "127.0.0.1".parse().unwrap();
        let all = "0.0.0.0".parse().unwrap();
        let lan = "192.168.1.7".parse().unwrap();
        let allowed = ["sandbox.example".to_owned()];
        for host in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "localhost:1",
            "LOCALHOST",
            "[::1]:80",
            "[::1]",
            "sandbox.example:443",
        ] {
            assert!(is_own_host(host, loopback, &allowed), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "192.168.1.7",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "[::1",
            "@127.0.0.1:1",
        ] {
            assert!(!is_own_host(host, loopback, &allowed), "{host}");
        }
        assert!(is_own_host("192.168.1.7:80", all, &[]));
        assert!(is_own_host("192.168.1.7:80", lan, &[]));
        assert!(!is_own_host("192.168.1.8:80", lan, &[]));
        assert!(!is_own_host("evil.example", all, &[]));
    }

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(
            query_value("a=b&sandbox_token=%2F%20x+y", "sandbox_token").as_deref(),
            Some("/ x+y")
        );
        assert_eq!(query_value("sandbox_token", "sandbox_token"), None);
        assert_eq!(query_value("", "sandbox_token"), None);
    }
}
