//! The endpoints, and who may call them: no web page of another origin, no web page that had its
//! own name resolved to this machine, and with an access token only callers that send it. The
//! secret of a [`LocalServer`](super::LocalServer) comes before all of these: see `listener`.

use std::{net::IpAddr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse, guard,
    http::header::{self, HeaderValue},
    web,
    web::ServiceConfig,
};
use percent_encoding::percent_decode_str;

use super::{client_address::ClientAddress, execute::execute, listener::ConnectionInfo};
use crate::{
    protocol::{
        SandboxToken,
        names::{KEY_SANDBOX_TOKEN, PATH_ATTACH, PATH_CREATE, PATH_EXECUTE, PATH_STATUS},
    },
    server::{
        identity::AccessToken,
        sandbox::manager::Manager,
        session::conversation::{Opening, open},
    },
};

/// Why a caller is sent away.
pub(crate) enum Refusal {
    /// What it may not do, whoever it is.
    Foreign(&'static str),
    /// It does not carry the access token.
    Token(&'static str),
    /// The server has as many connections as it may have.
    Full,
}

impl Refusal {
    pub(crate) fn response(&self) -> HttpResponse {
        match self {
            Self::Foreign(reason) => forbidden((*reason).to_owned()),
            Self::Token(reason) => HttpResponse::Unauthorized()
                .insert_header((header::WWW_AUTHENTICATE, "Bearer"))
                .content_type("text/plain; charset=utf-8")
                .body(*reason),
            Self::Full => HttpResponse::ServiceUnavailable()
                .content_type("text/plain; charset=utf-8")
                .body(
                    "This server has as many connections as it may have: close one, or raise its limit on open files \
                     (`ulimit -n`) or on connections (`max_connections`).",
                ),
        }
    }
}

/// Adds the health checks, which every caller may use. Other methods find nothing there, as
/// everywhere without the secret.
pub(crate) fn add_health(config: &mut ServiceConfig, manager: Arc<Manager>) {
    let data = web::Data::from(manager);
    config
        .service(web::resource("/healthz").guard(guard::Get()).to(healthz))
        .service(
            web::resource("/readyz")
                .guard(guard::Get())
                .app_data(data)
                .to(readyz),
        );
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(r#"{"status":"ok"}"#)
}

async fn readyz(manager: web::Data<Manager>) -> HttpResponse {
    let (sandboxes, most) = (manager.count(), manager.options.max_sandboxes);
    let (mut response, status) = match () {
        () if manager.is_stopping() => (HttpResponse::ServiceUnavailable(), "stopping"),
        () if sandboxes >= most => (HttpResponse::ServiceUnavailable(), "full"),
        () => (HttpResponse::Ok(), "ready"),
    };
    response.content_type("application/json").body(format!(
        r#"{{"status":"{status}","sandboxes":{sandboxes},"max_sandboxes":{most}}}"#
    ))
}

/// Adds the endpoints to an application.
pub(crate) fn add(config: &mut ServiceConfig, manager: Arc<Manager>) {
    // The data is with each resource, so that it cannot clash with the application's own.
    let data = web::Data::from(manager);
    config
        .service(
            web::resource(PATH_CREATE)
                .app_data(data.clone())
                .route(web::get().to(create)),
        )
        .service(
            web::resource(format!("{PATH_ATTACH}/{{sandbox_id:.*}}"))
                .app_data(data.clone())
                .route(web::get().to(attach)),
        )
        .service(
            web::resource(PATH_STATUS)
                .app_data(data.clone())
                .route(web::get().to(status)),
        )
        .service(
            web::resource(PATH_EXECUTE)
                .app_data(data.clone())
                .route(web::post().to(execute)),
        )
        .service(
            web::resource(["", "/"])
                .app_data(data)
                .route(web::get().to(root)),
        );
}

async fn create(
    manager: web::Data<Manager>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    if let Err(refusal) = check_caller(&manager, &request) {
        return Ok(refusal.response());
    }
    open(manager.into_inner(), Opening::Create, &request, payload)
}

async fn attach(
    manager: web::Data<Manager>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    if let Err(refusal) = check_caller(&manager, &request) {
        return Ok(refusal.response());
    }
    let Some(token) = query_value(request.query_string(), KEY_SANDBOX_TOKEN) else {
        return Ok(forbidden(format!(
            "The query parameter {KEY_SANDBOX_TOKEN} is missing."
        )));
    };
    let opening = Opening::Attach {
        id: decode(request.match_info().query("sandbox_id")),
        token: SandboxToken::new(token),
    };
    open(manager.into_inner(), opening, &request, payload)
}

async fn status(manager: web::Data<Manager>, request: HttpRequest) -> HttpResponse {
    answer(&manager, &request, r#"{"status":"ok"}"#)
}

async fn root(manager: web::Data<Manager>, request: HttpRequest) -> HttpResponse {
    answer(&manager, &request, r#"{"message":"Server is running"}"#)
}

fn answer(manager: &Manager, request: &HttpRequest, json: &'static str) -> HttpResponse {
    match check_caller(manager, request) {
        Ok(()) => HttpResponse::Ok()
            .content_type("application/json")
            .body(json),
        Err(refusal) => refusal.response(),
    }
}

/// The value of a key in a query string. A repeated key counts once, the first.
pub(crate) fn query_value(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name == key).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

pub(crate) fn forbidden(reason: String) -> HttpResponse {
    HttpResponse::Forbidden()
        .content_type("text/plain; charset=utf-8")
        .body(reason)
}

/// The address of the caller.
pub(crate) fn client(request: &HttpRequest) -> Option<ClientAddress> {
    Some(request.peer_addr()?.ip().into())
}

/// Whether the caller may call at all, or the reason why not. The connection of one that may is
/// kept.
pub(crate) fn check_caller(manager: &Manager, request: &HttpRequest) -> Result<(), Refusal> {
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
            return Err(Refusal::Foreign(
                "Requests of web pages are refused: this server runs code. \
                 The server's option `allowed_origin` lets an origin in.",
            ));
        }
    }
    // A user's own application has no such data.
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
        return Err(Refusal::Foreign(
            "Requests for this host name are refused: the name might have been pointed at this \
             machine by a web page. The server's option `allowed_host` lets a host name in.",
        ));
    }
    if let Some(token) = &options.access_token {
        check_token(token, headers.get(header::AUTHORIZATION))?;
    }
    match connection.is_none_or(ConnectionInfo::admit) {
        true => Ok(()),
        false => {
            tracing::warn!("refused: as many connections as there may be");
            Err(Refusal::Full)
        }
    }
}

/// Whether a request carries the access token. Takes the same time for every wrong one of the same length.
fn check_token(token: &AccessToken, sent: Option<&HeaderValue>) -> Result<(), Refusal> {
    let Some(sent) = sent else {
        return Err(Refusal::Token(
            "This server asks for its access token: send it as `Authorization: Bearer …`.",
        ));
    };
    let bearer = sent.as_bytes().split_at_checked(7);
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match bearer {
        Some((_, sent)) if token.matches(sent.trim_ascii()) => Ok(()),
        _ => {
            tracing::info!("refused: a request with another access token");
            Err(Refusal::Token(
                "The access token is not that of this server: expected `Authorization: Bearer …` with \
                 the token that the server was started with.",
            ))
        }
    }
}

/// Whether a `Host` header names this server. Names other than `localhost` must be in the list: a
/// web page can have its own name resolved to any address, but it cannot take over an address.
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
