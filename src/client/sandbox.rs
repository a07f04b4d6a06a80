//! [`Sandbox`]: the handle of a sandbox.

use std::{fmt, sync::Arc};

use actix::{Addr, Recipient};

use super::{
    Command, ExecBuilder, ExistingSandbox, Language, NewSandbox, Process, ProcessRef, RunBuilder,
    SandboxBuilder,
};
use crate::{
    Error, SandboxActor, SandboxEvent, SandboxId, SandboxState, SandboxToken,
    actor::{
        AttachProcess, Checkpoint, GetState, GetVersion, KillSandbox, Opened, SnapshotFilesystem,
        Subscribe,
    },
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
/// **Cancellation.** Every future here can be dropped. A request that was already sent still takes
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
            crate::actor::abandon_in_background(&self.addr);
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
    /// println!("{}", sandbox.run(Language::Bash, "ls").await?.stdout);
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

    /// Starts code. Await the builder to start it; it resolves when the server reports that the
    /// code runs.
    ///
    /// While the client reconnects, the exec waits, and the code starts exactly once when the
    /// connection is back. Under protocol v2 several processes run at once, each with its own
    /// streams. Under v1 one process runs at a time, and the exec also waits for the end of a
    /// process that is being killed.
    ///
    /// Dropping the future kills the process if it starts, because there is no handle to it.
    ///
    /// # Errors
    ///
    /// Awaiting the builder fails if:
    ///
    /// - the sandbox isn't running, or, under v1, another process runs;
    /// - the server doesn't support the language or can't start the process (the sandbox lives on);
    /// - no answer arrives within [`exec_timeout`](SandboxBuilder::exec_timeout). If the process
    ///   starts later, it is killed;
    /// - the connection is lost before the answer. If the process started, it is killed once the
    ///   connection is back.
    pub fn exec(&self, language: impl Into<Language>, code: impl Into<String>) -> ExecBuilder {
        ExecBuilder::new(self.command(language, code))
    }

    /// Runs code to its end and collects its output. Await the builder to run it.
    ///
    /// Dropping the future kills the process.
    ///
    /// # Errors
    ///
    /// The errors of [`exec`](Self::exec). Also fails if the output exceeds
    /// [`output_limit`](RunBuilder::output_limit) or the sandbox is lost. A non-zero exit code is
    /// not an error.
    pub fn run(&self, language: impl Into<Language>, code: impl Into<String>) -> RunBuilder {
        RunBuilder::new(self.command(language, code))
    }

    /// Returns a command, which has more options than [`exec`](Self::exec) and [`run`](Self::run):
    /// arguments, environment, working directory, input, time limit.
    pub fn command(&self, language: impl Into<Language>, code: impl Into<String>) -> Command {
        Command::new(self.clone(), language.into(), code.into())
    }

    /// Resumes a process that another client started in this sandbox. Its output continues where
    /// that client stopped reading.
    ///
    /// The other client must have detached first, because only one client can be attached at a
    /// time. [`Process::wait`] returns how the process ended; a process that the server doesn't
    /// know ends as [`ProcessEnd::SandboxLost`](crate::ProcessEnd::SandboxLost).
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// use actix_sandbox::{Language, LocalServer, OutputExt, ProcessRef, Sandbox};
    ///
    /// let server = LocalServer::start().await?;
    /// let sandbox = Sandbox::create(server.url()).await?;
    /// let process = sandbox.exec(Language::Bash, "read x; echo got $x").await?;
    /// // Keep these three, in a database for example.
    /// let (id, token) = (sandbox.sandbox_id().clone(), sandbox.sandbox_token().clone());
    /// let reference = process.to_ref().await?;
    /// drop((process, sandbox));
    ///
    /// // Another program resumes the process.
    /// # let sandbox = loop {
    /// #     match Sandbox::attach(server.url(), id.clone(), token.clone()).await {
    /// #         Err(error) if error.is_retryable() => continue,
    /// #         attached => break attached?,
    /// #     }
    /// # };
    /// # #[cfg(any())]
    /// let sandbox = Sandbox::attach(server.url(), id, token).await?;
    /// let process = sandbox.attach_process(&reference).await?;
    /// process.write_to_stdin("this\n").await?;
    /// assert_eq!(process.stdout().read_all().await?, "got this\n");
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the reference belongs to another sandbox, this sandbox isn't running, the server
    /// speaks protocol v1, or this client already has a handle to the process.
    pub async fn attach_process(&self, process: &ProcessRef) -> Result<Process, Error> {
        if process.sandbox_id() != *self.sandbox_id() {
            let problem = format!(
                "belongs to the sandbox {}; this sandbox is {}",
                process.sandbox_id(),
                self.sandbox_id()
            );
            return Err(Error::option("process", problem));
        }
        let message = AttachProcess {
            place: process.place(),
            output: None,
        };
        let started = self
            .addr()
            .send(message)
            .await
            .map_err(Error::mailbox("attach to the process"))??;
        Ok(Process::new(self.clone(), started, false))
    }

    /// Kills the sandbox with everything in it. Resolves when the server confirmed it. Any number
    /// may ask.
    ///
    /// Resolves at once if the server said before that nothing is left to kill here: the sandbox was
    /// killed, deleted, checkpointed or handed over to another client. A checkpoint stays: attach to
    /// the sandbox and kill it then.
    ///
    /// # Errors
    ///
    /// Fails if the server refuses, if it doesn't confirm within
    /// [`kill_timeout`](SandboxBuilder::kill_timeout), or if the connection is lost before. Also fails
    /// if the session ended with an error such as `SANDBOX_ERROR` or `SANDBOX_CHECKPOINT_ERROR`, after
    /// which the sandbox may still run. Then [`Error::effect`] is [`Unknown`](crate::Effect::Unknown):
    /// attach to the sandbox and kill it.
    pub async fn kill(&self) -> Result<(), Error> {
        self.addr()
            .send(KillSandbox)
            .await
            .map_err(Error::mailbox("kill the sandbox"))?
    }

    /// Stores the files of the sandbox under a name. New sandboxes can start from it with
    /// [`filesystem_snapshot_name`](SandboxBuilder::filesystem_snapshot_name). The sandbox keeps
    /// running.
    ///
    /// # Errors
    ///
    /// Fails if the sandbox isn't running, another snapshot is in progress, or the server can't
    /// take the snapshot.
    pub async fn snapshot_filesystem(&self, name: impl Into<String>) -> Result<(), Error> {
        let message = SnapshotFilesystem { name: name.into() };
        self.addr()
            .send(message)
            .await
            .map_err(Error::mailbox("snapshot the filesystem"))?
    }

    /// Stores the sandbox and ends it here; it is taken up again by attaching to it.
    ///
    /// # Errors
    ///
    /// The sandbox is not running; a process runs (the sandbox goes on); it was created without
    /// [`enable_sandbox_checkpoint`](SandboxBuilder::enable_sandbox_checkpoint), and nothing is
    /// sent (the sandbox goes on); the server could not make the checkpoint. The last ends the
    /// session. The sandbox may still run, so [`Error::effect`] is
    /// [`Unknown`](crate::Effect::Unknown): attach to it to go on or to kill it.
    ///
    /// For a sandbox that it attached to, the client does not know whether that option was set. It
    /// asks the server. If the option was not set, the server refuses with an error that **ends the
    /// session**.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        self.addr()
            .send(Checkpoint)
            .await
            .map_err(Error::mailbox("checkpoint the sandbox"))?
    }

    /// The state of the sandbox and its connection.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone).
    pub async fn state(&self) -> Result<SandboxState, Error> {
        self.addr()
            .send(GetState)
            .await
            .map_err(Error::mailbox("ask for the state"))
    }

    /// The protocol version of the connection, or of the last one while the connection is lost.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone).
    pub async fn protocol_version(&self) -> Result<Version, Error> {
        self.addr()
            .send(GetVersion)
            .await
            .map_err(Error::mailbox("ask for the protocol version"))
    }

    /// Subscribes an actor to every later [`SandboxEvent`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone).
    pub async fn subscribe(&self, recipient: Recipient<SandboxEvent>) -> Result<(), Error> {
        self.addr()
            .send(Subscribe(recipient))
            .await
            .map_err(Error::mailbox("subscribe"))
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
