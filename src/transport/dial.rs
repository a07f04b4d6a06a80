//! [`dial`]: from a target to an open WebSocket, with every failure told apart.

use std::{
    cmp::Reverse,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_http::error::ParseError;
use actix_rt::net::ActixStream;
use actix_service::Service;
use actix_tls::connect::{ConnectError as TcpConnectError, ConnectInfo, Connection};
use awc::{
    Client, Connector,
    error::{ConnectError, SendRequestError, WsClientError},
    http::{
        Uri,
        header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
    },
};

use super::{
    Cookies, Endpoint, Target, TokenSource,
    connector::TunedConnector,
    refusal::{Refusal, Refusals},
    socket::Socket,
    token::authorization,
};
use crate::{
    machine::LinkError,
    protocol::{SandboxToken, Version, names::SUBPROTOCOL_V2},
};

/// Long enough to leave every timeout to [`Refusals`], which bounds all steps together.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// How a link is dialled.
#[derive(Clone)]
pub(crate) struct DialConfig {
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Asked for a bearer token at every dial.
    pub(crate) tokens: Option<Arc<dyn TokenSource>>,
    /// Bound on lookup, TCP, TLS and upgrade together, and as much again for a bearer token.
    pub(crate) connect_timeout: Duration,
    /// The newest version of the protocol that is offered.
    pub(crate) max_protocol: Version,
    /// Largest message taken, in bytes.
    pub(crate) max_message_bytes: usize,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl DialConfig {
    /// What this client sends and a server may repeat, the longest first: the token, the path of
    /// the URL and the values of the headers. A bearer token is not among them.
    pub(crate) fn secrets(&self, target: &Target) -> Vec<SandboxToken> {
        let mut secrets = target.secrets();
        secrets.extend(self.endpoint.secrets());
        secrets.extend(self.headers.iter().flat_map(|(_, value)| secrets_of(value)));
        secrets.sort_by_key(|secret| Reverse(secret.expose_secret().len()));
        secrets
    }
}

/// What a dial leads to.
pub(crate) struct Dialled {
    pub(crate) socket: Socket,
    pub(crate) cookies: Cookies,
    /// What the server selected.
    pub(crate) version: Version,
}

/// Opens a WebSocket. Cookies are sent, and what the server sets is kept.
///
/// Must run on an actix or tokio `LocalSet`: awc's client is not `Send`.
pub(crate) async fn dial(
    config: DialConfig,
    target: Target,
    mut cookies: Cookies,
) -> Result<Dialled, LinkError> {
    let endpoint = &config.endpoint;
    let mut secrets = config.secrets(&target);
    let mut request = client(&config)?.ws(endpoint.url(&target));
    if let Some(address) = endpoint.address() {
        request = request.address(address);
    }
    for (name, value) in &config.headers {
        request = request.header(name.clone(), value.clone());
    }
    if let Some(tokens) = &config.tokens {
        let value = authorization(tokens, config.connect_timeout).await?;
        secrets.extend(secrets_of(&value));
        request = request.header(AUTHORIZATION, value);
    }
    if let Some(cookie) = cookies.header(SystemTime::now()) {
        request = request.header(COOKIE, cookie);
    }

    if config.max_protocol == Version::V2 {
        request = request.protocols([SUBPROTOCOL_V2]);
    }

    let address = endpoint.authority();
    match request.connect().await {
        Ok((response, framed)) => {
            cookies.update(response.headers(), SystemTime::now());
            let selected = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            let selected = selected.and_then(|name| name.to_str().ok());
            let limit = config.max_message_bytes;
            Ok(Dialled {
                socket: Socket::new(framed, limit),
                cookies,
                // What was not offered cannot be selected.
                version: Version::selected(selected).min(config.max_protocol),
            })
        }
        Err(error) => {
            let error = classify(error, address, config.connect_timeout);
            // A server may repeat in its answer what it was sent.
            Err(secrets.iter().fold(error, LinkError::redact))
        }
    }
}

fn client(config: &DialConfig) -> Result<Client, LinkError> {
    if !config.endpoint.is_tls() {
        return Ok(client_on(TunedConnector::new(), config));
    }
    #[cfg(feature = "tls")]
    {
        let tls = super::tls::client_config(config.tls.as_ref());
        Ok(client_on(super::tls::TlsConnector::new(tls), config))
    }
    #[cfg(not(feature = "tls"))]
    Err(LinkError::TlsUnavailable {
        address: config.endpoint.authority().to_owned(),
    })
}

/// The value of a header, and what follows a scheme such as `Bearer` in it.
fn secrets_of(value: &HeaderValue) -> impl Iterator<Item = SandboxToken> {
    let value = value.to_str().unwrap_or_default();
    let credentials = value.split_once(' ').map(|(_scheme, rest)| rest.trim());
    let secrets = [Some(value), credentials].into_iter().flatten();
    secrets.map(SandboxToken::from)
}

/// A client without a connection limit (each WebSocket holds a place for life, the default is 100),
/// with the `connect_timeout` as its only timeout, and that follows no redirect.
fn client_on<S, Io>(connector: S, config: &DialConfig) -> Client
where
    S: Service<ConnectInfo<Uri>, Response = Connection<Uri, Io>, Error = TcpConnectError>
        + Clone
        + 'static,
    Io: ActixStream + std::fmt::Debug + 'static,
{
    let connector = Connector::new()
        .connector(connector)
        .limit(0)
        .timeout(FOREVER)
        .handshake_timeout(FOREVER);
    Client::builder()
        .connector(connector)
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .wrap(Refusals {
            connect_timeout: config.connect_timeout,
        })
        .finish()
}

fn classify(error: WsClientError, address: &str, connect_timeout: Duration) -> LinkError {
    let address = address.to_owned();
    let not_websocket = |address, detail: &dyn std::fmt::Display| LinkError::NotWebSocket {
        address,
        detail: detail.to_string(),
    };
    match error {
        WsClientError::SendRequest(SendRequestError::Custom(error, _)) => {
            match error.downcast::<Refusal>() {
                Ok(refusal) => LinkError::UpgradeRefused {
                    address,
                    status: refusal.status,
                    reason: refusal.reason,
                    location: refusal.location,
                    retry_after: refusal.retry_after,
                },
                Err(error) => not_websocket(address, &error),
            }
        }
        WsClientError::SendRequest(SendRequestError::Connect(error)) => {
            connect_error(error, address)
        }
        WsClientError::SendRequest(
            SendRequestError::Send(error) | SendRequestError::Response(ParseError::Io(error)),
        ) => broken(&error, address),
        WsClientError::SendRequest(SendRequestError::Response(error)) => {
            not_websocket(address, &error)
        }
        WsClientError::SendRequest(SendRequestError::Timeout) => LinkError::ConnectTimeout {
            address,
            after: connect_timeout,
        },
        error => not_websocket(address, &error),
    }
}

fn connect_error(error: ConnectError, address: String) -> LinkError {
    let host = || {
        address
            .rsplit_once(':')
            .map_or(&*address, |(host, _)| host)
            .to_owned()
    };
    match error {
        ConnectError::Resolver(error) => LinkError::Resolve {
            host: host(),
            detail: error.to_string(),
        },
        ConnectError::NoRecords | ConnectError::Unresolved => LinkError::Resolve {
            host: host(),
            detail: "no address found".to_owned(),
        },
        ConnectError::SslIsNotSupported => LinkError::TlsUnavailable { address },
        ConnectError::Timeout => LinkError::ConnectTimeout {
            address,
            after: FOREVER,
        },
        ConnectError::Disconnected => LinkError::Dropped {
            detail: format!("{address} closed the connection before it answered the upgrade"),
        },
        ConnectError::Io(error) => match error.kind() {
            // TCP was there, and went in the TLS handshake.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => broken(&error, address),
            kind => tls_error(&error, &address).unwrap_or_else(|| LinkError::Connect {
                address,
                kind,
                detail: error.to_string(),
            }),
        },
        error => LinkError::Connect {
            address,
            kind: io::ErrorKind::Other,
            detail: error.to_string(),
        },
    }
}

/// The connection was there and is no more. A restart of the server looks like this.
fn broken(error: &io::Error, address: String) -> LinkError {
    tls_error(error, &address).unwrap_or_else(|| LinkError::Dropped {
        detail: format!("{address} closed the connection before it answered the upgrade ({error})"),
    })
}

#[cfg(feature = "tls")]
fn tls_error(error: &io::Error, address: &str) -> Option<LinkError> {
    let inner = error.get_ref()?;
    inner.is::<rustls::Error>().then(|| LinkError::Tls {
        address: address.to_owned(),
        detail: error.to_string(),
    })
}

#[cfg(not(feature = "tls"))]
fn tls_error(_: &io::Error, _: &str) -> Option<LinkError> {
    None
}
