//! [`SandboxBuilder`]: every option of a sandbox, new or existing, checked before anything is dialled.

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

/// Options of a sandbox. Await it to open the sandbox.
///
/// Made by [`Sandbox::create`] and by [`Sandbox::attach`]. Every option takes the builder and gives it
/// back; what is wrong with one is said when the builder is awaited, before anything is dialled.
///
/// Dropping the future of a creation cancels it: a sandbox that the server has already made by then is
/// killed, not leaked. Dropping the future of an attach closes the connection; the sandbox lives on.
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

/// A sandbox that is to be created, and the options that only such a one has.
#[derive(Clone, Debug)]
pub struct NewSandbox {
    idle_timeout: Duration,
    configuration: Configuration,
}

/// A sandbox that exists.
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
        /// Whether a sandbox that nobody got a handle to is to be killed.
        const KILL_UNCLAIMED: bool;

        /// How to begin, or which option cannot be used.
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
                "is empty; what `sandbox_id()` of the sandbox gave is needed",
            ));
        }
        if self.token.expose_secret().is_empty() {
            return Err(Error::option(
                "token",
                "is empty; what `sandbox_token()` of the sandbox gave is needed",
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

    /// Idle time after which the server deletes the sandbox (or checkpoints it). Whole seconds, at
    /// least one. Default: 60 s.
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

    /// Start from this filesystem snapshot. Default: from an empty one.
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

    /// Whether a lost link is dialled again, once the sandbox runs: for up to five minutes, unless
    /// [`reconnect_policy`](Self::reconnect_policy) says otherwise. Default: no.
    ///
    /// Meanwhile an exec, a write to stdin and a kill wait for the link, within their timeouts. A
    /// checkpoint or a filesystem snapshot fails with [`ErrorKind::WrongState`](crate::ErrorKind),
    /// and can be tried again.
    pub fn enable_auto_reconnect(mut self, enable: bool) -> Self {
        self.auto_reconnect = enable;
        self
    }

    /// How a lost link is dialled again. Default: [`ReconnectPolicy::default`].
    pub fn reconnect_policy(mut self, policy: ReconnectPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether `tracing` events are emitted, at the level DEBUG, under one span for the sandbox.
    /// Neither output nor tokens nor headers are in them. Default: no, and then there are none.
    pub fn enable_debug(mut self, enable: bool) -> Self {
        self.debug = enable;
        self
    }

    /// Label of the sandbox's span. Default: `sandbox`.
    pub fn debug_label(mut self, label: impl Into<String>) -> Self {
        self.debug_label = Some(label.into());
        self
    }

    /// A header for every dial, for example `Authorization`. Its value is never logged.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Where the bearer token of each dial comes from, sent as `Authorization: Bearer …`. It is never
    /// logged. Default: none is sent.
    pub fn bearer_token_source(mut self, source: impl TokenSource) -> Self {
        self.tokens = Some(Arc::new(source));
        self
    }

    /// Whether every dial carries an ID token of Google, as Cloud Run demands it: from Application
    /// Default Credentials (a service account key, the metadata server, or a developer's own login), for
    /// the service's origin `https://host` as audience. The caller needs the role `roles/run.invoker`.
    /// Needs `https://` or `wss://`, but for a service on this machine. Default: no.
    ///
    /// See <https://cloud.google.com/run/docs/authenticating/service-to-service>.
    #[cfg(feature = "google-auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "google-auth")))]
    pub fn use_google_auth(mut self, enable: bool) -> Self {
        self.google = enable;
        self
    }

    /// TLS configuration. ALPN is set to HTTP/1.1, which WebSocket needs. Default: the webpki roots.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// Longest time for lookup, TCP, TLS and WebSocket upgrade together. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest time from the open connection to the server's word that the sandbox runs. Default: 60 s.
    ///
    /// It is also how long a service is dialled again that answers 429 or 503. The delays are those
    /// of [`reconnect_policy`](Self::reconnect_policy), or longer where the service asks for that
    /// (`Retry-After`).
    pub fn create_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.ready = timeout;
        self
    }

    /// Longest time from an exec to the server's word that it runs. Default: 60 s.
    pub fn exec_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.exec = timeout;
        self
    }

    /// Longest time for the server to confirm a kill: of a process (default 10 s) or the sandbox
    /// (default 30 s). Sets both.
    pub fn kill_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.kill = timeout;
        self.process.kill_timeout = timeout;
        self
    }

    /// Longest time for a checkpoint or a filesystem snapshot. Default: 10 minutes.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.store = timeout;
        self
    }

    /// Quiet time after which a ping is sent, and time in which anything must come after it: a
    /// half-open link is noticed after both together. Default: 15 s each.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive = KeepaliveConfig { interval, timeout };
        self
    }

    /// The newest version of the protocol that is offered; the server selects one it knows, for each connection.
    /// Default: v2.
    pub fn max_protocol_version(mut self, version: Version) -> Self {
        self.max_protocol = version;
        self
    }

    /// Largest message taken from the server, in bytes. A larger one ends the session; it is refused
    /// by its declared length, before it is in memory. Default: 16 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How much output of each process is kept for its readers, and what happens to more. Default:
    /// 4 MiB, then the process is paused; see [`OutputPolicy`].
    pub fn output_policy(mut self, policy: OutputPolicy) -> Self {
        self.output = policy;
        self
    }

    /// Bytes of stdin of each process that may wait for the connection; a write over it waits.
    /// Default: 1 MiB.
    pub fn stdin_budget(mut self, bytes: usize) -> Self {
        self.process.stdin_budget = bytes;
        self
    }

    /// Writes what passes on the sandbox's connections to this file, a line of JSON for each frame, dial and
    /// end, to look at or to play to a program again (`test_util::Player`). Default: nothing is.
    ///
    /// **Code, input and output are in it.** Headers, cookies and bearer tokens are not, and in the place of the
    /// sandbox's token stands `recorded-token`, also where the server repeats it. The file is created
    /// anew, for its owner alone (0600 on Unix) before anything is dialled; if it cannot be, that is the
    /// error. One file is for one sandbox.
    ///
    /// A thread of its own writes it. A session that is faster than the disk goes at the disk's pace, but waits for it 2 s
    /// at most: where the disk hangs or is full, the *recording* stops, with a warning by `tracing`, and the session goes on. What has happened is
    /// in the file as soon as nothing more happens. When the sandbox's actors are gone, its last line
    /// says `"dir":"end"`, with an `error` where the recording had to stop: only then it is complete
    /// (`test_util::Recording::load_complete` waits for that).
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

    /// Whether the sandbox is killed when the last handle to it is dropped, those of its processes
    /// and their streams included, also while the thread panics. Default: no, and it lives on until
    /// its idle timeout.
    ///
    /// The kill is sent in the background, by the threads that the sandbox's actors run on. A
    /// program that ends right after the drop may end before that, and an actix System stops its
    /// actors when its main function returns: call [`Sandbox::kill`] there.
    ///
    /// If the connection is lost at that moment and [is dialled
    /// again](Self::enable_auto_reconnect), the sandbox is killed once it is back, within
    /// [`kill_timeout`](Self::kill_timeout). If it does not come back, the sandbox lives until its
    /// idle timeout. If it is being checkpointed, it is killed if the server refuses that; a
    /// checkpoint that is made stays. Of no effect on [`into_actor`](Self::into_actor), which gives no handle.
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

    /// Threads to run on. Default: the current actix System, or else a runtime that the process shares.
    pub fn runtime(mut self, runtime: &Runtime) -> Self {
        self.runtime = Some(runtime.clone());
        self
    }
}

