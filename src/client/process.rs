//! [`Process`]: the handle of one exec, and the builders that start one.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use actix::Addr;
use futures::future::try_join3;

use super::{Language, OutputExt, Sandbox};
use crate::{
    Error, OutputPolicy, OutputStream, ProcessActor, ProcessEnd, ProcessId, ProcessOutput,
    actor::{Exec, FlushStdin, Kill, Start, StartKey, StartedProcess, Wait, WriteStdin},
};

/// Options of an exec. Await it to start the process. Made by [`Sandbox::exec`].
///
/// It is no future itself but turns into one: where a macro or a combinator wants a future, as in
/// `futures::join!`, write `.into_future()`.
#[must_use = "code runs when the builder is awaited"]
#[derive(Clone, Debug)]
pub struct ExecBuilder {
    sandbox: Sandbox,
    exec: Exec,
    kill_on_drop: bool,
}

impl ExecBuilder {
    pub(super) fn new(sandbox: Sandbox, language: Language, code: String) -> Self {
        Self {
            sandbox,
            exec: Exec::new(language, code),
            kill_on_drop: false,
        }
    }

    /// How much output is kept for its readers. Default: the sandbox's own policy.
    pub fn output_policy(mut self, policy: OutputPolicy) -> Self {
        self.exec.output = Some(policy);
        self
    }

    /// Whether the process is killed when its last handle is dropped. Default: no.
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    async fn start(self) -> Result<Process, Error> {
        if self.exec.output.is_some_and(|policy| policy.budget == 0) {
            return Err(Error::option(
                "output_policy",
                "has a budget of 0 bytes; at least 1 is needed",
            ));
        }
        let key = StartKey::unique();
        let starting = Starting(Some((self.sandbox.clone(), key)));
        let answer = self.sandbox.addr().send(Start(self.exec, key)).await;
        starting.answered();
        let started = answer
            .map_err(Error::mailbox("run code"))??
            .claim()
            .ok_or_else(|| Error::actor_gone("run code"))?;
        Ok(Process::new(self.sandbox, started, self.kill_on_drop))
    }
}

/// An exec that was asked for and not answered. Dropped, it is cancelled.
struct Starting(Option<(Sandbox, StartKey)>);

impl Starting {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some((sandbox, key)) = self.0.take() {
            crate::actor::cancel_in_background(key, sandbox.addr());
        }
    }
}

impl IntoFuture for ExecBuilder {
    type Output = Result<Process, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

/// A process in a sandbox.
///
/// A handle is cheap to clone and can be sent anywhere. Its streams can be read both at once, one
/// after the other, or not at all: see [`OutputPolicy`] for what happens to output that nobody reads.
///
/// **Dropping** the last handle (a stream is one, too) does not kill the process, unless
/// [`kill_on_drop`](ExecBuilder::kill_on_drop) was set. It runs on, its output is dropped, and under
/// protocol v1 the sandbox runs nothing else until it ends.
///
/// Processes that the code leaves in the background live on after its end, and die with the sandbox.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures::executor::block_on(async {
/// # let server = actix_sandbox::LocalServer::start().await?;
/// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
/// use actix_sandbox::{Language, OutputExt};
///
/// let process = sandbox.exec(Language::Python, "print('got', input())").await?;
/// process.write_to_stdin("hello\n").await?;
/// assert_eq!(process.stdout().read_all().await?, "got hello\n");
/// println!("{}", process.wait().await?);
/// # sandbox.kill().await?;
/// # Ok(())
/// # })
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Process(Arc<Inner>);

struct Inner {
    /// Keeps the sandbox's connection.
    sandbox: Sandbox,
    process: ProcessId,
    actor: Addr<ProcessActor>,
    output: ProcessOutput,
    kill_on_drop: bool,
}

impl Process {
    fn new(sandbox: Sandbox, started: StartedProcess, kill_on_drop: bool) -> Self {
        let StartedProcess {
            process,
            actor,
            output,
        } = started;
        Self(Arc::new(Inner {
            sandbox,
            process,
            actor,
            output,
            kill_on_drop,
        }))
    }

    /// The number of the process in its sandbox.
    pub fn id(&self) -> ProcessId {
        self.0.process
    }

    /// A reader of stdout. What was printed before is read first; of several readers each gets what
    /// the others do not.
    pub fn stdout(&self) -> OutputStream {
        self.0.output.stdout().keeping(self.clone())
    }

    /// A reader of stderr.
    pub fn stderr(&self) -> OutputStream {
        self.0.output.stderr().keeping(self.clone())
    }

