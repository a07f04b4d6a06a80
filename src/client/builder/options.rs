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
    /// Whether to reconnect when the connection of a running sandbox is lost.
    /// [`reconnect_policy`](Self::reconnect_policy) sets the delays and the time limit, by default
    /// five minutes. Default: no.
    ///
    /// During a reconnect, execs and kills wait for the connection, within their timeouts. Writes
    /// to stdin wait without a timeout. A checkpoint or a filesystem snapshot fails with
    /// [`ErrorKind::WrongState`](crate::ErrorKind::WrongState) and can be retried later.
    #[doc(alias = "enable_auto_reconnect")]
    pub fn auto_reconnect(mut self, enable: bool) -> Self {
        self.auto_reconnect = enable;
        self
    }

    /// The delays and the time limit of reconnects, for [`auto_reconnect`](Self::auto_reconnect).
    /// Default: [`ReconnectPolicy::default`].
    pub fn reconnect_policy(mut self, policy: ReconnectPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether to emit `tracing` events at the level DEBUG, in one span for the sandbox. They never
    /// contain output, tokens or headers. Default: no.
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

    /// Adds a header, for example `Authorization`, to the HTTP request of every dial. Its value is
    /// never logged. Default: no additional headers.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The source of the bearer token. The client calls it before each dial and sends the token as
    /// `Authorization: Bearer …`. The token is never logged. Can't be combined with an
    /// `Authorization` header. Default: none, so no token is sent.
    pub fn bearer_token_source(mut self, source: impl TokenSource) -> Self {
        self.tokens = Some(Arc::new(source));
        self
    }

    /// Whether to send a Google ID token with every dial, as Cloud Run requires. The token comes
    /// from Application Default Credentials (a service account key, the metadata server, or a
    /// developer's own login), and its audience is the service's origin, `https://host`. The caller
    /// needs the role `roles/run.invoker`. Requires `https://` or `wss://`, except for a service on
    /// this machine. Can't be combined with [`bearer_token_source`](Self::bearer_token_source) or
    /// an `Authorization` header. Default: no.
    ///
    /// See <https://cloud.google.com/run/docs/authenticating/service-to-service>.
    #[cfg(feature = "google-auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "google-auth")))]
    #[doc(alias = "use_google_auth")]
    pub fn google_auth(mut self, enable: bool) -> Self {
        self.google = enable;
        self
    }

    /// The TLS configuration. The client overrides its ALPN with HTTP/1.1, which WebSocket needs.
    /// Default: a configuration that trusts the webpki roots.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// The timeout of a dial, which covers DNS lookup, TCP, TLS and WebSocket upgrade together.
    /// Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait for the server to report that the sandbox runs, once the connection is
    /// open. Default: 60 s.
    ///
    /// This also limits how long the client retries while the service answers the first dial with
    /// 429 or 503. The delays are those of [`reconnect_policy`](Self::reconnect_policy), or longer
    /// if the service asks for that (`Retry-After`).
    pub fn create_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.ready = timeout;
        self
    }

    /// How long to wait for the server to report that an exec runs. Default: 60 s.
    pub fn exec_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.exec = timeout;
        self
    }

    /// How long to wait for the server to confirm a kill. Sets the timeout for processes (default:
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

    /// The health check of the connection. After `interval` without a message from the server, the
    /// client sends a ping. If nothing arrives within `timeout` after the ping, the client treats
    /// the connection as lost. So it detects a half-open connection after `interval` plus
    /// `timeout`. Default: 15 s each.
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

    /// Whether to lift services that speak only v1: the client runs a Python program in the sandbox,
    /// which provides exit codes, concurrent processes, exactly-once output and input, files,
    /// terminals, signals, ports and metrics. The service needs no change. Has no effect on services
    /// that speak v2. Default: no.
    ///
    /// The sandbox needs Python 3.8 or newer. Opening it fails with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the program can't be started;
    /// the error says why. On success,
    /// [`Sandbox::protocol_version`](crate::Sandbox::protocol_version) returns
    /// [`ProtocolVersion::Lifted`](Version::Lifted).
    ///
    /// - Code in the sandbox runs as the same user as the program. So it can kill the program, which
    ///   ends all execs as [`SandboxLost`](crate::ProcessEnd::SandboxLost), and it can forge the
    ///   output and the ends of the execs of its own sandbox. It can't affect other sandboxes or the
    ///   client.
    /// - For the service, the program is the one exec of the sandbox. The program exits when the
    ///   sandbox has had no running execs and no messages for the idle timeout (60 s if a client that
    ///   attached has started the program), and before a checkpoint. The next exec starts it again. A
    ///   limit of the service on the run time of an exec applies to the program.
    /// - A checkpoint fails while processes run. Exit statuses and output that the client has not
    ///   received before the checkpoint are lost: those processes end as
    ///   [`SandboxLost`](crate::ProcessEnd::SandboxLost).
    /// - At most 64 processes run at once. Code may have up to 16 MiB.
    /// - Options that only the service could apply stay unsupported: labels, environment variables,
    ///   limits and the lifetime of the whole sandbox.
    ///
    /// ```no_run
    /// # async fn lift() -> Result<(), actix_sandbox::Error> {
    /// use actix_sandbox::{Language, Sandbox};
    ///
    /// let sandbox = Sandbox::create("https://sandbox.example").lift(true).await?;
    /// let output = sandbox.run(Language::Bash, "exit 3").await?;
    /// assert_eq!(output.end.code(), Some(3));
    /// sandbox.files().write("in.csv", "a,b\n").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lift(mut self, lift: bool) -> Self {
        self.lift = lift;
        self
    }

    /// The maximum size of a message from the server, in bytes, at least 1,024. If a message
    /// declares a greater length, the client ends the session before it allocates memory for the
    /// message. Default: 16 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How much unread output of each process the client buffers, and what happens to more.
    /// Default: the client buffers 4 MiB, then pauses the process. See [`OutputPolicy`].
    pub fn output_policy(mut self, policy: OutputPolicy) -> Self {
        self.output = policy;
        self
    }

    /// The buffer for each process's stdin, in bytes. It holds input that was not written yet,
    /// under protocol v2 to the pipe of the process, under v1 to the connection. While it is full,
    /// writes wait. Default: 1 MiB.
    pub fn stdin_budget(mut self, bytes: usize) -> Self {
        self.process.stdin_budget = bytes;
        self
    }

    /// Records the sandbox's connections to this file. Each frame, dial and disconnect is one line
    /// of JSON. `test_util::Player` can replay the file. Each sandbox needs its own file. Default:
    /// no recording.
    ///
    /// **The file contains code, variables, input and output.** It contains no headers, cookies or
    /// bearer tokens. The sandbox's token is replaced by `recorded-token`, even where the server
    /// echoes it. The file is created before anything is dialled, and replaces an existing file. On
    /// Unix, its mode is 0600. If it can't be created, opening the sandbox fails with
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption).
    ///
    /// A dedicated thread writes the file. If the session produces data faster than the disk takes
    /// it, the session waits for the disk, at most 2 s. If the disk hangs or is full, the
    /// *recording* stops with a `tracing` warning, and the session continues. While the session is
    /// quiet, the file is up to date.
    ///
    /// The recording is complete when its last line is `"dir":"end"`. This line is written when the
    /// sandbox's actors are gone, and holds an `error` if the recording stopped early.
    /// `test_util::Recording::load_complete` waits for it.
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

    /// Whether to kill the sandbox when its last handle is dropped, even by a panic. Handles to its
    /// processes and their streams count, too. Default: no; the sandbox lives until its idle
    /// timeout.
    ///
    /// The kill is sent in the background, by the threads of the sandbox's actors. If the program
    /// exits right after the drop, it may exit before the kill is sent. An actix System stops its
    /// actors when its main function returns, with the same result. Call
    /// [`Sandbox::kill`](crate::Sandbox::kill) in these cases.
    ///
    /// During a reconnect, the kill waits for the connection, at most for
    /// [`kill_timeout`](Self::kill_timeout). If the connection doesn't come back, the sandbox lives
    /// until its idle timeout. During a checkpoint, the sandbox is killed only if the server
    /// refuses the checkpoint. The option has no effect on [`into_actor`](Self::into_actor), which
    /// returns no handle.
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

    /// The runtime for the sandbox's actors. Default: the current arbiter of an actix System;
    /// without a System, one runtime for the whole program.
    pub fn runtime(mut self, runtime: &Runtime) -> Self {
        self.runtime = Some(runtime.clone());
        self
    }
}