impl<S: OpenMode> SandboxBuilder<S> {
    /// The actor alone, for programs made of actors. It dials when it is started, and answers
    /// [`Open`](crate::actor::Open) when the sandbox runs.
    ///
    /// # Errors
    ///
    /// An option cannot be used.
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

        // The last, so that nothing is created where something else is wrong.
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
                // Any number will do that differs from one sandbox to the next.
                seed: random()? as u64,
            },
            keepalive: self.keepalive,
            timeouts: self.timeouts,
            process: self.process,
            output: self.output,
            recorder,
            // No other client of the sandbox has the same.
            exec_prefix: format!("{:032x}", random()?),
            kept: None,
            debug: self.debug.then(|| Arc::from(label)),
        })
    }

    /// Where tokens come from, if the options about that fit together.
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
                    "does not go with `bearer_token_source`: leave one of them out",
                ));
            }
            (true, None) => "use_google_auth",
            (false, Some(_)) => "bearer_token_source",
        };
        let is_authorization = |name: &str| name.eq_ignore_ascii_case("authorization");
        if self.headers.iter().any(|(name, _)| is_authorization(name)) {
            return Err(Error::option(
                option,
                "does not go with a header `Authorization` of your own: leave one of them out",
            ));
        }
        #[cfg(feature = "google-auth")]
        if google {
            if !endpoint.is_tls() && !endpoint.is_loopback() {
                return Err(Error::option(
                    "use_google_auth",
                    "would send a token that anybody on the way can read: use https:// or wss://",
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

/// A sandbox that nobody has a handle to yet.
///
/// Dropped, a new one is killed: at once where it runs already, as soon as it does where it is being
/// created. One that existed before is let go.
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
            format!("has the name `{shown}`, which is no header name"),
        )
    })?;
    if RESERVED_HEADERS.contains(&parsed.as_str()) {
        return Err(Error::option(
            "header",
            format!("sets `{shown}`, which the client sets itself"),
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