    /// Bytes of output that are kept for readers now, of both streams together.
    pub fn buffered_output(&self) -> usize {
        self.0.output.buffered()
    }

    /// Sends text to stdin, after all text before it. Resolves when the text is accepted into the
    /// stdin budget; [`flush_stdin`](Self::flush_stdin) tells when the connection took it.
    ///
    /// Protocol v1 cannot close stdin: a program that reads up to the end of its input goes on waiting
    /// after the last write, until it is killed. Let it read a line, or a length first.
    ///
    /// # Errors
    ///
    /// The process has ended, before or while the write waited.
    ///
    /// Dropped while it waits for the budget, the text may be sent or not.
    pub async fn write_to_stdin(&self, data: impl Into<String>) -> Result<(), Error> {
        self.0
            .actor
            .send(WriteStdin(data.into()))
            .await
            .map_err(Error::mailbox("write to stdin"))?
    }

    /// Resolves when the connection has taken all text accepted so far. Protocol v1 cannot tell
    /// whether the process read it.
    ///
    /// # Errors
    ///
    /// The process ended before.
    pub async fn flush_stdin(&self) -> Result<(), Error> {
        self.0
            .actor
            .send(FlushStdin)
            .await
            .map_err(Error::mailbox("flush stdin"))?
    }

    /// Resolves when the process has ended, with how. Any number may wait, before and after.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone). A lost sandbox is no error but
    /// [`ProcessEnd::SandboxLost`].
    pub async fn wait(&self) -> Result<ProcessEnd, Error> {
        self.0
            .actor
            .send(Wait)
            .await
            .map_err(Error::mailbox("wait for the process"))?
    }

    /// Kills the process and its children. Resolves when the server confirmed the end; at once when
    /// it has ended before. Any number may ask. Output beyond the budget is dropped from now on.
    ///
    /// # Errors
    ///
    /// The server could not kill it, or did not confirm within
    /// [`kill_timeout`](crate::SandboxBuilder::kill_timeout); the sandbox was lost.
    pub async fn kill(&self) -> Result<(), Error> {
        self.0
            .actor
            .send(Kill)
            .await
            .map_err(Error::mailbox("kill the process"))?
    }

    /// The sandbox that the process runs in.
    pub fn sandbox(&self) -> &Sandbox {
        &self.0.sandbox
    }

    /// The actor behind this handle, for programs made of actors.
    pub fn addr(&self) -> &Addr<ProcessActor> {
        &self.0.actor
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.kill_on_drop {
            crate::actor::kill_in_background(self.process, self.sandbox.addr());
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("id", &self.id().0)
            .field("sandbox_id", self.sandbox().sandbox_id())
            .finish_non_exhaustive()
    }
}

/// What a process printed, and how it ended.
///
/// Under protocol v1 [`end`](Self::end) does not tell whether the code succeeded: a failed script ends
/// as [`ProcessEnd::Unknown`] like any other. Where that matters, let the code print it, for example
/// with `…; echo "exit $?"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub end: ProcessEnd,
    /// Its stdout; what is not UTF-8 is replaced by U+FFFD.
    pub stdout: String,
    /// Its stderr, likewise.
    pub stderr: String,
}

/// Options of a run. Await it to run code to its end. Made by [`Sandbox::run`].
///
/// It is no future itself but turns into one: where a macro or a combinator wants a future, as in
/// `futures::join!`, write `.into_future()`.
#[must_use = "code runs when the builder is awaited"]
#[derive(Clone, Debug)]
pub struct RunBuilder {
    exec: ExecBuilder,
    limit: usize,
}

impl RunBuilder {
    pub(super) fn new(exec: ExecBuilder) -> Self {
        Self {
            exec: exec.kill_on_drop(true),
            limit: super::streams::READ_LIMIT,
        }
    }

    /// Most bytes of each stream that are collected. Default: 64 MiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    async fn run(self) -> Result<Output, Error> {
        let limit = self.limit;
        let process = self.exec.await?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        // Both at once: neither holds the other back.
        let collected = try_join3(
            stdout.read_to_limit(limit),
            stderr.read_to_limit(limit),
            process.wait(),
        )
        .await;
        let (stdout, stderr, end) = match collected {
            Ok(collected) => collected,
            Err(error) => {
                // The sandbox is free again when this returns; why the kill failed matters less.
                let _ = process.kill().await;
                return Err(error);
            }
        };
        let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output {
            end,
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }
}

impl IntoFuture for RunBuilder {
    type Output = Result<Output, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
