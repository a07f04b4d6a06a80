//! [`Sandbox`]: the handle of a sandbox.

use std::{fmt, sync::Arc};

use actix::{Addr, Recipient};

use super::{EventStream, ExistingSandbox, NewSandbox, SandboxBuilder, ask};
use crate::{
    Error, SandboxActor, SandboxEvent, SandboxId, SandboxState, SandboxToken,
    actor::{self, Checkpoint, KillSandbox, Opened, SnapshotFilesystem, Subscribe},
    protocol::Version,
};

/// A handle to a sandbox: an isolated place on a server that runs untrusted code.
///
/// A handle is cheap to clone and can be sent to any thread. It works in an actix System, in any
/// tokio runtime and on a plain thread (with an executor such as `futures::executor::block_on`).
///
/// **Dropping** a handle kills nothing, unless [`kill_on_drop`](SandboxBuilder::kill_on_drop) is
/// set. When the last handle to the sandbox and to its processes is dropped, the connection closes
/// and the actors stop, even during a reconnect. The sandbox itself lives on the server until its
/// idle timeout. [`kill`](Self::kill) ends it.
///
/// **Cancel safety.** Every future here can be dropped. A request that was already sent still takes
/// effect, but its result is lost. Methods that behave differently say so.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures::executor::block_on(async {
/// use actix_sandbox::{Language, LocalServer, Sandbox};
///
/// let server = LocalServer::start().await?;
/// let sandbox = Sandbox::create(server.url()).await?;
/// let output = sandbox.run(Language::Bash, "echo hello; echo oops >&2").await?;
/// assert_eq!(output.stdout, "hello\n");
/// assert_eq!(output.stderr, "oops\n");
/// sandbox.kill().await?;
/// # Ok(())
/// # })
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    addr: Addr<SandboxActor>,
    opened: Opened,
    kill_on_drop: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.kill_on_drop {
            actor::abandon_in_background(&self.addr);
        }
    }
}

impl Sandbox {
    /// Creates a sandbox on the service at this URL. Await the builder to create it.
    ///
    /// The URL may start with `ws://`, `wss://`, `http://` or `https://`. It may have a path and a
    /// trailing slash.
    ///
    /// # Errors
    ///
    /// Awaiting the builder fails if the URL or an option is invalid, the service can't be reached
    /// or isn't a WebSocket server, the service refuses the request, or the sandbox isn't ready
    /// within [`create_timeout`](SandboxBuilder::create_timeout). See
    /// [`ErrorKind`](crate::ErrorKind).
    pub fn create(url: impl AsRef<str>) -> SandboxBuilder<NewSandbox> {
        SandboxBuilder::create(url.as_ref().to_owned())
    }

    /// Attaches to an existing sandbox on the service at this URL. Await the builder to attach.
    ///
    /// Pass the id and token that [`sandbox_id`](Self::sandbox_id) and
    /// [`sandbox_token`](Self::sandbox_token) returned to the client that created the sandbox. A
    /// checkpointed sandbox is restored. Only one client can be attached at a time.
    ///
    /// ```no_run
    /// use actix_sandbox::{Error, Language, Sandbox};
    ///
    /// # async fn attach(token: String) -> Result<(), Error> {
    /// let sandbox = Sandbox::attach("https://sandbox.example", "sandbox-9182", token).await?;
    /// let output = sandbox.run(Language::Bash, "ls").await?;
    /// println!("{}", output.stdout_lossy());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future closes the connection; the sandbox lives on.
    ///
    /// # Errors
    ///
    /// The errors of [`create`](Self::create), and these [kinds](crate::ErrorKind):
    ///
    /// - `NotFound`: no sandbox has this id.
    /// - `InUse`: another client is attached, or the server has not yet noticed that its connection
    ///   was lost. Retry later.
    /// - `PermissionDenied`: the token is wrong.
    /// - `RestoreFailed`: the checkpoint can't be restored.
    pub fn attach(
        url: impl AsRef<str>,
        id: impl Into<SandboxId>,
        token: impl Into<SandboxToken>,
    ) -> SandboxBuilder<ExistingSandbox> {
        SandboxBuilder::attach(url.as_ref().to_owned(), id.into(), token.into())
    }

    pub(super) fn new(addr: Addr<SandboxActor>, opened: Opened, kill_on_drop: bool) -> Self {
        Self(Arc::new(Inner {
            addr,
            opened,
            kill_on_drop,
        }))
    }

