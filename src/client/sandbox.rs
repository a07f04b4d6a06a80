//! [`Sandbox`]: the handle of a sandbox.

use std::{fmt, sync::Arc};

use actix::{Addr, Recipient};

use super::{EventStream, ExistingSandbox, ListSandboxes, NewSandbox, SandboxBuilder, ask};
use crate::{
    Error, SandboxActor, SandboxEvent, SandboxId, SandboxState, SandboxToken,
    actor::{self, Checkpoint, GetFeatures, KillSandbox, Opened, SnapshotFilesystem, Subscribe},
    protocol::Version,
};

/// A handle to a sandbox: an environment on a server in which code runs.
///
/// A handle is cheap to clone and can be sent to any thread. It works in an actix System, in any
/// tokio runtime and in a plain thread, with an executor such as `futures::executor::block_on`.
///
/// **Dropping** a handle kills nothing, unless [`kill_on_drop`](SandboxBuilder::kill_on_drop) is
/// set. When the last handle to the sandbox and to its processes is dropped, the connection closes
/// and the actors stop, even during a reconnect. The sandbox itself lives on the server until its
/// idle timeout, or until [`kill`](Self::kill) ends it.
///
/// # Cancel safety
///
/// Every future of this type can be dropped. A request that was already sent still takes effect,
/// but its result is lost. Methods that behave differently say so.
///
/// # Examples
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
    /// Returns a builder that creates a sandbox on the service at this URL. Await the builder to
    /// create the sandbox.
    ///
    /// The URL may start with `ws://`, `wss://`, `http://` or `https://`. It may have a path and a
    /// trailing slash.
    ///
    /// # Errors
    ///
    /// Awaiting the builder fails if:
    ///
    /// - the URL or an option is invalid; then nothing was dialled;
    /// - the service can't be reached or isn't a WebSocket server;
    /// - the service refuses the request;
    /// - the sandbox isn't ready within [`create_timeout`](SandboxBuilder::create_timeout).
    ///
    /// [`ErrorKind`](crate::ErrorKind) distinguishes these cases.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the creation. If the server has already created the sandbox, the
    /// client kills it.
    pub fn create(url: impl AsRef<str>) -> SandboxBuilder<NewSandbox> {
        SandboxBuilder::create(url.as_ref().to_owned())
    }

    /// Returns a builder that attaches to an existing sandbox on the service at this URL. Await the
    /// builder to attach.
    ///
    /// `id` and `token` are those that [`sandbox_id`](Self::sandbox_id) and
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
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The sandbox lives on.
    ///
    /// # Errors
    ///
    /// The errors of [`create`](Self::create), and errors of these [kinds](crate::ErrorKind):
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

    /// Lists the sandboxes that the server at this URL runs. Await the result to get them.
    ///
    /// The caller needs what it needs to create a sandbox: the secret in the URL of a
    /// [`LocalServer`](crate::LocalServer), or an access token. The list doesn't give access to a
    /// sandbox: to attach to one, a client also needs its token, which isn't listed. Checkpointed
    /// sandboxes are not listed.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// use actix_sandbox::{LocalServer, Sandbox};
    ///
    /// # let server = LocalServer::start().await?;
    /// for info in Sandbox::list(server.url()).label("team", "search").await? {
    ///     println!("{} was created at {:?}", info.id, info.created());
    /// }
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if:
    ///
    /// - the URL or an option is invalid; then nothing was dialled;
    /// - the server can't be reached, or doesn't answer within
    ///   [`timeout`](ListSandboxes::timeout);
    /// - the server refuses the request with an HTTP status
    ///   ([`ErrorKind::UpgradeRefused`](crate::ErrorKind::UpgradeRefused)), which
    ///   [`Error::http_status`] returns: 404 if the secret in the URL is wrong or the server can't
    ///   list, 401 if the access token is wrong, 403 if the server has neither;
    /// - the server's answer is not a list of sandboxes.
    pub fn list(url: impl AsRef<str>) -> ListSandboxes {
        ListSandboxes::new(url.as_ref().to_owned())
    }

    pub(super) fn new(addr: Addr<SandboxActor>, opened: Opened, kill_on_drop: bool) -> Self {
        Self(Arc::new(Inner {
            addr,
            opened,
            kill_on_drop,
        }))
    }

    /// The id that the server gave to the sandbox.
    pub fn sandbox_id(&self) -> &SandboxId {
        &self.0.opened.sandbox_id
    }

    /// The secret that another client needs to attach to the sandbox. Its `Debug` output doesn't
    /// show it.
    pub fn sandbox_token(&self) -> &SandboxToken {
        &self.0.opened.sandbox_token
    }

    /// Kills the sandbox with everything in it. Resolves when the server confirms the kill. Any
    /// number of callers may ask. During a reconnect, the kill is sent when the connection is back.
    ///
    /// Resolves at once if the server reported earlier that the sandbox was killed, deleted,
    /// checkpointed or handed over to another client. The kill doesn't remove a checkpoint. To
    /// remove it, attach to the sandbox and then kill it.
    ///
    /// # Errors
    ///
    /// Fails if:
    ///
    /// - the server refuses the kill;
    /// - the server doesn't confirm within [`kill_timeout`](SandboxBuilder::kill_timeout);
    /// - the connection is lost before the server confirms;
    /// - the session ended with an error such as `SANDBOX_ERROR` or `SANDBOX_CHECKPOINT_ERROR`,
    ///   after which the sandbox may still run.
    ///
    /// If [`Error::effect`] is [`Unknown`](crate::Effect::Unknown), the sandbox may still run:
    /// attach to it and kill it.
    pub async fn kill(&self) -> Result<(), Error> {
        ask(self.addr(), KillSandbox, "kill the sandbox").await?
    }

    /// Stores a snapshot of the sandbox's files under this name. New sandboxes can start from it
    /// with [`snapshot`](SandboxBuilder::snapshot). The sandbox keeps running.
    ///
    /// # Errors
    ///
    /// Fails if:
    ///
    /// - the sandbox isn't running, or another snapshot is in progress;
    /// - the server can't take the snapshot, or doesn't confirm within
    ///   [`store_timeout`](SandboxBuilder::store_timeout);
    /// - the connection is lost before the server confirms. The snapshot may exist.
    pub async fn snapshot_filesystem(&self, name: impl Into<String>) -> Result<(), Error> {
        let message = SnapshotFilesystem { name: name.into() };
        ask(self.addr(), message, "snapshot the filesystem").await?
    }

    /// Stores the sandbox on the server and ends the session. To resume the sandbox, attach to it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::WrongState`](crate::ErrorKind::WrongState): the sandbox isn't running, or
    ///   another checkpoint is in progress.
    /// - [`ErrorKind::NotEnabled`](crate::ErrorKind::NotEnabled): the sandbox was created without
    ///   [`checkpoint`](SandboxBuilder::checkpoint). Nothing was sent, and the sandbox continues.
    /// - [`ErrorKind::Refused`](crate::ErrorKind::Refused): a process runs in the sandbox. The
    ///   sandbox continues.
    /// - [`ErrorKind::SandboxEnded`](crate::ErrorKind::SandboxEnded): the server failed to make the
    ///   checkpoint, which ends the session. The sandbox may still run, so [`Error::effect`] is
    ///   [`Unknown`](crate::Effect::Unknown): attach to it to use or kill it.
    /// - [`ErrorKind::Timeout`](crate::ErrorKind::Timeout): the server didn't answer within
    ///   [`store_timeout`](SandboxBuilder::store_timeout).
    /// - [`ErrorKind::LinkLost`](crate::ErrorKind::LinkLost): the connection was lost before the
    ///   answer. The client doesn't reconnect during a checkpoint.
    ///
    /// If the client attached to the sandbox, it doesn't know whether
    /// [`checkpoint`](SandboxBuilder::checkpoint) was set, so it asks the server. If the option was
    /// not set, the server refuses with an error that **ends the session**.
    #[doc(alias = "pause")]
    pub async fn checkpoint(&self) -> Result<(), Error> {
        ask(self.addr(), Checkpoint, "checkpoint the sandbox").await?
    }

    /// The state of the sandbox and its connection, as far as the client knows. It reflects the
    /// results of all calls that have returned.
    ///
    /// If an actor of the sandbox is gone, the state is [`Ended`](SandboxState::Ended).
    pub fn state(&self) -> SandboxState {
        self.0.opened.state.state()
    }

    /// The protocol version of the current connection or, while there is none, of the last one.
    pub fn protocol_version(&self) -> Version {
        self.0.opened.state.version()
    }

    /// The features that the server lists, such as `terminals` or `ports`: see
    /// [v2](crate::protocol_v2). Empty if the connection speaks v1, which has no features. With
    /// [`lift`](SandboxBuilder::lift), these are the features of the lift.
    ///
    /// The client checks the features itself: a method that needs a missing feature fails with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) and sends nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): the sandbox's actor is gone.
    pub async fn features(&self) -> Result<Vec<String>, Error> {
        ask(self.addr(), GetFeatures, "get the features of the server").await
    }

    /// Returns a stream of all events from now on. It buffers at most 256 unread events and doesn't
    /// keep the connection open: see [`EventStream`]. If the sandbox has ended, the only item is
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

    /// Subscribes an actor to every [`SandboxEvent`] from now on: see [`Subscribe`].
    /// [`events`](Self::events) returns the events as a stream instead.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): the sandbox's actor is gone.
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
