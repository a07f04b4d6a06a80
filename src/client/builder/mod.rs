//! [`SandboxBuilder`]: the options of a new or existing sandbox. All are checked before the first
//! dial.

mod open;
mod options;
mod reference_names;
mod settings;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub(super) use self::settings::seconds;
use super::Runtime;
use crate::{
    machine::{KeepaliveConfig, OutputPolicy, ProcessConfig, ReconnectPolicy, Timeouts},
    protocol::{
        SandboxConfig as Configuration, SandboxId, SandboxToken, Version,
        limits::{DEFAULT_CLIENT_IDLE_TIMEOUT, DEFAULT_MAX_MESSAGE_BYTES},
    },
    transport::{Endpoint, TokenSource},
};

/// Options of a sandbox. Await the builder to open the sandbox.
///
/// [`Sandbox::create`](crate::Sandbox::create) and [`Sandbox::attach`](crate::Sandbox::attach)
/// return a builder. Each option consumes the builder and returns it. If an option is invalid,
/// awaiting the builder fails with [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption)
/// and nothing is dialled.
///
/// # Cancel safety
///
/// Dropping the future of a creation cancels it. If the server has already created the sandbox, the
/// client kills it. Dropping the future of an attach closes the connection; the sandbox lives on.
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
    lift: bool,
    record_to: Option<PathBuf>,
    pub(super) runtime: Option<Runtime>,
    kill_on_drop: bool,
}

/// The mode of a builder that creates a sandbox. It holds the options that only a new sandbox has.
#[derive(Clone, Debug)]
pub struct NewSandbox {
    idle_timeout: Duration,
    max_lifetime: Option<Duration>,
    configuration: Configuration,
}

/// The mode of a builder that attaches to an existing sandbox.
#[derive(Clone, Debug)]
pub struct ExistingSandbox {
    id: SandboxId,
    token: SandboxToken,
}

/// The mode of a builder: [`NewSandbox`] or [`ExistingSandbox`].
pub trait OpenMode: sealed::OpenMode {}

impl OpenMode for NewSandbox {}
impl OpenMode for ExistingSandbox {}

mod sealed {
    use crate::{Error, machine::Mode};

    /// What differs between the modes.
    pub trait OpenMode {
        /// Whether to kill the sandbox if the caller drops the future before it gets a handle.
        const KILL_UNCLAIMED: bool;

        /// Returns how to open the sandbox. Fails if an option is invalid.
        fn mode(self) -> Result<Mode, Error>;
    }
}

impl SandboxBuilder<NewSandbox> {
    pub(super) fn create(url: String) -> Self {
        let sandbox = NewSandbox {
            idle_timeout: DEFAULT_CLIENT_IDLE_TIMEOUT,
            max_lifetime: None,
            configuration: Configuration::default(),
        };
        Self::new(url, sandbox)
    }

    /// The idle timeout: after this time without a running process, the server deletes the sandbox,
    /// or [checkpoints](Self::checkpoint_when_idle) it. An open connection doesn't keep a sandbox
    /// alive. Must be whole seconds, at least 1 s. Default: 60 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.sandbox.idle_timeout = timeout;
        self
    }

    /// Whether the sandbox may be [checkpointed](crate::Sandbox::checkpoint). Default: no.
    #[doc(alias = "enable_sandbox_checkpoint")]
    pub fn checkpoint(mut self, enable: bool) -> Self {
        self.sandbox.configuration.enable_checkpoint = enable;
        self
    }

    /// Whether the server checkpoints an idle sandbox instead of deleting it. Requires
    /// [`checkpoint`](Self::checkpoint). Default: no.
    #[doc(alias = "enable_idle_timeout_auto_checkpoint")]
    pub fn checkpoint_when_idle(mut self, enable: bool) -> Self {
        let configuration = &mut self.sandbox.configuration;
        configuration.enable_idle_timeout_auto_checkpoint = enable;
        self
    }

    /// Whether another instance of the service may take over the sandbox when a client attaches
    /// there. Requires [`checkpoint`](Self::checkpoint). Default: no.
    #[doc(alias = "enable_sandbox_handoff")]
    pub fn handoff(mut self, enable: bool) -> Self {
        self.sandbox.configuration.enable_sandbox_handoff = enable;
        self
    }

    /// The name of the [filesystem snapshot](crate::Sandbox::snapshot_filesystem) to start from.
    /// Default: none, so the sandbox starts empty.
    #[doc(alias = "filesystem_snapshot_name")]
    pub fn snapshot(mut self, name: impl Into<String>) -> Self {
        self.sandbox.configuration.filesystem_snapshot_name = Some(name.into());
        self
    }
}

