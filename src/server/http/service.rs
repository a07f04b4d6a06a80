//! [`SandboxService`]: the local server without a listener.

use std::{sync::Arc, time::Duration};

use actix_web::web::ServiceConfig;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use super::{
    list::Secrecy,
    routes,
    secret::{Secret, SecretSource},
};
use crate::server::{
    backend::{server_directory::Root, start, warm::WarmPool},
    blocking::blocking,
    builder::{Options, ServerBuilder},
    confinement::Confinement,
    error::ServerError,
    identity::random_hex,
    sandbox::{leases::Leases, manager::Manager, registry::Registry},
    store::{checkpoints::Store, lock::Locks, open, place::Place},
    thread::ServerThread,
};

/// How long dropping the service waits for the sandboxes to be deleted.
const DROP_WITHIN: Duration = Duration::from_secs(15);

/// The local server as a service that an actix-web application can mount.
///
/// The sandboxes run on a separate thread, so they outlive the workers of the application. They are
/// deleted by [`stop`](Self::stop), or when the last clone of the service is dropped. The
/// application holds clones as long as it runs.
///
/// The application must restrict who may call the endpoints. The service has neither the
/// [secret](crate::server#who-may-call) nor the connection limits of a
/// [`LocalServer`](crate::LocalServer). Unless you set an [access
/// token](ServerBuilder::access_token), protect the endpoints with the application's own
/// authentication, or mount them below a secret path:
///
/// ```
/// # use actix_sandbox::server::SandboxService;
/// # use actix_web::{App, guard, web};
/// # fn mount(service: SandboxService, secret: String) {
/// // `secret` has at least 128 random bits. The guard compares the whole path segment.
/// let opens = guard::fn_guard(move |request| {
///     let path = request.head().uri.path();
///     let segment = path.split('/').nth(1).unwrap_or_default();
///     subtle::ConstantTimeEq::ct_eq(segment.as_bytes(), secret.as_bytes()).into()
/// });
/// let app = App::new().service(
///     web::scope("/{secret}").guard(opens).configure(service.configure()),
/// );
/// # }
/// ```
///
/// ```
/// use actix_sandbox::server::SandboxService;
/// use actix_web::{App, HttpServer};
///
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = SandboxService::builder().max_sandboxes(10).service().await?;
/// let mounted = service.clone();
/// let server = HttpServer::new(move || App::new().configure(mounted.configure()))
///     .tcp_nodelay(true)
///     .disable_signals()
///     .bind(("127.0.0.1", 0))?
///     .run();
/// # let handle = server.handle();
/// # actix_web::rt::spawn(async move { handle.stop(false).await });
/// server.await?;
/// service.stop().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SandboxService {
    engine: Arc<Engine>,
}

impl std::fmt::Debug for SandboxService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxService").finish_non_exhaustive()
    }
}

impl SandboxService {
    /// Creates a builder with default options. [`ServerBuilder::service`] starts the service.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Returns a function for [`App::configure`](actix_web::App::configure). It adds the endpoints
    /// `/create`, `/attach/…`, `/execute`, `/sandboxes`, `/status` and `/`.
    ///
    /// `/sandboxes` lists the sandboxes only if the service has an [access
    /// token](ServerBuilder::access_token), because the service can't know how the application
    /// restricts its callers.
    pub fn configure(&self) -> impl FnOnce(&mut ServiceConfig) + use<> {
        self.configure_for(Secrecy::Unknown)
    }

    /// Like [`configure`](Self::configure), for a listener that may have checked the secret.
    pub(crate) fn configure_for(
        &self,
        secrecy: Secrecy,
    ) -> impl FnOnce(&mut ServiceConfig) + use<> {
        // The application holds the engine, which keeps the sandboxes running.
        let engine = self.engine.clone();
        move |config| {
            routes::add(config, engine.manager.clone(), secrecy);
            config.app_data(engine);
        }
    }

    /// Returns a function for `App::configure` that adds `/healthz` and `/readyz`.
    pub(crate) fn configure_health(&self) -> impl FnOnce(&mut ServiceConfig) + use<> {
        let manager = self.engine.manager.clone();
        move |config| routes::add_health(config, manager)
    }

    /// Resolves the secret of a server. A generated secret is shared through the state of this
    /// service, if it has one that lasts.
    pub(crate) async fn secret(&self, source: SecretSource) -> Result<Option<Secret>, ServerError> {
        let store = self.engine.manager.store.clone();
        let resolve = move || source.resolve(store.is_lasting().then(|| store.storage()));
        let resolved = self.engine.manager.runtime.spawn_blocking(resolve);
        resolved.await.map_err(|_| ServerError::Died)?
    }

    /// Returns the backend that runs the code: `host`, `namespace` or `gvisor`. With
    /// [`Backend::Auto`](crate::server::Backend::Auto) or
    /// [`Backend::Confined`](crate::server::Backend::Confined), this is the one that the server
    /// selected.
    pub fn backend(&self) -> &'static str {
        self.engine.manager.backend.name()
    }

    /// Returns what the backend enforces on each sandbox.
    pub fn confinement(&self) -> Confinement {
        self.engine.manager.backend.confinement()
    }

    /// Returns the number of sandboxes, including those being created or deleted.
    pub fn sandbox_count(&self) -> usize {
        self.engine.manager.registry.count()
    }

    /// Returns the number of [warm](ServerBuilder::warm) sandboxes that are ready for a client.
    /// `None` if the server has no warm pool.
    pub fn warm_count(&self) -> Option<usize> {
        let warm = self.engine.manager.warm.as_ref();
        warm.map(|pool| pool.counts().ready)
    }

    /// Refuses new sandboxes and deletes all existing ones. Resolves when their processes are
    /// killed and their files are removed, or shortly after the
    /// [`shutdown_timeout`](ServerBuilder::shutdown_timeout).
    ///
    /// If the future is dropped earlier, the service keeps stopping in the background.
    pub async fn stop(&self) {
        self.engine.request_stop();
        self.engine.thread.ended().await;
    }

    /// Like [`stop`](Self::stop), but blocks, for at most [`DROP_WITHIN`]. Returns `false` at once
    /// if the service was already told to stop.
    pub(crate) fn stop_blocking(&self) -> bool {
        self.engine.stop_blocking()
    }
}

