//! [`SandboxBuilder`]: the options of a new or existing sandbox, all checked before the first dial.

use std::{
    future::{Future, IntoFuture},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use awc::http::header::{HeaderName, HeaderValue};

use super::{Runtime, Sandbox, runtime};
use crate::{
    Error, SandboxActor,
    actor::{self, Open, Opened, Settings},
    machine::{
        ConnectionConfig, KeepaliveConfig, Mode, OutputPolicy, ProcessConfig, ReconnectPolicy,
        Timeouts,
    },
    protocol::{
        SandboxConfig as Configuration, SandboxId, SandboxToken, Version,
        limits::{DEFAULT_CLIENT_IDLE_TIMEOUT, DEFAULT_MAX_MESSAGE_BYTES},
    },
    transport::{DialConfig, Endpoint, Recorder, TokenSource},
};

const OPEN: &str = "open the sandbox";

/// Headers that the client sets itself.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "cookie",
    "host",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
];

/// Options of a sandbox. Await the builder to open the sandbox.
///
/// [`Sandbox::create`] and [`Sandbox::attach`] return a builder. Every option takes the builder and
/// returns it. Awaiting the builder fails with an invalid option before anything is dialled.
///
/// Dropping the future of a creation cancels it: if the server has already created the sandbox, the
/// sandbox is killed, not leaked. Dropping the future of an attach closes the connection; the
/// sandbox lives on.
#[must_use = "a sandbox is opened when the builder is awaited"]
#[derive(Clone)]
pub struct SandboxBuilder<S = NewSandbox> {
    url: String,
    sandbox: S,
    auto_reconnect: bool,
    policy: ReconnectPolicy,
    debug: bool,
    debug_label: Option<String>,
    headers: Vec<(String, String)>,
    tokens: Option<Arc<dyn TokenSource>>,
    #[cfg(feature = "google-auth")]
    google: bool,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
    connect_timeout: Duration,
    timeouts: Timeouts,
    process: ProcessConfig,
    keepalive: KeepaliveConfig,
    max_message_bytes: usize,
    output: OutputPolicy,
    max_protocol: Version,
    record_to: Option<PathBuf>,
    runtime: Option<Runtime>,
    kill_on_drop: bool,
}

/// The state of a builder that creates a sandbox, with the options that only a new sandbox has.
#[derive(Clone, Debug)]
pub struct NewSandbox {
    idle_timeout: Duration,
    configuration: Configuration,
}

/// The state of a builder that attaches to an existing sandbox.
#[derive(Clone, Debug)]
pub struct ExistingSandbox {
    id: SandboxId,
    token: SandboxToken,
}

/// What a builder opens: [`NewSandbox`] or [`ExistingSandbox`].
pub trait OpenMode: sealed::OpenMode {}

impl OpenMode for NewSandbox {}
impl OpenMode for ExistingSandbox {}

mod sealed {
    use crate::{Error, machine::Mode};

    /// What differs between the sandboxes that a builder opens.
    pub trait OpenMode {
        /// Whether to kill the sandbox if the caller drops the future before it gets a handle.
        const KILL_UNCLAIMED: bool;

        /// Returns how to open the sandbox. Fails if an option is invalid.
        fn mode(self) -> Result<Mode, Error>;
    }
}

impl sealed::OpenMode for NewSandbox {
    const KILL_UNCLAIMED: bool = true;

    fn mode(self) -> Result<Mode, Error> {
        self.configuration.check()?;
        if self.idle_timeout.subsec_nanos() != 0 || self.idle_timeout.is_zero() {
            let problem = format!(
                "is {:?}; the service takes whole seconds, at least 1 s",
                self.idle_timeout
            );
            return Err(Error::option("idle_timeout", problem));
        }
        Ok(Mode::Create(Configuration {
            idle_timeout: Some(self.idle_timeout.as_secs()),
            ..self.configuration
        }))
    }
}

impl sealed::OpenMode for ExistingSandbox {
    const KILL_UNCLAIMED: bool = false;

    fn mode(self) -> Result<Mode, Error> {
        if self.id.as_str().is_empty() {
            return Err(Error::option(
                "id",
                "is empty; pass the id that `sandbox_id()` returned",
            ));
        }
        if self.token.expose_secret().is_empty() {
            return Err(Error::option(
                "token",
                "is empty; pass the token that `sandbox_token()` returned",
            ));
        }
        Ok(Mode::Attach(self.id, self.token))
    }
}

