//! [`LocalServer`]: a complete server on its own threads. Callers can use any executor.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use actix_web::dev::ServerHandle;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::oneshot;

use super::{
    builder::ServerBuilder,
    confinement::Confinement,
    error::ServerError,
    http::{
        connections::{Connections, Limits},
        listener,
        secret::Secret,
        service::SandboxService,
    },
    thread::ServerThread,
};

/// How long dropping the server waits for the listener to end.
const DROP_WITHIN: Duration = Duration::from_secs(5);

/// A sandbox server on this machine, which runs code in local processes.
///
/// By default, it listens on the loopback interface at a free port. Its [`url`](Self::url) contains
/// a secret: [without it](crate::server#who-may-call), no other user of the machine can use the
/// server. By default, code runs as the user of this process and is not confined, so run only code
/// that you trust, or select a [backend](ServerBuilder::backend) that confines code.
///
/// The server ends when [`stop`](Self::stop) is called or when it is dropped. It then deletes every
/// sandbox, with its processes and files. If a signal kills this process, a small watchdog process
/// cleans up. If the watchdog was killed, too, the next server in the same
/// [directory](ServerBuilder::directory) cleans up. The contents of a [state
/// directory](ServerBuilder::state_directory) remain.
///
/// For health checks, the server answers `GET /healthz` with 200. It answers `GET /readyz` with
/// 200, or with 503 while it is stopping or has reached its limit of sandboxes. The body is JSON
/// with the status, the number of sandboxes and the maximum number. If the server has a [warm
/// pool](ServerBuilder::warm), the body also has its `size`, how many sandboxes are `ready`, and
/// how many creates found one (`hits`) or none (`misses`). Health checks need no secret.
///
/// ```
/// use actix_sandbox::server::LocalServer;
///
/// # #[actix_web::main]
/// # async fn main() -> Result<(), actix_sandbox::server::ServerError> {
/// let server = LocalServer::start().await?;
/// println!("listening on {}", server.url());
/// server.stop().await;
/// # Ok(()) }
/// ```
#[must_use = "the server ends when this is dropped"]
pub struct LocalServer {
    address: SocketAddr,
    /// Contains the secret, so it must not be logged.
    url: String,
    service: SandboxService,
    max_connections: usize,
    listening: Listening,
    /// Runs the listener and its workers.
    thread: ServerThread,
}

