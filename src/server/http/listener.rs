//! The listener: accepts connections, keeps as many as [`Connections`] permits, and serves the
//! endpoints on them.
//!
//! `actix_web::HttpServer` stops accepting at its connection limit, so idle connections would block
//! health checks. This listener keeps accepting, and closes connections that have not yet sent the
//! secret.

use std::{
    io,
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{HttpService, Protocol, error::DispatchError};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::{
    App, HttpResponse,
    dev::{AppConfig, Extensions, Server},
    guard, web,
};
use futures::future::ready;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    connections::{ConnectionInfo, Connections, Ticket},
    list::Secrecy,
    secret::Secret,
    service::SandboxService,
};

/// The listen backlog. Large, because many clients may connect at once.
const BACKLOG: u32 = 4_096;

/// Listens on every address that a name resolves to. Fails only if none of them can be bound.
pub(crate) fn bind(address: &str) -> io::Result<Vec<std::net::TcpListener>> {
    let mut listeners = Vec::new();
    let mut failed = io::Error::other("no address");
    for address in address.to_socket_addrs()? {
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => failed = error,
        }
    }
    match listeners.is_empty() {
        false => Ok(listeners),
        true => Err(failed),
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Stops listening, which frees the address. Closing the socket isn't enough: a child process
/// between fork and exec still has a copy of it.
pub(crate) fn stop(listener: &std::net::TcpListener) {
    // macOS can't shut down a listening socket. There, closing it must do.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
}

/// Serves the endpoints, below the secret where there is one. Must be called in an actix System.
pub(crate) fn serve(
    listeners: Vec<std::net::TcpListener>,
    workers: usize,
    connections: &Arc<Connections>,
    service: &SandboxService,
    secret: Option<Secret>,
) -> io::Result<Server> {
    let accepted = connections.limits.accepted();
    let mut server = Server::build()
        .workers(workers)
        .max_concurrent_connections(accepted.div_ceil(workers))
        .disable_signals()
        .shutdown_timeout(1);
    for listener in listeners {
        let bound = listener.local_addr()?;
        let (connections, service, secret) = (connections.clone(), service.clone(), secret.clone());
        server = server.listen("actix-sandbox", listener, move || {
            let entered = connections.clone();
            let http = HttpService::build()
                // Close at once after a session ends, without a wait for the client to disconnect.
                .client_disconnect_timeout(Duration::ZERO)
                .local_addr(bound)
                .on_connect_ext(move |connection: &Connection, data: &mut Extensions| {
                    data.insert(ConnectionInfo {
                        bound,
                        id: connection.ticket.id,
                        connections: connection.ticket.connections.clone(),
                    });
                })
                .finish(map_config(app(&service, secret.clone()), |()| {
                    AppConfig::default()
                }));
            fn_service(move |socket: TcpStream| {
                let peer = socket.peer_addr().ok();
                let connection = Connection::new(socket, entered.enter());
                ready(Ok::<_, DispatchError>((connection, Protocol::Http1, peer)))
            })
            .and_then(http)
        })?;
    }
    Ok(server.run())
}

/// The endpoints. With a secret, all of them except the health checks are below it, and a request
/// without it is answered 404.
fn app(
    service: &SandboxService,
    secret: Option<Secret>,
) -> impl actix_service::ServiceFactory<
    actix_http::Request,
    Config = AppConfig,
    Response = actix_web::dev::ServiceResponse,
    Error = actix_web::Error,
    InitError = (),
> + use<> {
    // Answers 404 and closes the connection.
    let nothing = || async { HttpResponse::NotFound().force_close().finish() };
    let app = App::new()
        .configure(service.configure_health())
        .default_service(web::to(nothing));
    let app = match secret {
        None => app.configure(service.configure_for(Secrecy::Unknown)),
        Some(secret) => {
            let opens = guard::fn_guard(move |it| secret.opens(it.head().uri.path()));
            let scope = web::scope("/{secret}").guard(opens);
            // Clients append their paths to the URL, for health checks as well.
            let scope = scope.configure(service.configure_health());
            app.service(scope.configure(service.configure_for(Secrecy::Secret)))
        }
    };
    app.into_factory()
}

/// A connection of a client. The server closes it early if it is evicted.
struct Connection {
    socket: TcpStream,
    ticket: Ticket,
}

impl Connection {
    fn new(socket: TcpStream, ticket: Ticket) -> Self {
        // The server also works on a system that doesn't support these options.
        let _ = socket.set_nodelay(true);
        // Detects a peer that vanished without closing, so that its sandbox becomes free again.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10));
        let _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive);
        Self { socket, ticket }
    }
}

/// Returns the result of the socket. A pending result becomes an error if the connection is
/// evicted.
fn or_evicted<T>(is_evicted: bool, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    match polled {
        Poll::Pending if is_evicted => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        polled => polled,
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_evicted = self.ticket.is_evicted(cx.waker());
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
        // Serve a request that has arrived, because it may carry the secret. Do so only once.
        if is_evicted && buffer.filled().len() > before && !self.ticket.is_rescued() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        or_evicted(is_evicted, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let is_evicted = self.ticket.is_evicted(cx.waker());
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        or_evicted(is_evicted, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_evicted = self.ticket.is_evicted(cx.waker());
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        or_evicted(is_evicted, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
