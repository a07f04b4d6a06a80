//! [`dial`]: opens a WebSocket to a target, and classifies each failure as a [`LinkError`].

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
    Cookies, Endpoint, Target, TokenSource, connector::TunedConnector, refusal::Refusals,
    socket::Socket, token::authorization,
};
use crate::{
    machine::{LinkError, UpgradeRefusal},
    protocol::{SandboxToken, Version, names::SUBPROTOCOL_V2},
};

/// Effectively disables awc's own timeouts. [`Refusals`] applies one timeout to all steps together.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Options of a dial.
#[derive(Clone)]
pub(crate) struct DialConfig {
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The source of bearer tokens, called once for each dial.
    pub(crate) tokens: Option<Arc<dyn TokenSource>>,
    /// Timeout of DNS lookup, TCP, TLS and upgrade together. The bearer token source has the same
    /// timeout, counted separately.
    pub(crate) connect_timeout: Duration,
    /// The newest protocol version to offer.
    pub(crate) max_protocol: Version,
    /// Maximum size of a message, in bytes.
    pub(crate) max_message_bytes: usize,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl DialConfig {
    /// The secrets that this client sends and that a server may repeat: the sandbox's token, the
    /// path of the URL and the values of the headers. The longest come first. The bearer token is
    /// not included, because it is fetched later.
    pub(crate) fn secrets(&self, target: &Target) -> Vec<SandboxToken> {
        let mut secrets = target.secrets();
        secrets.extend(self.endpoint.secrets());
        secrets.extend(self.headers.iter().flat_map(|(_, value)| secrets_of(value)));
        secrets.sort_by_key(|secret| Reverse(secret.expose_secret().len()));
        secrets
    }
}

/// The result of a successful dial.
pub(crate) struct Dialled {
    pub(crate) socket: Socket,
    pub(crate) cookies: Cookies,
    /// The protocol version that the server selected.
    pub(crate) version: Version,
}

/// Opens a WebSocket. Sends `cookies`, and adds the cookies of the response to them.
///
/// Must run in an actix `System` or a tokio `LocalSet`, because awc's client is not `Send`.
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

    if config.max_protocol.is_v2() {
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
                // A server can't select a version that the client didn't offer.
                version: Version::selected(selected).min(config.max_protocol),
            })
        }
        Err(error) => {
            let error = classify(error, address, config.connect_timeout);
            // A server may repeat secrets of the request in its response.
            Err(secrets.iter().fold(error, LinkError::redact))
        }
    }
}

pub(super) fn client(config: &DialConfig) -> Result<Client, LinkError> {
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

/// Returns the value of a header, and the credentials after a scheme such as `Bearer`.
pub(super) fn secrets_of(value: &HeaderValue) -> impl Iterator<Item = SandboxToken> {
    let value = value.to_str().unwrap_or_default();
    let credentials = value.split_once(' ').map(|(_scheme, rest)| rest.trim());
    let secrets = [Some(value), credentials].into_iter().flatten();
    secrets.map(SandboxToken::from)
}

/// Builds a client that follows no redirects and has `connect_timeout` as its only timeout. It has
/// no connection limit (the default is 100), because a WebSocket counts for as long as it is open.
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
            address: config.endpoint.authority().to_owned(),
            connect_timeout: config.connect_timeout,
        })
        .finish()
}

fn classify(error: WsClientError, address: &str, connect_timeout: Duration) -> LinkError {
    match error {
        WsClientError::SendRequest(error) => classify_request(error, address, connect_timeout),
        error => not_websocket(address, &error),
    }
}

/// Classifies the failure of a request.
pub(super) fn classify_request(
    error: SendRequestError,
    address: &str,
    connect_timeout: Duration,
) -> LinkError {
    match error {
        SendRequestError::Custom(error, _) => match error.downcast::<UpgradeRefusal>() {
            Ok(refusal) => LinkError::UpgradeRefused(refusal),
            Err(error) => not_websocket(address, &error),
        },
        SendRequestError::Connect(error) => connect_error(error, address.to_owned()),
        SendRequestError::Send(error) | SendRequestError::Response(ParseError::Io(error)) => {
            broken(&error, address.to_owned())
        }
        SendRequestError::Timeout => LinkError::ConnectTimeout {
            address: address.to_owned(),
            after: connect_timeout,
        },
        error => not_websocket(address, &error),
    }
}

fn not_websocket(address: &str, detail: &dyn std::fmt::Display) -> LinkError {
    LinkError::NotWebSocket {
        address: address.to_owned(),
        detail: detail.to_string(),
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
            // The TCP connection was established, and ended during the TLS handshake.
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

/// Classifies a connection that ended before the response, for example because the server
/// restarted.
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