impl fmt::Debug for LocalServer {
    /// Doesn't show the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Stops the listener when dropped, also if the caller drops the future of `start`.
struct Listening(ServerHandle);

impl Listening {
    fn stop(&self) {
        // `stop` sends the command at once. The future only waits for the confirmation.
        drop(self.0.stop(false));
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LocalServer {
    /// Starts a server with default options.
    ///
    /// # Errors
    ///
    /// Fails if the address can't be bound, if the directory can't be used, if the backend doesn't
    /// work here, or if a thread can't be started.
    pub async fn start() -> Result<Self, ServerError> {
        Self::builder().start().await
    }

    /// Creates a builder with default options.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Returns the base URL for clients, for example `http://127.0.0.1:34567/0c5f…`. Its path is
    /// the server's [secret](crate::server#who-may-call): show it only to callers that may run
    /// code.
    ///
    /// If the server listens on all interfaces, the URL contains the loopback address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the address that the server listens on. If port 0 was configured, this contains the
    /// port that was selected.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the backend that runs the code: `host`, `namespace` or `gvisor`. With
    /// [`Backend::Auto`](crate::server::Backend::Auto) or
    /// [`Backend::Confined`](crate::server::Backend::Confined), this is the one that the server
    /// selected.
    pub fn backend(&self) -> &'static str {
        self.service.backend()
    }

    /// Returns what the backend enforces on each sandbox: limits, user and network.
    pub fn confinement(&self) -> Confinement {
        self.service.confinement()
    }

    /// Returns how many connections of authenticated clients the server accepts at once: the option
    /// [`max_connections`](ServerBuilder::max_connections), or less if the limit on open files of
    /// this process is too low.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Returns the number of sandboxes, including those being created or deleted.
    pub fn sandbox_count(&self) -> usize {
        self.service.sandbox_count()
    }

    /// Returns the number of sandboxes that are [warm](ServerBuilder::warm) and ready for a client.
    /// `None` if the server has no warm pool.
    pub fn warm_count(&self) -> Option<usize> {
        self.service.warm_count()
    }

    /// Stops the server. Resolves when it no longer listens, all processes of the sandboxes are
    /// killed and their files are removed, or shortly after the
    /// [`shutdown_timeout`](ServerBuilder::shutdown_timeout).
    ///
    /// If the future is dropped earlier, for example by a timeout, the drop doesn't block. The
    /// server keeps stopping in the background.
    pub async fn stop(self) {
        // Stop the sandboxes first, while the server can still report their end to clients.
        self.service.stop().await;
        self.listening.stop();
        self.thread.ended().await;
    }
}

impl ServerBuilder {
    /// Starts a server with its own listener and threads. The future works on any executor.
    ///
    /// # Errors
    ///
    /// Fails if the address can't be bound, if the directory, the state or the secret can't be
    /// used, if the backend doesn't work here, or if a thread can't be started.
    pub async fn start(self) -> Result<LocalServer, ServerError> {
        let service = self.clone().service().await?;
        let secret = service.secret(self.secret.clone()).await?;
        if secret.is_none() && self.options.access_token.is_none() {
            tracing::warn!(
                address = self.address,
                "neither a secret nor an access token: every user of this machine, and every caller that reaches the address, can \
                 run code here"
            );
        }
        let path = secret
            .as_ref()
            .map(|secret| format!("/{}", secret.expose()));
        let (ready, is_ready) = oneshot::channel();
        let mounted = service.clone();
        let thread = ServerThread::start("actix-sandbox-http", move || {
            serve(self, mounted, secret, ready);
        })?;
        let Bound {
            address,
            max_connections,
            listening,
        } = is_ready.await.map_err(|_| ServerError::Died)??;
        tracing::info!(%address, "listening");
        let mut reachable = address;
        if address.ip().is_unspecified() {
            reachable.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(LocalServer {
            address,
            url: format!("http://{reachable}{}", path.unwrap_or_default()),
            service,
            max_connections,
            listening,
            thread,
        })
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // After `stop`, this doesn't block, even if the future of `stop` was dropped. The listener
        // then stops when `listening` is dropped.
        if self.service.stop_blocking() {
            self.listening.stop();
            self.thread.wait(DROP_WITHIN);
        }
    }
}

/// A listener that accepts connections.
struct Bound {
    address: SocketAddr,
    /// Maximum number of connections of authenticated clients.
    max_connections: usize,
    listening: Listening,
}

/// Runs the thread of the listener until the listener is stopped.
fn serve(
    builder: ServerBuilder,
    service: SandboxService,
    secret: Option<Secret>,
    ready: oneshot::Sender<Result<Bound, ServerError>>,
) {
    actix_web::rt::System::new().block_on(async move {
        let address = builder.address.clone();
        let server = listener::bind(&address).and_then(|listeners| {
            let bound = listeners.first().map(TcpListener::local_addr);
            let bound = bound.ok_or_else(|| io::Error::other("no address"))??;
            // For `listener::stop`: actix-server only closes its own.
            let kept = listeners.iter().map(TcpListener::try_clone);
            let kept = kept.collect::<io::Result<Vec<_>>>()?;
            let limits = Limits::new(open_files(), builder.max_connections);
            tracing::debug!(?limits, "connections");
            let connections = Connections::new(limits);
            let server =
                listener::serve(listeners, builder.workers, &connections, &service, secret)?;
            Ok((bound, limits.admitted, server, kept))
        });
        // The threads of the listener hold their own clones.
        drop(service);
        let (address, max_connections, server, kept) = match server {
            Ok(server) => server,
            Err(source) => {
                return drop(ready.send(Err(ServerError::Bind { address, source })));
            }
        };
        // If the caller no longer waits, this drops `Listening`, which stops the listener.
        drop(ready.send(Ok(Bound {
            address,
            max_connections,
            listening: Listening(server.handle()),
        })));
        if let Err(error) = server.await {
            tracing::error!(%error, "the listener failed");
        }
        for listener in &kept {
            listener::stop(listener);
        }
    });
}

/// Returns how many files this process may have open.
fn open_files() -> usize {
    // The soft limit. 1,024 is the default of most systems.
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1_024, 1_024));
    usize::try_from(soft).unwrap_or(usize::MAX)
}
