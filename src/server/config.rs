//! [`ServerBuilder`]: every option of the server, its default and its unit. No IO.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    Backend, LocalServer, SandboxService, ServerError,
    secret::SecretSource,
    store::{Bounds, Place, ShownUrl},
    token::AccessToken,
};
use crate::protocol::{Version, limits};

/// Options of a server.
///
/// ```no_run
/// use std::time::Duration;
/// use actix_sandbox::server::LocalServer;
///
/// # async fn start() -> Result<(), actix_sandbox::server::ServerError> {
/// let server = LocalServer::builder()
///     .address("127.0.0.1:8080")
///     .max_sandboxes(10)
///     .max_run_time(Duration::from_secs(60))
///     .start()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start` or `service` is called"]
pub struct ServerBuilder {
    pub(super) address: String,
    pub(super) workers: usize,
    pub(super) max_connections: usize,
    pub(super) secret: SecretSource,
    pub(super) options: Options,
}

/// What the sandboxes and their sessions go by.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) backend: Option<Backend>,
    pub(super) directory: Option<PathBuf>,
    pub(super) state: Option<Place>,
    pub(super) archives: Bounds,
    pub(super) store_timeout: Duration,
    pub(super) handoff_lease: Duration,
    pub(super) handoff_timeout: Duration,
    pub(super) max_sandboxes: usize,
    pub(super) max_sandboxes_per_client: Option<usize>,
    pub(super) request_timeout: Duration,
    pub(super) max_message_bytes: usize,
    pub(super) default_idle_timeout: Duration,
    pub(super) max_idle_timeout: Duration,
    pub(super) max_run_time: Duration,
    pub(super) max_execs: usize,
    pub(super) max_protocol: Version,
    pub(super) output_buffer_bytes: usize,
    pub(super) stdin_buffer_bytes: usize,
    pub(super) access_token: Option<AccessToken>,
    pub(super) allowed_origins: Vec<String>,
    pub(super) allowed_hosts: Vec<String>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            workers: 2,
            max_connections: 50_000,
            secret: SecretSource::default(),
            options: Options {
                backend: None,
                directory: None,
                state: None,
                archives: Bounds {
                    bytes: 8 << 30,
                    files: 1_000_000,
                },
                store_timeout: Duration::from_secs(5 * 60),
                handoff_lease: Duration::from_secs(10),
                handoff_timeout: Duration::from_secs(60),
                max_sandboxes: 1_024,
                max_sandboxes_per_client: None,
                request_timeout: Duration::from_secs(30),
                max_message_bytes: limits::DEFAULT_MAX_MESSAGE_BYTES,
                default_idle_timeout: limits::DEFAULT_SERVER_IDLE_TIMEOUT,
                max_idle_timeout: Duration::from_secs(24 * 60 * 60),
                max_run_time: Duration::from_secs(60 * 60),
                max_execs: 64,
                max_protocol: Version::V2,
                output_buffer_bytes: 1024 * 1024,
                stdin_buffer_bytes: limits::DEFAULT_MAX_MESSAGE_BYTES,
                access_token: None,
                allowed_origins: Vec::new(),
                allowed_hosts: Vec::new(),
            },
        }
    }
}

impl ServerBuilder {
    /// Where to listen, as `host:port`; port 0 takes a free one. Default: `127.0.0.1:0`.
    ///
    /// The [secret](Self::secret) in the URL and the [access token](Self::access_token) travel in
    /// clear text: put a proxy that speaks TLS in front of an address that other machines reach.
    /// Has no effect on [`service`](Self::service).
    pub fn address(mut self, address: impl fmt::Display) -> Self {
        self.address = address.to_string();
        self
    }