impl ServerBuilder {
    /// Starts the server without a listener. Mount the service into an actix-web application.
    ///
    /// # Errors
    ///
    /// Fails if the directory or the state can't be used, if the backend doesn't work here, or if a
    /// thread can't be started.
    pub async fn service(self) -> Result<SandboxService, ServerError> {
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopping) = watch::channel(false);
        let thread =
            ServerThread::start("actix-sandbox", move || live(self.options, ready, stopping))?;
        let manager = is_ready.await.map_err(|_| ServerError::Died)??;
        let engine = Engine {
            manager,
            stop,
            thread,
        };
        Ok(SandboxService {
            engine: Arc::new(engine),
        })
    }
}

/// Owns the thread of the sandboxes. Dropping it stops the thread.
struct Engine {
    manager: Arc<Manager>,
    stop: watch::Sender<bool>,
    thread: ServerThread,
}

impl Engine {
    /// Tells the thread to stop. Returns whether this is the first request.
    fn request_stop(&self) -> bool {
        !self.stop.send_replace(true)
    }

    /// Doesn't block if the thread was already told to stop. A caller that dropped the future of
    /// [`SandboxService::stop`] has stopped waiting, and may run on an executor.
    fn stop_blocking(&self) -> bool {
        let is_first = self.request_stop();
        if is_first {
            self.thread.wait(DROP_WITHIN);
        }
        is_first
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_blocking();
    }
}

/// Runs the thread of the sandboxes until it is stopped.
fn live(
    options: Options,
    ready: oneshot::Sender<Result<Arc<Manager>, ServerError>>,
    mut stopping: watch::Receiver<bool>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("actix-sandbox-files")
        .max_blocking_threads(16)
        .build()
    {
        Ok(runtime) => runtime,
        Err(source) => return drop(ready.send(Err(ServerError::Runtime { source }))),
    };
    runtime.block_on(async move {
        match prepare(options).await {
            Ok(manager) => {
                let manager = Arc::new(manager);
                let registry = Arc::downgrade(&manager.registry);
                tokio::spawn(manager.leases.clone().keep(registry));
                if ready.send(Ok(manager.clone())).is_ok() {
                    // Stop on an error, too: it means that the engine was dropped.
                    let _ = stopping.wait_for(|&stop| stop).await;
                }
                manager.stop().await;
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
    // A blocking task that hangs must not keep this thread from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// Creates the directory of the server, opens the store and starts the backend. Removes the
/// directory on failure.
async fn prepare(options: Options) -> Result<Manager, ServerError> {
    // If the process was started with SIGCHLD ignored, the kernel would reap its children, and
    // their exit statuses would be lost. A handler prevents that. It stays for the life of the
    // process.
    let _ = signal(SignalKind::child()).map_err(|source| ServerError::Runtime { source })?;
    let parent = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    let server = random_hex::<16>().map_err(|error| ServerError::Runtime {
        source: error.into(),
    })?;
    let root = {
        let (parent, server) = (parent.clone(), server.clone());
        blocking(move || Root::make(&parent, &server)).await
    };
    let root = root.map_err(|source| ServerError::Directory {
        path: parent,
        source,
    })?;
    let path = root.path.clone();
    let opened = open(options, root, server).await;
    opened.inspect_err(|_| drop(std::fs::remove_dir_all(path)))
}

async fn open(options: Options, root: Root, server: String) -> Result<Manager, ServerError> {
    let state = options.state.clone();
    let place = state.unwrap_or_else(|| Place::Directory(root.path.join("state")));
    let storage = {
        let (place, workplace) = (place.clone(), root.path.join("archives"));
        let lease = options.handoff_lease;
        blocking(move || open::open(&place, &workplace, lease)).await
    };
    let storage = storage.map_err(|source| match &place {
        Place::Directory(path) => ServerError::StateDirectory {
            path: path.clone(),
            source,
        },
        Place::Url(url) => ServerError::StateUrl {
            url: format!("{url:?}"),
            source,
        },
    })?;
    let (lasting, timeout) = (options.state.is_some(), options.store_timeout);
    let store = Store::new(storage.clone(), lasting, options.archives, timeout);
    let locks = Locks::new(storage, server.clone(), options.handoff_lease);
    let state = match place {
        Place::Directory(path) => Some(path),
        Place::Url(_) => None,
    };
    let backend = start::start(
        options.backend.as_ref(),
        root,
        state,
        options.agent.clone(),
        server,
        options.warm,
    )
    .await?;
    let warm = WarmPool::start(backend.clone(), options.warm);
    let options = Arc::new(options);
    Ok(Manager {
        registry: Arc::new(Registry::new(options.clone())),
        options,
        backend,
        warm,
        store: Arc::new(store),
        leases: Arc::new(Leases::new(locks)),
        runtime: Handle::current(),
    })
}
