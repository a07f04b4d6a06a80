//! TLS with rustls and an explicit crypto provider, ring.
//!
//! With the default provider of the process, `awc::Client::new()` panics if there is none, or if
//! another crate enables a second one.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_service::Service;
use actix_tls::connect::{
    ConnectError, ConnectInfo, Connection, Host,
    rustls_0_23::{TlsConnector as Handshake, TlsConnectorService, reexports::AsyncTlsStream},
};
use awc::http::Uri;
use futures::future::LocalBoxFuture;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connector::TunedConnector;

/// WebSocket upgrades need HTTP/1.1. awc offers h2 first by default, and then the upgrade fails.
const ALPN: &[u8] = b"http/1.1";

/// Returns the user's configuration, or else a default with the webpki roots. ALPN is always
/// HTTP/1.1.
pub(crate) fn client_config(custom: Option<&Arc<ClientConfig>>) -> Arc<ClientConfig> {
    static DEFAULT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    match custom {
        Some(config) if config.alpn_protocols == [ALPN] => Arc::clone(config),
        Some(config) => {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![ALPN.to_vec()];
            Arc::new(config)
        }
        None => Arc::clone(DEFAULT.get_or_init(default_config)),
    }
}

fn default_config() -> Arc<ClientConfig> {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = match builder.with_safe_default_protocol_versions() {
        Ok(builder) => builder,
        // The ring provider has cipher suites for every TLS version that this build of rustls
        // supports.
        Err(_) => unreachable!("ring supports TLS 1.2 and 1.3"),
    };
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// Connects with [`TunedConnector`], then performs the TLS handshake.
///
/// awc's own TLS connector takes the server name from the URL, where an IPv6 address is in
/// brackets. Certificates contain the address without brackets.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    tcp: TunedConnector,
    handshake: TlsConnectorService,
}

impl TlsConnector {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        Self {
            tcp: TunedConnector::new(),
            handshake: Handshake::service(config),
        }
    }
}

impl Service<ConnectInfo<Uri>> for TlsConnector {
    type Response = Connection<Uri, TlsStream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let connecting = self.tcp.call(info);
        let handshake = self.handshake.clone();
        Box::pin(async move {
            let (stream, uri) = connecting.await?.into_parts();
            let host = uri.host().unwrap_or_default();
            let name = ServerName(host.trim_matches(['[', ']']).to_owned());
            let secured = handshake.call(Connection::new(name, stream)).await;
            let (stream, _) = secured.map_err(ConnectError::Io)?.into_parts();
            Ok(Connection::new(uri, TlsStream(stream)))
        })
    }
}

/// The name that the certificate must be valid for.
struct ServerName(String);

impl Host for ServerName {
    fn hostname(&self) -> &str {
        &self.0
    }
}

/// A TLS stream over TCP that implements [`ActixStream`], which awc requires of a connector's
/// streams.
#[derive(Debug)]
pub(crate) struct TlsStream(AsyncTlsStream<TcpStream>);

impl ActixStream for TlsStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(self.0.get_ref().0, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(self.0.get_ref().0, cx)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpn_is_always_http_1_1() {
        assert_eq!(client_config(None).alpn_protocols, [ALPN]);
        let mut custom = ClientConfig::clone(&client_config(None));
        custom.alpn_protocols = vec![b"h2".to_vec()];
        assert_eq!(
            client_config(Some(&Arc::new(custom))).alpn_protocols,
            [ALPN]
        );
    }
}