/// Options that need a server of this crate with protocol v2. If the server doesn't support one of
/// them, opening the sandbox fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported),
/// and the client kills the new sandbox. If the server doesn't confirm the kill, the error says so,
/// and the sandbox may live until its idle timeout.
impl SandboxBuilder<NewSandbox> {
    /// Gives the sandbox a label, by which [`Sandbox::list`](crate::Sandbox::list) finds it. A
    /// label replaces an earlier one with the same key. A checkpoint keeps the labels.
    ///
    /// At most 64 labels. A key has 1 to 63 bytes, and contains neither `=` nor control characters.
    /// A value has at most 255 bytes. Labels are not secret: every caller that may list sandboxes
    /// sees them.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// use actix_sandbox::{LocalServer, Sandbox};
    ///
    /// # let server = LocalServer::start().await?;
    /// let sandbox = Sandbox::create(server.url()).label("job", "17").await?;
    /// let listed = Sandbox::list(server.url()).label("job", "17").await?;
    /// assert_eq!(listed[0].id, *sandbox.sandbox_id());
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let labels = &mut self.sandbox.configuration.labels;
        labels.insert(key.into(), value.into());
        self
    }

    /// Sets an environment variable for every process of the sandbox. A variable of a
    /// [`Command`](crate::Command::env) with the same name replaces it.
    ///
    /// At most 1,000 variables, whose names and values have at most 64 KiB together. The values are
    /// never logged and never listed. A checkpoint contains them, like the files of the sandbox.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// use actix_sandbox::{Language, LocalServer, Sandbox};
    ///
    /// # let server = LocalServer::start().await?;
    /// let sandbox = Sandbox::create(server.url()).env("API_KEY", "k-17").await?;
    /// let output = sandbox.run(Language::Bash, "echo $API_KEY").await?;
    /// assert_eq!(output.stdout, "k-17\n");
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let env = &mut self.sandbox.configuration.env;
        env.set(name.into(), value.into());
        self
    }

    /// Lowers the limit on the memory of each process of the sandbox, in bytes, at least 32 MiB.
    /// With `namespace`, an allocation beyond the limit fails. With `gvisor`, the process is
    /// killed. Default: the limit of the server.
    ///
    /// The server refuses a limit above its own, and every limit if its backend can't limit memory
    /// (such as `host`). Creating the sandbox then fails with
    /// [`ErrorKind::CreationFailed`](crate::ErrorKind::CreationFailed).
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.sandbox.configuration.limits.memory = Some(bytes);
        self
    }

    /// Lowers the limit on the number of processes and threads of the sandbox, at least 8. Beyond
    /// the limit, starting a process or a thread fails.
    /// Otherwise like [`memory_limit`](Self::memory_limit).
    pub fn process_limit(mut self, processes: u64) -> Self {
        self.sandbox.configuration.limits.processes = Some(processes);
        self
    }

    /// Lowers the limit on the bytes that the files of the sandbox take on the disk, at least 1
    /// MiB. If the files exceed the limit, the server kills all processes and runs no more code in
    /// the sandbox. Only the backend `namespace` has this limit, so servers with another backend
    /// refuse it. Otherwise like [`memory_limit`](Self::memory_limit).
    pub fn disk_limit(mut self, bytes: u64) -> Self {
        self.sandbox.configuration.limits.disk = Some(bytes);
        self
    }

    /// The maximum lifetime: this long after the creation, the server ends the sandbox, even if a
    /// process runs. The client then gets
    /// [`SandboxEnd::LifetimeEnded`](crate::SandboxEnd::LifetimeEnded). The time in which the
    /// sandbox is checkpointed counts. Must be whole seconds, at least 1 s. Default: none.
    ///
    /// The server removes the checkpoint of a sandbox whose lifetime ends while it doesn't run only
    /// at the next attach. To delete the files earlier, kill the sandbox.
    ///
    /// ```no_run
    /// # async fn create() -> Result<(), actix_sandbox::Error> {
    /// use std::time::Duration;
    ///
    /// use actix_sandbox::Sandbox;
    ///
    /// let sandbox = Sandbox::create("https://sandbox.example")
    ///     .max_lifetime(Duration::from_secs(3600))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.sandbox.max_lifetime = Some(lifetime);
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
            lift: false,
            record_to: None,
            runtime: None,
            kill_on_drop: false,
        }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for SandboxBuilder<S> {
    /// Doesn't show header values.
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