impl SandboxBuilder<NewSandbox> {
    pub(super) fn create(url: String) -> Self {
        let sandbox = NewSandbox {
            idle_timeout: DEFAULT_CLIENT_IDLE_TIMEOUT,
            configuration: Configuration::default(),
        };
        Self::new(url, sandbox)
    }

    /// The idle time after which the server deletes the sandbox, or checkpoints it. Must be whole
    /// seconds, at least 1 s. Default: 60 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.sandbox.idle_timeout = timeout;
        self
    }

    /// Whether the sandbox may be checkpointed. Default: no.
    pub fn enable_sandbox_checkpoint(mut self, enable: bool) -> Self {
        self.sandbox.configuration.enable_checkpoint = enable;
        self
    }

    /// Whether an idle sandbox is checkpointed instead of deleted; needs
    /// [`enable_sandbox_checkpoint`](Self::enable_sandbox_checkpoint). Default: no.
    pub fn enable_idle_timeout_auto_checkpoint(mut self, enable: bool) -> Self {
        self.sandbox
            .configuration
            .enable_idle_timeout_auto_checkpoint = enable;
        self
    }

    /// Whether another instance of the service may take the sandbox over; needs
    /// [`enable_sandbox_checkpoint`](Self::enable_sandbox_checkpoint). Default: no.
    pub fn enable_sandbox_handoff(mut self, enable: bool) -> Self {
        self.sandbox.configuration.enable_sandbox_handoff = enable;
        self
    }

    /// The filesystem snapshot to start from. Default: none; the sandbox starts empty.
    pub fn filesystem_snapshot_name(mut self, name: impl Into<String>) -> Self {
        self.sandbox.configuration.filesystem_snapshot_name = Some(name.into());
        self
    }
}

impl SandboxBuilder<ExistingSandbox> {
    pub(super) fn attach(url: String, id: SandboxId, token: SandboxToken) -> Self {
        Self::new(url, ExistingSandbox { id, token })
    }
}

impl<S> SandboxBuilder<S> {
    fn new(url: String, sandbox: S) -> Self {
        Self {
            url,
            sandbox,
            auto_reconnect: false,
            policy: ReconnectPolicy::default(),
            debug: false,
            debug_label: None,
            headers: Vec::new(),
            tokens: None,
            #[cfg(feature = "google-auth")]
            google: false,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(10),
            timeouts: Timeouts::default(),
            process: ProcessConfig::default(),
            keepalive: KeepaliveConfig::default(),
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            output: OutputPolicy::default(),
            max_protocol: Version::V2,
            record_to: None,
            runtime: None,
            kill_on_drop: false,
        }
    }

    /// Whether to reconnect when the connection of a running sandbox is lost. The client retries
    /// for up to five minutes, unless [`reconnect_policy`](Self::reconnect_policy) says otherwise.
    /// Default: no.
    ///
    /// Meanwhile execs, writes to stdin and kills wait for the connection, within their timeouts. A
    /// checkpoint or a filesystem snapshot fails with [`ErrorKind::WrongState`](crate::ErrorKind)
    /// and can be retried.
    pub fn enable_auto_reconnect(mut self, enable: bool) -> Self {
        self.auto_reconnect = enable;
        self
    }