    /// The id that the server gave the sandbox.
    pub fn sandbox_id(&self) -> &SandboxId {
        &self.0.opened.sandbox_id
    }

    /// The secret with which another client can attach. Its `Debug` output hides it.
    pub fn sandbox_token(&self) -> &SandboxToken {
        &self.0.opened.sandbox_token
    }

    /// Kills the sandbox with everything in it. Resolves when the server confirms it. Any number of
    /// callers may ask.
    ///
    /// Resolves at once if the server said before that nothing is left to kill here: the sandbox
    /// was killed, deleted, checkpointed or handed over to another client. A checkpoint stays:
    /// attach to the sandbox and kill it then.
    ///
    /// # Errors
    ///
    /// Fails if the server refuses, if it doesn't confirm within
    /// [`kill_timeout`](SandboxBuilder::kill_timeout), or if the connection is lost before. Also
    /// fails if the session ended with an error such as `SANDBOX_ERROR` or
    /// `SANDBOX_CHECKPOINT_ERROR`, after which the sandbox may still run. Then [`Error::effect`] is
    /// [`Unknown`](crate::Effect::Unknown): attach to the sandbox and kill it.
    pub async fn kill(&self) -> Result<(), Error> {
        ask(self.addr(), KillSandbox, "kill the sandbox").await?
    }

    /// Stores the files of the sandbox under a name. New sandboxes can start from it with
    /// [`snapshot`](SandboxBuilder::snapshot). The sandbox keeps
    /// running.
    ///
    /// # Errors
    ///
    /// Fails if the sandbox isn't running, another snapshot is in progress, or the server can't
    /// take the snapshot.
    pub async fn snapshot_filesystem(&self, name: impl Into<String>) -> Result<(), Error> {
        let message = SnapshotFilesystem { name: name.into() };
        ask(self.addr(), message, "snapshot the filesystem").await?
    }

    /// Stores the sandbox and ends the session. To resume it, attach to it.
    ///
    /// # Errors
    ///
    /// The sandbox is not running; a process runs (the sandbox continues); it was created without
    /// [`checkpoint`](SandboxBuilder::checkpoint), and nothing is
    /// sent (the sandbox continues); the server could not make the checkpoint. The last ends the
    /// session. The sandbox may still run, so [`Error::effect`] is
    /// [`Unknown`](crate::Effect::Unknown): attach to it to use or kill it.
    ///
    /// For a sandbox that it attached to, the client does not know whether that option was set. It
    /// asks the server. If the option was not set, the server refuses with an error that **ends the
    /// session**.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        ask(self.addr(), Checkpoint, "checkpoint the sandbox").await?
    }

    /// The state of the sandbox and its connection, as far as the client knows. It includes what
    /// every call that has returned has learned.
    ///
    /// If an actor of the sandbox is gone, the state is [`Ended`](SandboxState::Ended).
    pub fn state(&self) -> SandboxState {
        self.0.opened.state.state()
    }

    /// The protocol version of the connection, or of the last one while the connection is lost.
    pub fn protocol_version(&self) -> Version {
        self.0.opened.state.version()
    }

    /// The later events of the sandbox, as a stream. It buffers at most 256 events that are not read,
    /// and does not keep the connection: see [`EventStream`]. If the sandbox has ended, its only item is
    /// [`SandboxEvent::Ended`].
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// use futures::StreamExt;
    ///
    /// let mut events = sandbox.events();
    /// sandbox.kill().await?;
    /// while let Some(event) = events.next().await {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    pub fn events(&self) -> EventStream {
        EventStream(actor::subscribe_stream(self.addr()))
    }

    /// Subscribes an actor to every later [`SandboxEvent`]: see [`Subscribe`].
    /// [`events`](Self::events) returns them as a stream.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone).
    pub async fn subscribe(&self, recipient: Recipient<SandboxEvent>) -> Result<(), Error> {
        ask(self.addr(), Subscribe(recipient), "subscribe").await
    }

    /// The address of the actor behind this handle, for programs that use actors. An address keeps
    /// the connection open, like a handle.
    pub fn addr(&self) -> &Addr<SandboxActor> {
        &self.0.addr
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("sandbox_id", self.sandbox_id())
            .finish_non_exhaustive()
    }
}
