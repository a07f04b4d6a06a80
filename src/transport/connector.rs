//! [`TunedConnector`]: actix-tls's TCP connector with `TCP_NODELAY` and TCP keepalive.
//!
//! Without `TCP_NODELAY`, Nagle's algorithm holds a short message back until the peer acknowledges
//! the previous one, and the peer delays its acknowledgement. Two short replies in a row took 44 ms
//! instead of 3 ms.

use std::{io, time::Duration};

use actix_rt::net::TcpStream;
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, Connector, ConnectorService};
use awc::http::Uri;
use futures::future::LocalBoxFuture;
use socket2::{SockRef, TcpKeepalive};

/// Idle time before the operating system sends a keepalive probe, and the interval between probes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Opens a TCP connection and sets `TCP_NODELAY` and keepalive.
#[derive(Clone, Default)]
pub(crate) struct TunedConnector {
    inner: ConnectorService,
}

impl TunedConnector {
    pub(crate) fn new() -> Self {
        Self {
            inner: Connector::default().service(),
        }
    }
}

impl Service<ConnectInfo<Uri>> for TunedConnector {
    type Response = Connection<Uri, TcpStream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let connecting = self.inner.call(info);
        Box::pin(async move {
            let connection = connecting.await?;
            tune(connection.io_ref()).map_err(ConnectError::Io)?;
            Ok(connection)
        })
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn sockets_get_their_options() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let uri = Uri::from_static("ws://localhost");
        let info = ConnectInfo::new(uri).set_addr(address);
        let connection = TunedConnector::new()
            .call(info)
            .await
            .expect("a connection");
        let socket = SockRef::from(connection.io_ref());
        assert!(socket.tcp_nodelay().expect("option"));
        assert!(socket.keepalive().expect("option"));
    }
}