    /// The delays and the time limit of reconnection. Default: [`ReconnectPolicy::default`].
    pub fn reconnect_policy(mut self, policy: ReconnectPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether to emit `tracing` events, at the level DEBUG, in one span for the sandbox. They
    /// never contain output, tokens or headers. Default: no; no events are emitted.
    pub fn enable_debug(mut self, enable: bool) -> Self {
        self.debug = enable;
        self
    }

    /// The label of the sandbox's `tracing` span. Default: `sandbox`.
    pub fn debug_label(mut self, label: impl Into<String>) -> Self {
        self.debug_label = Some(label.into());
        self
    }

    /// Adds a header to every connection request, for example `Authorization`. Its value is never
    /// logged.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The source of the bearer token. The client asks it before each dial and sends the token as
    /// `Authorization: Bearer …`. The token is never logged. Default: no token is sent.
    pub fn bearer_token_source(mut self, source: impl TokenSource) -> Self {
        self.tokens = Some(Arc::new(source));
        self
    }

    /// Whether to send a Google ID token with every dial, as Cloud Run requires. The token comes
    /// from Application Default Credentials (a service account key, the metadata server, or a
    /// developer's own login), and its audience is the service's origin, `https://host`. The caller
    /// needs the role `roles/run.invoker`. Requires `https://` or `wss://`, except for a service on
    /// this machine. Default: no.
    ///
    /// See <https://cloud.google.com/run/docs/authenticating/service-to-service>.
    #[cfg(feature = "google-auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "google-auth")))]
    pub fn use_google_auth(mut self, enable: bool) -> Self {
        self.google = enable;
        self
    }

    /// The TLS configuration. The client sets ALPN to HTTP/1.1, which WebSocket needs. Default: a
    /// configuration that trusts the webpki roots.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// The timeout of a dial: DNS lookup, TCP, TLS and WebSocket upgrade together. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait, from the open connection, until the server reports that the sandbox runs.
    /// Default: 60 s.
    ///
    /// Also limits how long the client retries if the service answers 429 or 503. The delays are
    /// those of [`reconnect_policy`](Self::reconnect_policy), or longer if the service asks for
    /// that (`Retry-After`).
    pub fn create_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.ready = timeout;
        self
    }

    /// How long to wait for the server to report that an exec runs. Default: 60 s.
    pub fn exec_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.exec = timeout;
        self
    }

    /// How long to wait for the server to confirm a kill. Sets the timeout for a process (default:
    /// 10 s) and for the sandbox (default: 30 s).
    pub fn kill_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.kill = timeout;
        self.process.kill_timeout = timeout;
        self
    }

    /// How long to wait for a checkpoint or a filesystem snapshot. Default: 10 min.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.store = timeout;
        self
    }

    /// After `interval` without a message from the server, the client sends a ping. If nothing
    /// arrives within `timeout` after that, the connection is lost. So a half-open connection is
    /// detected after `interval` plus `timeout`. Default: 15 s each.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive = KeepaliveConfig { interval, timeout };
        self
    }

    /// The newest protocol version that the client offers. The server selects a version for each
    /// connection. Default: v2.
    pub fn max_protocol_version(mut self, version: Version) -> Self {
        self.max_protocol = version;
        self
    }

    /// The maximum size of a message from the server, in bytes. At least 1,024. The client refuses
    /// a larger message by its declared length, before it allocates memory, and ends the session.
    /// Default: 16 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How much unread output of each process the client buffers, and what happens if there is
    /// more. Default: 4 MiB, then the process is paused. See [`OutputPolicy`].
    pub fn output_policy(mut self, policy: OutputPolicy) -> Self {
        self.output = policy;
        self
    }

    /// The buffer for stdin of each process that is not sent yet, in bytes. While it is full,
    /// writes wait. Default: 1 MiB.
    pub fn stdin_budget(mut self, bytes: usize) -> Self {
        self.process.stdin_budget = bytes;
        self
    }

    /// Records the sandbox's connections to this file. Each frame, dial and disconnect is one line
    /// of JSON. `test_util::Player` can replay the file. Use one file for each sandbox. Default: no
    /// recording.
    ///
    /// **The file contains code, input and output.** It contains no headers, cookies or bearer
    /// tokens. The sandbox's token is replaced by `recorded-token`, even where the server echoes
    /// it. The file is created before anything is dialled, and replaces an existing file. On Unix
    /// its mode is 0600. If the file can't be created, opening the sandbox fails.
    ///
    /// A dedicated thread writes the file. A session that is faster than the disk is slowed down,
    /// but waits at most 2 s. If the disk hangs or is full, the *recording* stops with a `tracing`
    /// warning, and the session continues. While the session is quiet, the file is up to date. The
    /// recording is complete once its last line is `"dir":"end"`, which is written when the
    /// sandbox's actors are gone and holds an `error` if the recording stopped early
    /// (`test_util::Recording::load_complete` waits for it).
    ///
    /// ```no_run
    /// # async fn record() -> Result<(), actix_sandbox::Error> {
    /// use actix_sandbox::{Language, Sandbox};
    ///
    /// let sandbox = Sandbox::create("https://sandbox.example")
    ///     .record_to("session.jsonl")
    ///     .await?;
    /// sandbox.run(Language::Bash, "echo hello").await?;
    /// sandbox.kill().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn record_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.record_to = Some(path.into());
        self
    }

    /// Whether to kill the sandbox when the last handle is dropped, also while the thread panics.
    /// Handles to its processes and their streams count too. Default: no; the sandbox lives until
    /// its idle timeout.
    ///
    /// The threads of the sandbox's actors send the kill in the background. A program that exits
    /// right after the drop may exit before the kill is sent, and an actix System stops its actors
    /// when its main function returns. Call [`Sandbox::kill`] in these cases.
    ///
    /// If the connection is lost at that moment and [auto reconnect](Self::enable_auto_reconnect)
    /// is on, the sandbox is killed once the connection is back, within
    /// [`kill_timeout`](Self::kill_timeout). If the connection doesn't come back, the sandbox lives
    /// until its idle timeout. During a checkpoint, the sandbox is killed only if the server refuses
    /// the checkpoint. Has no effect on [`into_actor`](Self::into_actor), which returns no handle.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// use actix_sandbox::{Language, LocalServer, Sandbox};
    ///
    /// # let server = LocalServer::start().await?;
    /// let sandbox = Sandbox::create(server.url()).kill_on_drop(true).await?;
    /// let output = sandbox.run(Language::Bash, "echo hello").await?;
    /// assert_eq!(output.stdout, "hello\n");
    /// // Killed here, and where a `?` returns early.
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// The runtime for the sandbox's actors. Default: the current actix System, or without one a
    /// runtime that the whole process shares.
    pub fn runtime(mut self, runtime: &Runtime) -> Self {
        self.runtime = Some(runtime.clone());
        self
    }
}

