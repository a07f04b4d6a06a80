//! The options that new and existing sandboxes have in common.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::SandboxBuilder;
use crate::{
    client::Runtime,
    machine::{KeepaliveConfig, OutputPolicy, ReconnectPolicy},
    protocol::Version,
    transport::TokenSource,
};

impl<S> SandboxBuilder<S> {
    /// Whether to reconnect when the connection of a running sandbox is lost. The client retries
    /// for up to five minutes, unless [`reconnect_policy`](Self::reconnect_policy) says otherwise.
    /// Default: no.
    ///
    /// Meanwhile execs, writes to stdin and kills wait for the connection, within their timeouts. A
    /// checkpoint or a filesystem snapshot fails with [`ErrorKind::WrongState`](crate::ErrorKind)
    /// and can be retried.
    #[doc(alias = "enable_auto_reconnect")]
    pub fn auto_reconnect(mut self, enable: bool) -> Self {
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
    #[doc(alias = "enable_debug")]
    pub fn debug(mut self, enable: bool) -> Self {
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
    #[doc(alias = "use_google_auth")]
    pub fn google_auth(mut self, enable: bool) -> Self {
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
    /// when its main function returns. Call [`Sandbox::kill`](crate::Sandbox::kill) in these cases.
    ///
    /// If the connection is lost at that moment and [auto reconnect](Self::auto_reconnect) is on,
    /// the sandbox is killed once the connection is back, within
    /// [`kill_timeout`](Self::kill_timeout). If the connection doesn't come back, the sandbox lives
    /// until its idle timeout. During a checkpoint, the sandbox is killed only if the server
    /// refuses the checkpoint. Has no effect on [`into_actor`](Self::into_actor), which returns no
    /// handle.
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
