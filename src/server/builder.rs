//! [`ServerBuilder`]: every option of the server, its default and its unit. No IO.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    choice::Backend,
    http::secret::{AccessToken, SecretSource},
    setters::setters,
    store::{
        archive::layout::Bounds,
        place::{Place, ShownUrl},
    },
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

/// The options that sandboxes and sessions use.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(super) backend: Option<Backend>,
    pub(super) agent: Option<PathBuf>,
    pub(super) directory: Option<PathBuf>,
    pub(super) state: Option<Place>,
    pub(super) archives: Bounds,
    pub(super) store_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) handoff_lease: Duration,
    pub(super) handoff_timeout: Duration,
    pub(super) max_sandboxes: usize,
    pub(super) warm: usize,
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
                agent: None,
                directory: None,
                state: None,
                archives: Bounds {
                    bytes: 8 << 30,
                    files: 1_000_000,
                },
                store_timeout: Duration::from_secs(5 * 60),
                shutdown_timeout: Duration::from_secs(10),
                handoff_lease: Duration::from_secs(10),
                handoff_timeout: Duration::from_secs(60),
                max_sandboxes: 1_024,
                warm: 0,
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

setters! {
    ServerBuilder

    /// The address to listen on, as `host:port`. Port 0 selects a free port. Default:
    /// `127.0.0.1:0`.
    ///
    /// The [secret](Self::secret) in the URL and the [access token](Self::access_token) travel in
    /// clear text. Put a TLS proxy in front of an address that other machines can reach.
    /// Has no effect on [`service`](Self::service).
    address(address: impl fmt::Display): address = address.to_string();

    /// The secret, which is the first path segment of the server's URL: 22 to 128 letters, digits,
    /// `-` and `_`. A request without it is answered 404. Default: 128 random bits, new at each
    /// start. With a [`state_directory`](Self::state_directory) or [`state_url`](Self::state_url),
    /// the default is a secret that is stored there and shared by all servers that use this state.
    ///
    /// Has no effect on [`service`](Self::service).
    secret(secret: impl Into<String>): secret = SecretSource::Given(SecretString::from(secret.into()));

    /// A file with the [`secret`](Self::secret), so that the URL stays the same after a restart of
    /// the server. If the file is missing, the server creates it with mode 0600. The server doesn't
    /// start if the file belongs to another user, if other users may open or replace it, or if it
    /// is a symbolic link. Has no effect on [`service`](Self::service).
    secret_file(file: impl Into<PathBuf>): secret = SecretSource::File(file.into());

    /// The backend that runs the code. Default: the one that the environment variable
    /// `ACTIX_SANDBOX_BACKEND` names (`auto`, `confined`, `host`, `namespace` or `gvisor`), or
    /// [`Backend::Host`] if the variable is not set.
    backend(backend: Backend): options.backend = Some(backend);

    /// The program that the backends `namespace` and `gvisor` start as the [agent](super::agent())
    /// of each sandbox. It must be of the same release of this crate. Default: the program that the
    /// environment variable `ACTIX_SANDBOX_AGENT` names. If it is not set: this program, if its
    /// `main` calls [`agent`](super::agent()); otherwise the command `actix-sandbox` in the
    /// directory of this program or on the `PATH`. For tests and examples, which cargo builds in
    /// `deps` and `examples`, the server also looks in the parent of that directory.
    agent(program: impl Into<PathBuf>): options.agent = Some(program.into());

    /// The directory that holds the sandboxes. The server creates it if it is missing. It creates
    /// one subdirectory for itself, and removes this subdirectory when it stops. Default: the
    /// directory for temporary files.
    ///
    /// The directory and each of its parents must belong to the user of the server or to root.
    /// Other users must not be able to write to them, unless they are sticky, like `/tmp`. If a
    /// server with the backend `namespace` runs as root, other users must be able to pass through
    /// them (`chmod o+x`), because its sandboxes run as other users.
    directory(directory: impl Into<PathBuf>): options.directory = Some(directory.into());

    /// The directory that holds filesystem snapshots and checkpoints. The server creates it with
    /// mode 0700 if it is missing, and keeps it when it stops. A later server, or another one that
    /// runs at the same time, can use the same directory. Default: a directory beside the
    /// sandboxes, which the server removes when it stops.
    ///
    /// The directory must belong to the user of the server and must not be a symbolic link. Each of
    /// its parents must belong to that user or to root. Other users must not be able to write to
    /// the directory or to its parents; a parent may be sticky, like `/tmp`. Otherwise the server
    /// refuses to start. If other users may read the directory, it keeps its mode, but they can't
    /// read the files that the server creates in it.
    ///
    /// With a state directory, a server that stops also checkpoints the sandboxes with
    /// `enable_idle_timeout_auto_checkpoint`, within the
    /// [`shutdown_timeout`](Self::shutdown_timeout). It kills their processes and deletes all other
    /// sandboxes.
    ///
    /// A checkpoint holds files and settings, and **memory only with the backend `gvisor`**: see
    /// [what is stored](crate::server#what-is-stored).
    ///
    /// Servers that share a state directory need backends with the same limits: a server can't
    /// restore a sandbox with a limit that its backend can't apply, and applies its own limits if
    /// they are lower.
    state_directory(directory: impl Into<PathBuf>): options.state = Some(Place::Directory(directory.into()));

    /// The URL of the place that holds filesystem snapshots and checkpoints. It replaces the
    /// [`state_directory`](Self::state_directory) and otherwise works like it:
    ///
    /// - `s3://BUCKET/PREFIX`: an S3 or S3-compatible bucket. Needs the feature `object-store`.
    /// - `gs://BUCKET/PREFIX`: a Google Cloud Storage bucket. Needs the feature `object-store`.
    /// - `file:///DIRECTORY`: the same as a state directory.
    ///
    /// Servers that share only a bucket can hand sandboxes over to each other.
    ///
    /// The server reads credentials and the endpoint from the environment variables that
    /// [`object_store`](https://docs.rs/object_store) defines:
    ///
    /// - S3: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`,
    ///   `AWS_ALLOW_HTTP=true` for an endpoint without TLS, and others.
    /// - Google Cloud Storage: `GOOGLE_SERVICE_ACCOUNT` with the path of a key,
    ///   `GOOGLE_APPLICATION_CREDENTIALS`, and others.
    ///
    /// Without these variables it uses the credentials of the cloud instance that it runs on. With
    /// the [host backend](Backend::Host), code in a sandbox can read the environment of the server.
    ///
    /// The bucket must exist, and the server needs permission to list, read, write and delete
    /// objects in it. It checks this at start. The server packs each archive in the
    /// [`directory`](Self::directory) before it uploads it. An interrupted upload leaves no visible
    /// object, but its parts cost money until they are removed. Add a lifecycle rule to the bucket
    /// that aborts incomplete multipart uploads.
    ///
    /// Handoff locks also cost requests while a server has sandboxes that may be handed over: one
    /// list request about every second, and four requests for each such sandbox in every third of
    /// the [`handoff_lease`](Self::handoff_lease).
    ///
    /// ```no_run
    /// # use actix_sandbox::server::LocalServer;
    /// # async fn start() -> Result<(), actix_sandbox::server::ServerError> {
    /// let server = LocalServer::builder().state_url("s3://sandboxes/production").start().await?;
    /// # Ok(()) }
    /// ```
    state_url(url: impl Into<String>): options.state = Some(Place::Url(ShownUrl(url.into())));

    /// The maximum size of the archive of a snapshot or a checkpoint, in bytes before compression.
    /// The server refuses to store or restore anything larger, and tells the client. Holes in files
    /// don't count. Default: 8 GiB.
    max_archive_size(bytes: u64): options.archives.bytes = bytes;

    /// The maximum number of files, directories and links in the archive of a snapshot or a
    /// checkpoint. The server refuses to store or restore anything with more, and tells the client.
    /// Default: 1,000,000.
    max_archive_files(files: u64): options.archives.files = files;

    /// How long a snapshot, a checkpoint or a restore may take. This includes the time that it
    /// waits for others: at most 64 of these operations take turns, and further ones wait until one
    /// of the 64 ends. An operation that reaches the limit fails, and the client receives an error.
    /// Default: 5 min.
    store_timeout(timeout: Duration): options.store_timeout = timeout;

    /// Time limit for checkpointing and deleting the sandboxes when the server stops. Checkpoints
    /// that aren't complete by then are lost. Dropping the server blocks for at most about 15 s,
    /// whatever this limit is: call `stop` first. Default: 10 s.
    shutdown_timeout(timeout: Duration): options.shutdown_timeout = timeout;

    /// The duration of the lease on a sandbox that may be handed over. The server renews the lease
    /// while it runs. If the server dies, another server with the same state can take the sandbox
    /// after the lease has expired. The clocks of the servers must differ by much less than the
    /// lease. At least 100 ms. Default: 10 s.
    handoff_lease(lease: Duration): options.handoff_lease = lease.max(Duration::from_millis(100));

    /// How long to wait for another server to release a sandbox that a client attaches to. Should
    /// be longer than the [`handoff_lease`](Self::handoff_lease). Default: 60 s.
    handoff_timeout(timeout: Duration): options.handoff_timeout = timeout;

    /// The number of threads that serve connections. Default: 2. Has no effect on
    /// [`service`](Self::service).
    workers(workers: usize): workers = workers.max(1);

    /// The maximum number of concurrent connections of authenticated clients. A request on one more
    /// connection is answered 503. Default: 50,000. The server uses at most three eighths of its
    /// limit on open files (`ulimit -n`) for these connections, and reserves half of it for the
    /// sandboxes. Connections that have not yet sent the secret have a separate limit. Above it,
    /// the server closes the oldest of them. Has no effect on [`service`](Self::service).
    max_connections(connections: usize): max_connections = connections.max(1);

    /// The maximum number of sandboxes. The server refuses to create more, with a reason. Default:
    /// 1,024.
    max_sandboxes(sandboxes: usize): options.max_sandboxes = sandboxes;

    /// The number of sandboxes to keep warm: started, and ready for a client. Default: 0; at most
    /// 1,000. A create without a snapshot takes a warm sandbox, and so does `POST /execute`. Such a
    /// create is about as fast as an exec. The server then starts the next warm sandbox in the
    /// background, one at a time.
    ///
    /// If no warm sandbox is ready, a create starts a new sandbox at once and doesn't wait for the
    /// pool. A create from a snapshot and a restore always start a new sandbox. After the server
    /// starts, the pool fills in the background.
    ///
    /// Before a warm sandbox is ready, the server runs Python and bash in it once, with code that
    /// does nothing, because the first run in a sandbox is slower than later ones.
    ///
    /// Each warm sandbox takes the memory of an idle sandbox (`cargo bench --bench backends` prints
    /// it), two or three processes and a few open files. Warm sandboxes don't count toward
    /// [`max_sandboxes`](Self::max_sandboxes). `GET /readyz` and `LocalServer::warm_count` show how
    /// many are ready.
    ///
    /// Needs a [backend](Self::backend) that confines code. With [`Backend::Host`] the server
    /// doesn't start. If [`Backend::Auto`] selects `host`, the server logs a warning and keeps no
    /// sandbox warm.
    warm(sandboxes: usize): options.warm = sandboxes;

    /// The maximum number of sandboxes for each client IP address. The server refuses to create
    /// more, with a reason. IPv6 addresses with the same first 64 bits count as one. A sandbox
    /// counts for the client that created or restored it. Behind a proxy, all clients share the
    /// proxy's address. Default: no limit.
    max_sandboxes_per_client(sandboxes: usize): options.max_sandboxes_per_client = Some(sandboxes);

    /// How long a client may take to send the code for `/execute`, or the configuration of a new
    /// sandbox. Default: 30 s.
    request_timeout(timeout: Duration): options.request_timeout = timeout;

    /// The maximum size of a message from a client, in bytes. If a frame declares more, the server
    /// doesn't read it and closes the session with code 1009. Default: 16 MiB.
    ///
    /// With the backend `gvisor`, the code of an exec with its arguments and its variables can take
    /// at most 32 MiB when encoded as JSON.
    max_message_size(bytes: usize): options.max_message_bytes = bytes.max(1);

    /// The idle timeout of sandboxes whose client requests none. The server deletes a sandbox that
    /// is idle for this long. Default: 5 min.
    default_idle_timeout(timeout: Duration): options.default_idle_timeout = timeout;

    /// The maximum idle timeout. If a client requests a longer one, this one applies. Default:
    /// 24 h.
    max_idle_timeout(timeout: Duration): options.max_idle_timeout = timeout;

    /// The maximum run time of an exec. After that, the server kills the exec and reports the
    /// reason to the client. Doesn't apply to terminals, which a user may leave idle: while no
    /// client is attached, a terminal doesn't keep the sandbox from becoming idle. Default: 1 h.
    max_run_time(limit: Duration): options.max_run_time = limit;

    /// The maximum number of named execs (v2) that run at once in one sandbox. The v1 exec of the
    /// sandbox doesn't count. Default: 64.
    max_execs(limit: usize): options.max_execs = limit;

    /// The newest protocol version that the server speaks. Client and server negotiate the version
    /// for each connection. Default: v2.
    max_protocol_version(version: Version): options.max_protocol = version.min(Version::V2);

    /// The buffer for output that the client has not taken yet, in bytes. Under v1 there is one
    /// buffer for each sandbox. Under v2 there is one for each exec, and the client may request a
    /// smaller one. While the buffer is full, the server doesn't read the pipes of the process, so
    /// the process blocks when it writes. Default: 1 MiB.
    output_buffer(bytes: usize): options.output_buffer_bytes = bytes.max(1);

    /// Under v1, the buffer for stdin that a process has not read yet, in bytes. The server refuses
    /// stdin that doesn't fit, with a reason. An empty buffer accepts one message of any size. Has
    /// no effect under v2, where the limit is a window of 256 KiB for each exec. Default: 16 MiB.
    stdin_buffer(bytes: usize): options.stdin_buffer_bytes = bytes.max(1);

}