impl<S: OpenMode> SandboxBuilder<S> {
    /// Returns the actor instead of a handle, for programs that use actors. It dials when it is
    /// started, and answers [`Open`](crate::actor::Open) when the sandbox runs.
    ///
    /// # Errors
    ///
    /// Fails if an option is invalid.
    pub fn into_actor(self) -> Result<SandboxActor, Error> {
        Ok(SandboxActor::new(self.settings()?))
    }

    fn settings(self) -> Result<Settings, Error> {
        let endpoint = Endpoint::parse(&self.url)?;
        let tokens = self.token_source(&endpoint)?;
        let mode = self.sandbox.mode()?;
        let positive = [
            ("connect_timeout", self.connect_timeout),
            ("create_timeout", self.timeouts.ready),
            ("exec_timeout", self.timeouts.exec),
            ("kill_timeout", self.timeouts.kill),
            ("store_timeout", self.timeouts.store),
            ("keepalive", self.keepalive.interval),
            ("keepalive", self.keepalive.timeout),
            ("reconnect_policy", self.policy.initial),
            ("reconnect_policy", self.policy.max),
        ];
        if let Some((option, _)) = positive.into_iter().find(|(_, timeout)| timeout.is_zero()) {
            return Err(Error::option(
                option,
                "is zero; a time longer than zero is needed",
            ));
        }
        if self.max_message_bytes < 1024 {
            let problem = format!(
                "is {} bytes; at least 1024 are needed",
                self.max_message_bytes
            );
            return Err(Error::option("max_message_bytes", problem));
        }
        if self.output.budget == 0 {
            return Err(Error::option(
                "output_policy",
                "has a budget of 0 bytes; at least 1 is needed",
            ));
        }
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| header(name, value))
            .collect::<Result<_, _>>()?;

        // Comes last, so that no file is created if another option is invalid.
        let recorder = match &self.record_to {
            None => None,
            Some(path) => {
                let token = match &mode {
                    Mode::Attach(_, token) => Some(token),
                    _ => None,
                };
                let created = Recorder::create(path, token).map_err(|error| {
                    let path = path.display();
                    let problem = format!("names {path}, which cannot be created: {error}");
                    Error::option("record_to", problem)
                });
                Some(created?)
            }
        };