    /// The secret that is the first segment of the server's URL: 22 to 128 letters, digits, `-` and
    /// `_`. A request without it is answered 404. Default: 128 random bits for each start; with a
    /// [`state_directory`](Self::state_directory) or [`state_url`](Self::state_url) a secret that
    /// is kept there, so that servers of one state have the same.
    ///
    /// Has no effect on [`service`](Self::service).
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = SecretSource::Given(SecretString::from(secret.into()));
        self
    }

    /// A file with the [`secret`](Self::secret), so that the URL stays the same when the server
    /// starts again. A missing file is created, for its owner alone. Starting fails if the file
    /// belongs to another user, if others may open or replace it, or if it is a link. Has no effect
    /// on [`service`](Self::service).
    pub fn secret_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.secret = SecretSource::File(file.into());
        self
    }

    /// Starts the server without a [`secret`](Self::secret): unless there is an
    /// [`access_token`](Self::access_token), **every user of this machine, and everything else that
    /// reaches the address, can run code here.** Starting logs a warning then. Has no effect on
    /// [`service`](Self::service).
    pub fn no_secret(mut self) -> Self {
        self.secret = SecretSource::Disabled;
        self
    }

    /// What runs the code. Default: what the environment variable `ACTIX_SANDBOX_BACKEND` names (`auto`, `host`,
    /// `namespace` or `gvisor`), and without it [`Backend::Host`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.options.backend = Some(backend);
        self
    }

    /// Where the directories of the sandboxes are put. It is made if it is missing; the server puts
    /// one directory of its own into it and removes that again. Default: the directory for temporary files.
    ///
    /// It, and each directory above it, must belong to the user of the server or to root, and other
    /// users must not be able to write to it, unless it is sticky, as `/tmp` is.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.options.directory = Some(directory.into());
        self
    }

    /// Where filesystem snapshots and checkpoints are kept. It is made, with mode 0700, if it is missing,
    /// and stays when the server stops; a server that is started on it later, or another one beside this,
    /// finds what is there. Default: with the directories of the sandboxes, gone when the server stops.
    ///
    /// The directory must belong to the user of the server, must not be a symbolic link, and other users
    /// must not be able to write to it. Each directory above it must belong to that user or to root; other
    /// users must not be able to write to those either, unless they are sticky, as `/tmp` is. The
    /// server refuses to start otherwise. A directory that others may read keeps its mode; what the server
    /// puts into it is closed to them.
    ///
    /// With a state directory, a server that stops also checkpoints the sandboxes that are to be
    /// checkpointed when idle (`enable_idle_timeout_auto_checkpoint`), as far as that is done within
    /// some ten seconds; what runs in them is killed. All others are deleted.
    ///
    /// A checkpoint holds files and settings, **not memory**: see
    /// [what is stored](crate::server#what-is-stored).
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.options.state = Some(Place::Directory(directory.into()));
        self
    }

    /// Where filesystem snapshots and checkpoints are kept, as a URL, instead of a
    /// [`state_directory`](Self::state_directory), with which it has the rest in common:
    ///
    /// - `s3://BUCKET/PREFIX`: a bucket of S3 or of what speaks like it; needs the feature `object-store`.
    /// - `gs://BUCKET/PREFIX`: a bucket of Google Cloud Storage; needs the feature `object-store`.
    /// - `file:///DIRECTORY`: the same as a state directory.
    ///
    /// Servers that share nothing but a bucket hand sandboxes over to each other.
    ///
    /// Credentials and endpoint are read from the environment, under the names that
    /// [`object_store`](https://docs.rs/object_store) knows: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`, `AWS_ALLOW_HTTP=true` for an endpoint without TLS, and others; for Google
    /// `GOOGLE_SERVICE_ACCOUNT` with the path of a key, `GOOGLE_APPLICATION_CREDENTIALS`, and others; without them those of the
    /// machine in the cloud. The [host backend](Backend::Host) lets code in a sandbox read the environment of
    /// the server.
    ///
    /// The bucket must be there, and the server may list, read, write and delete in it; that is tried at the start. An archive
    /// is packed in the [`directory`](Self::directory) first. An upload that is interrupted leaves nothing that is seen, but its
    /// parts cost money until they are removed: have the bucket abort incomplete multipart uploads by age. Locks cost
    /// requests too, while a server has sandboxes that may be handed over: one list about every second, and four requests for each
    /// of them in a third of the [`handoff_lease`](Self::handoff_lease).
    ///
    /// ```no_run
    /// # use actix_sandbox::server::LocalServer;
    /// # async fn start() -> Result<(), actix_sandbox::server::ServerError> {
    /// let server = LocalServer::builder().state_url("s3://sandboxes/production").start().await?;
    /// # Ok(()) }
    /// ```
    pub fn state_url(mut self, url: impl Into<String>) -> Self {
        self.options.state = Some(Place::Url(ShownUrl(url.into())));
        self
    }

    /// Largest archive of a snapshot or a checkpoint, in bytes before it is compressed. A sandbox with more is not
    /// stored, and an archive that unpacks to more is not restored; the client is told. Holes in files do
    /// not count. Default: 8 GiB.
    pub fn max_archive_size(mut self, bytes: u64) -> Self {
        self.options.archives.bytes = bytes;
        self
    }

    /// Most files, directories and links in an archive of a snapshot or a checkpoint. A sandbox with more is not
    /// stored, and an archive with more is not restored; the client is told. Default: 1 000 000.
    pub fn max_archive_files(mut self, files: u64) -> Self {
        self.options.archives.files = files;
        self
    }

    /// Longest time that storing or restoring a sandbox may take. The time that it waits for other
    /// snapshots, checkpoints and restores counts; with more than 64 of them at once it waits for one
    /// to end. An operation that reaches the limit ends, and the client is told. Default: 5 min.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.options.store_timeout = timeout;
        self
    }

    /// How long this server has a sandbox that may be handed over without renewing its claim. When the
    /// server dies, another one on the same state may take the sandbox after that. Clocks
    /// must agree to well within it. At least 100 ms. Default: 10 s.
    pub fn handoff_lease(mut self, lease: Duration) -> Self {
        self.options.handoff_lease = lease.max(Duration::from_millis(100));
        self
    }

    /// Longest time that a client who attaches waits for another server to hand the sandbox over. Should
    /// be longer than the lease. Default: 60 s.
    pub fn handoff_timeout(mut self, timeout: Duration) -> Self {
        self.options.handoff_timeout = timeout;
        self
    }

    /// Threads that serve connections. Default: 2. Of no effect on [`service`](Self::service).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Most connections at once of clients that may call; one more is answered 503. Default: 50
    /// 000, and never more than three eighths of the files that the process may have open when it
    /// starts (`ulimit -n`): the rest is for the sandboxes. Connections that have not shown the
    /// secret yet are counted apart, and closed early when there are many. Has no effect on
    /// [`service`](Self::service).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// Most sandboxes at once; the creation of one more is refused with a reason. Default: 1024.
    pub fn max_sandboxes(mut self, sandboxes: usize) -> Self {
        self.options.max_sandboxes = sandboxes;
        self
    }

    /// Most sandboxes at once that the clients of one IP address may have; the creation of one more
    /// is refused with a reason. An IPv6 address counts by its first 64 bits. A sandbox counts for
    /// the client that created or restored it. Behind a proxy all clients have the proxy's address.
    /// Default: no limit.
    pub fn max_sandboxes_per_client(mut self, sandboxes: usize) -> Self {
        self.options.max_sandboxes_per_client = Some(sandboxes);
        self
    }

    /// How long a client may take to send the code for `/execute`, or the configuration of a new
    /// sandbox. Default: 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// Largest message that a client may send, in bytes. A frame that announces more is not read;
    /// the session is closed with code 1009. Default: 16 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.options.max_message_bytes = bytes.max(1);
        self
    }

    /// Idle time after which a sandbox is deleted when its client names none. Default: 300 s.
    pub fn default_idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.default_idle_timeout = timeout;
        self
    }

    /// Longest idle time that a client gets, whatever it asks for. Default: 24 h.
    pub fn max_idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.max_idle_timeout = timeout;
        self
    }

    /// Longest time that one exec may run; then it is killed, and the client is told. Default: 1 h.
    pub fn max_run_time(mut self, limit: Duration) -> Self {
        self.options.max_run_time = limit;
        self
    }

    /// Most execs that may run at once in one sandbox; v1 clients run one beside them. Default: 64.
    pub fn max_execs(mut self, limit: usize) -> Self {
        self.options.max_execs = limit;
        self
    }

    /// The newest version of the protocol that the server speaks; what a client speaks is agreed on for
    /// each link. Default: v2.
    pub fn max_protocol_version(mut self, version: Version) -> Self {
        self.options.max_protocol = version;
        self
    }

    /// Output of a sandbox that its client has not taken yet, in bytes; under protocol v2 of each exec, and
    /// the client may ask for less. When so much waits, the
    /// pipes of the process are no longer read, so that it stops writing. Default: 1 MiB.
    pub fn output_buffer(mut self, bytes: usize) -> Self {
        self.options.output_buffer_bytes = bytes.max(1);
        self
    }

    /// Input that a process has not taken yet, in bytes. More is refused, and the client is told.
    /// Default: 16 MiB.
    pub fn stdin_buffer(mut self, bytes: usize) -> Self {
        self.options.stdin_buffer_bytes = bytes.max(1);
        self
    }

    /// The token that every request has to carry, as `Authorization: Bearer …`; without it, or with another, it is answered 401.
    /// Clients send it by [`bearer_token_source`](crate::SandboxBuilder::bearer_token_source). It travels as it is: put
    /// something that speaks TLS in front of an address that others can listen to. Default: none.
    pub fn access_token(mut self, token: impl Into<String>) -> Self {
        self.options.access_token = Some(AccessToken::new(SecretString::from(token.into())));
        self
    }

    /// Lets web pages of this origin in, for example `https://example.org`. May be called more than
    /// once. Default: none; a request that carries an `Origin` is refused.
    pub fn allowed_origin(mut self, origin: impl Into<String>) -> Self {
        self.options.allowed_origins.push(origin.into());
        self
    }

    /// Accepts this host name, without port, in the `Host` header. May be called more than once.
    /// Default: `localhost`, loopback addresses, and the address listened on (any IP address when
    /// listening on all); everything else is refused, which keeps out web pages that have their own
    /// name resolved to this machine.
    pub fn allowed_host(mut self, host: impl Into<String>) -> Self {
        self.options.allowed_hosts.push(host.into());
        self
    }

    /// Starts a server of its own. Works on any executor and on none.
    ///
    /// # Errors
    ///
    /// The address, the directory, the place of the state, or the threads are not to be had.
    pub async fn start(self) -> Result<LocalServer, ServerError> {
        LocalServer::start_with(self).await
    }

    /// Starts the sandboxes without a listener, to be mounted into an actix-web application.
    ///
    /// # Errors
    ///
    /// The directory, the place of the state, or the threads are not to be had.
    pub async fn service(self) -> Result<SandboxService, ServerError> {
        SandboxService::start(self.options).await
    }
}
