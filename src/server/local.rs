//! [`LocalServer`]: a complete server on threads of its own. It needs no runtime of the caller.

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
    error::ServerError,
    http::{
        connections::{Connections, Limits},
        listener,
        secret::Secret,
        service::SandboxService,
    },
    thread::ServerThread,
};

/// Longest time that a drop waits for the listener to end.
const DROP_WITHIN: Duration = Duration::from_secs(5);

/// A server on this machine that really runs code.
///
/// It listens on the loopback interface at a free port unless told otherwise. Its
/// [`url`](Self::url) holds a secret: [without it](crate::server#who-may-call) no other user of the
/// machine can use the server. Code runs as the user of this process and is not confined: start it
/// for code that you trust.
///
/// The server ends with [`stop`](Self::stop) or when it is dropped: every sandbox is deleted, with
/// its processes and files. That also holds when this process dies by a signal: a small watchdog
/// process cleans up then. Where that was killed as well, the next server in the same
/// [directory](ServerBuilder::directory) does. What is in a [state
/// directory](ServerBuilder::state_directory) stays.
///
/// Beside the endpoints of the protocol it answers `GET /healthz`, always, and `GET /readyz`: 200,
/// or 503 while it is stopping or has as many sandboxes as it may have. Neither needs the secret.
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
    /// It holds the secret: never log it.
    url: String,
    service: SandboxService,
    listening: Listening,
    /// Runs the listener and its workers.
    thread: ServerThread,
}

impl fmt::Debug for LocalServer {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The listener. It ends when this is dropped, also if the caller gave up waiting for the server.
struct Listening(ServerHandle);

impl Listening {
    fn stop(&self) {
        // The command is on its way at once; the future is only the confirmation.
        drop(self.0.stop(false));
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LocalServer {
    /// Starts a server with every option at its default.
    ///
    /// # Errors
    ///
    /// Fails if the address can't be bound, if the directory can't be used, if the backend doesn't
    /// work here, or if a thread can't be started.
    pub async fn start() -> Result<Self, ServerError> {
        Self::builder().start().await
    }

    /// Options, all at their defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The base URL for clients, for example `http://127.0.0.1:34567/0c5f…`. Its path is the
    /// server's [secret](crate::server#who-may-call): show it only to callers that may run code.
    ///
    /// When listening on all interfaces it names the loopback address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address listened on, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What runs the code: `host`, `namespace` or `gvisor`. Of interest where the server was to
    /// choose.
    pub fn backend(&self) -> &'static str {
        self.service.backend()
    }

    /// How many sandboxes there are, those being created or deleted included.
    pub fn sandbox_count(&self) -> usize {
        self.service.sandbox_count()
    }

    /// Stops the server. When this returns, within some ten seconds, nothing listens any more,
    /// every process of every sandbox is dead, and their files are removed.
    pub async fn stop(self) {
        // First the sandboxes, while their clients can still be told.
        self.service.stop().await;
        self.listening.stop();
        self.thread.ended().await;
    }
}

impl ServerBuilder {
    /// Starts a server with its own listener and threads. Works on any executor, and without one.
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
                "neither a secret nor an access token: every user of this machine, and all that reaches the address, can \
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
        let (address, listening) = is_ready.await.map_err(|_| ServerError::Died)??;
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
            listening,
            thread,
        })
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // Returns at once after `stop`.
        self.service.stop_blocking();
        self.listening.stop();
        self.thread.wait(DROP_WITHIN);
    }
}

/// The life of the listener's thread.
fn serve(
    builder: ServerBuilder,
    service: SandboxService,
    secret: Option<Secret>,
    ready: oneshot::Sender<Result<(SocketAddr, Listening), ServerError>>,
) {
    actix_web::rt::System::new().block_on(async move {
        let address = builder.address.clone();
        let server = listener::bind(&address).and_then(|listeners| {
            let bound = listeners.first().map(TcpListener::local_addr);
            let bound = bound.ok_or_else(|| io::Error::other("no address"))??;
            let limits = Limits::new(open_files(), builder.max_connections);
            tracing::debug!(?limits, "connections");
            let connections = Connections::new(limits);
            let server =
                listener::serve(listeners, builder.workers, &connections, &service, secret)?;
            Ok((bound, server))
        });
        // The threads of the server have their own.
        drop(service);
        let (bound, server) = match server {
            Ok(server) => server,
            Err(source) => {
                return drop(ready.send(Err(ServerError::Bind { address, source })));
            }
        };
        // If the caller doesn't wait any more, this stops the listener at once.
        drop(ready.send(Ok((bound, Listening(server.handle())))));
        if let Err(error) = server.await {
            tracing::error!(%error, "the listener failed");
        }
    });
}

/// Files that this process may have open at once.
fn open_files() -> usize {
    // The soft limit; 1024 is what most systems start with.
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1_024, 1_024));
    usize::try_from(soft).unwrap_or(usize::MAX)
}