        let random = || actor::random_bits().map_err(|error| Error::random(&error));
        let label = self.debug_label.as_deref().unwrap_or("sandbox");
        Ok(Settings {
            mode,
            dial: DialConfig {
                endpoint,
                headers,
                tokens,
                connect_timeout: self.connect_timeout,
                max_protocol: self.max_protocol,
                max_message_bytes: self.max_message_bytes,
                #[cfg(feature = "tls")]
                tls: self.tls,
            },
            connection: ConnectionConfig {
                auto_reconnect: self.auto_reconnect,
                policy: self.policy,
                busy_timeout: self.timeouts.ready,
                close_timeout: Duration::from_secs(2),
                // Any number that differs between sandboxes.
                seed: random()? as u64,
            },
            keepalive: self.keepalive,
            timeouts: self.timeouts,
            process: self.process,
            output: self.output,
            recorder,
            // Unique among the clients of the sandbox.
            exec_prefix: format!("{:032x}", random()?),
            kept: None,
            debug: self.debug.then(|| Arc::from(label)),
        })
    }

    /// The token source. Fails if the authentication options contradict each other.
    fn token_source(&self, endpoint: &Endpoint) -> Result<Option<Arc<dyn TokenSource>>, Error> {
        #[cfg(feature = "google-auth")]
        let google = self.google;
        #[cfg(not(feature = "google-auth"))]
        let google = false;
        let option = match (google, &self.tokens) {
            (false, None) => return Ok(None),
            (true, Some(_)) => {
                return Err(Error::option(
                    "use_google_auth",
                    "cannot be combined with `bearer_token_source`: leave one of them out",
                ));
            }
            (true, None) => "use_google_auth",
            (false, Some(_)) => "bearer_token_source",
        };
        let is_authorization = |name: &str| name.eq_ignore_ascii_case("authorization");
        if self.headers.iter().any(|(name, _)| is_authorization(name)) {
            return Err(Error::option(
                option,
                "cannot be combined with an `Authorization` header: leave one of them out",
            ));
        }
        #[cfg(feature = "google-auth")]
        if google {
            if !endpoint.is_tls() && !endpoint.is_loopback() {
                return Err(Error::option(
                    "use_google_auth",
                    "would send the token in clear text: use https:// or wss://",
                ));
            }
            let tokens = crate::transport::GoogleTokens::new(endpoint.origin());
            return Ok(Some(Arc::new(tokens)));
        }
        let _ = endpoint;
        Ok(self.tokens.clone())
    }

    async fn open(mut self) -> Result<Sandbox, Error> {
        let runtime = self.runtime.take();
        let kill_on_drop = self.kill_on_drop;
        let addr = runtime::start(self.settings()?, runtime.as_ref())?;
        let unopened = Unopened {
            addr: Some(addr),
            kill: S::KILL_UNCLAIMED,
        };
        let opened = unopened.open().await?;
        let addr = unopened.keep()?;
        Ok(Sandbox::new(addr, opened, kill_on_drop))
    }
}

/// A sandbox without a handle yet.
///
/// Dropping this kills a new sandbox, at once if it runs, or as soon as it is created. An existing
/// sandbox lives on; only the connection is closed.
struct Unopened {
    addr: Option<Addr<SandboxActor>>,
    kill: bool,
}

impl Unopened {
    async fn open(&self) -> Result<Opened, Error> {
        match &self.addr {
            Some(addr) => addr.send(Open).await.map_err(Error::mailbox(OPEN))?,
            None => Err(Error::actor_gone(OPEN)),
        }
    }

    fn keep(mut self) -> Result<Addr<SandboxActor>, Error> {
        self.addr.take().ok_or_else(|| Error::actor_gone(OPEN))
    }
}

impl Drop for Unopened {
    fn drop(&mut self) {
        if let Some(addr) = self.addr.take().filter(|_| self.kill) {
            actor::discard_in_background(&addr);
        }
    }
}

impl<S: OpenMode + Send + 'static> IntoFuture for SandboxBuilder<S> {
    type Output = Result<Sandbox, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for SandboxBuilder<S> {
    /// Shows no header values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxBuilder")
            .field(
                "url",
                &Endpoint::parse(&self.url).map(|endpoint| endpoint.authority().to_owned()),
            )
            .field("sandbox", &self.sandbox)
            .field(
                "headers",
                &self
                    .headers
                    .iter()
                    .map(|(name, _)| name)
                    .collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let shown: String = name.chars().take(100).collect();
    let parsed = HeaderName::try_from(name).map_err(|_| {
        Error::option(
            "header",
            format!("has the name `{shown}`, which is no header name (RFC 9110)"),
        )
    })?;
    if RESERVED_HEADERS.contains(&parsed.as_str()) {
        return Err(Error::option(
            "header",
            format!("sets `{shown}`, which only the client may set"),
        ));
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        Error::option(
            "header",
            format!(
                "has a value for `{shown}` that holds control characters, such as a line break"
            ),
        )
    })?;
    value.set_sensitive(true);
    Ok((parsed, value))
}
