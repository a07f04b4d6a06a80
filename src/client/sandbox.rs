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

/// A sandbox: a place on a server where code runs that nobody trusts.
///
/// A handle is cheap to clone, can be sent anywhere, and works from an actix System, any tokio
/// runtime and a plain thread (with an executor such as `futures::executor::block_on`).
///
/// **Dropping** a handle kills nothing, unless [`kill_on_drop`](SandboxBuilder::kill_on_drop) was
/// set. With the last handle, those of its processes included, the connection is closed and the
/// actors end, also in the middle of an outage; the sandbox itself lives on at the server until its
/// idle timeout. [`kill`](Self::kill) ends it.
///
/// **Cancellation.** Every future here can be dropped. What was already asked for then still happens,
/// and nobody learns of it; what is different is said at the method.
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
            crate::actor::discard_in_background(&self.addr);
        }
    }
}

impl Sandbox {
    /// A new sandbox at the service with this URL; await the builder to create it.
    ///
    /// Accepted are `ws://`, `wss://`, and `http://` and `https://` in their place, with or without
    /// a path and a trailing slash.
    ///
    /// # Errors
    ///
    /// When awaited: an option or the URL cannot be used; the service cannot be reached, or is no
    /// WebSocket server; it refuses; it does not get ready within
    /// [`create_timeout`](SandboxBuilder::create_timeout). See [`ErrorKind`](crate::ErrorKind).
    pub fn create(url: impl AsRef<str>) -> SandboxBuilder<NewSandbox> {
        SandboxBuilder::create(url.as_ref().to_owned())
    }

    /// The sandbox that has this id at the service with this URL; await the builder to attach to it.
    ///
    /// Id and token are what [`sandbox_id`](Self::sandbox_id) and [`sandbox_token`](Self::sandbox_token)
    /// gave where it was created. A checkpointed sandbox is restored. One client at a time can be
    /// attached.
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
    /// When awaited, as [`create`](Self::create), and by [`ErrorKind`](crate::ErrorKind): `NotFound`;
    /// `InUse`: another client is attached, or the server still believes so after a connection was
    /// lost (try again); `PermissionDenied`: the token is wrong; `RestoreFailed`.
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

    /// The secret that opens the sandbox to another client. Its `Debug` shows nothing.
    pub fn sandbox_token(&self) -> &SandboxToken {
        &self.0.opened.sandbox_token
    }

    /// Runs code; await the builder to start it. It resolves when the server says that the code runs.
    ///
    /// While the connection is lost and dialled again, it waits: the code starts once, when the
    /// link is back. Under protocol v2 any number of processes run at once, each read and fed for
    /// itself. Under v1 one runs at a time, and the exec also waits for the end of a process that
    /// is being killed.
    ///
    /// # Errors
    ///
    /// When awaited: the sandbox is not running; another process runs (v1); the server does not run the
    /// language, or could not start the process (the sandbox goes on); no answer came within
    /// [`exec_timeout`](SandboxBuilder::exec_timeout) (if the process starts later, it is killed), or
    /// before the link was lost (if it started all the same, it is killed once the link is back).
    ///
    /// Dropping the future kills the process if it starts: nobody would have a handle to it.
    pub fn exec(&self, language: impl Into<Language>, code: impl Into<String>) -> ExecBuilder {
        ExecBuilder::new(self.command(language, code))
    }

    /// Runs code to its end and collects its output; await the builder.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec); and the output is larger than
    /// [`output_limit`](RunBuilder::output_limit), or the sandbox was lost. A non-zero exit is no error.
    ///
    /// Dropping the future kills the process.
    pub fn run(&self, language: impl Into<Language>, code: impl Into<String>) -> RunBuilder {
        RunBuilder::new(self.command(language, code))
    }

    /// Code to run, with more options than [`exec`](Self::exec) and [`run`](Self::run) have: arguments,
    /// environment, working directory, input, time limit.
    pub fn command(&self, language: impl Into<Language>, code: impl Into<String>) -> Command {
        Command::new(self.clone(), language.into(), code.into())
    }

    /// Takes over a process that another client started in this sandbox, and reads on where that one stopped.
    ///
    /// The other client must have let go of the sandbox: one is attached at a time. What became of the process is
    /// said by [`Process::wait`]; one that the server does not know ends as
    /// [`ProcessEnd::SandboxLost`](crate::ProcessEnd::SandboxLost).
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
    /// // Another program goes on.
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
    /// The reference is to a process of another sandbox; this sandbox is not running; the server speaks protocol v1;
    /// the process is attached to already.
    pub async fn attach_process(&self, process: &ProcessRef) -> Result<Process, Error> {
        if process.sandbox_id() != *self.sandbox_id() {
            let problem = format!(
                "is to a process in the sandbox {}; this is {}",
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

    /// Stores the files of the sandbox under a name, for
    /// [`filesystem_snapshot_name`](SandboxBuilder::filesystem_snapshot_name). The sandbox goes on.
    ///
    /// # Errors
    ///
    /// The sandbox is not running; a snapshot is under way; the server could not make it.
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

    /// Where the sandbox stands.
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

    /// Which version of the protocol the server speaks; what it spoke last, while the link is lost.
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

    /// Sends every [`SandboxEvent`] from now on to an actor.
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

    /// The actor behind this handle, for programs made of actors. As long as an address is kept, the
    /// sandbox's connection stays.
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