impl ServerBuilder {
    /// The access token, which every request except the health checks must carry as
    /// `Authorization: Bearer …`. A request with no token or a wrong one is answered 401. Clients
    /// send the token with
    /// [`bearer_token_source`](crate::SandboxBuilder::bearer_token_source). The token travels in
    /// clear text: put a TLS proxy in front of an address that other machines can reach. Default:
    /// none.
    pub fn access_token(mut self, token: impl Into<String>) -> Self {
        let token = SecretString::from(token.into());
        self.options.access_token = Some(AccessToken(token));
        self
    }

    /// Starts the server without a [`secret`](Self::secret). Without an
    /// [`access_token`](Self::access_token), **every user of this machine, and every other caller
    /// that reaches the address, can run code here**. In this case, the server logs a warning when
    /// it starts. Has no effect on [`service`](Self::service).
    pub fn no_secret(mut self) -> Self {
        self.secret = SecretSource::Disabled;
        self
    }

    /// Allows requests from web pages of this origin, for example `https://example.org`. May be
    /// called more than once. Default: none, so every request with an `Origin` header is refused.
    pub fn allowed_origin(mut self, origin: impl Into<String>) -> Self {
        self.options.allowed_origins.push(origin.into());
        self
    }

    /// Accepts this host name, without a port, in the `Host` header. May be called more than once.
    /// Default: `localhost`, loopback addresses and the address that the server listens on (any IP
    /// address if it listens on all). The server refuses every other host, which prevents DNS
    /// rebinding.
    pub fn allowed_host(mut self, host: impl Into<String>) -> Self {
        self.options.allowed_hosts.push(host.into());
        self
    }
}
