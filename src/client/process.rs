//! [`Process`]: the handle of one exec.

use std::{fmt, sync::Arc};

use actix::Addr;
use bytes::Bytes;

use super::{Sandbox, ask};
use crate::{
    Error, MergedOutput, OutputStream, ProcessActor, ProcessEnd, ProcessId, ProcessOutput,
    actor::{CloseStdin, FlushStdin, Kill, StartedProcess, Wait, WriteStdin},
};

/// A process in a sandbox.
///
/// A handle is cheap to clone and can be sent to any thread. Its streams can be read concurrently,
/// one after the other, or not at all: [`OutputPolicy`](crate::OutputPolicy) says what happens to
/// unread output.
///
/// **Dropping** the last handle does not kill the process, unless
/// [`kill_on_drop`](crate::Command::kill_on_drop) was set. Its streams and its
/// [`stdin`](Self::stdin) count as handles. Without a handle, the process continues, its output is
/// dropped, and under protocol v1 the sandbox runs nothing else until the process ends.
///
/// Processes that the code leaves in the background continue after its end, and end with the
/// sandbox. What they print to its stdout and stderr is delivered for a
/// [grace period](crate::Command::output_grace).
///
/// **Cancel safety.** Every future here can be dropped. A request that was already sent still takes
/// effect, but its result is lost. [`write_to_stdin`](Self::write_to_stdin) says how it differs.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures::executor::block_on(async {
/// # let server = actix_sandbox::LocalServer::start().await?;
/// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
/// use actix_sandbox::Language;
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
    pub(super) fn new(sandbox: Sandbox, started: StartedProcess, kill_on_drop: bool) -> Self {
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

    /// A reader of stdout. It starts with the output that is not read yet. If there are several
    /// readers, each byte goes to one of them.
    pub fn stdout(&self) -> OutputStream {
        self.0.output.stdout().keeping(self.clone())
    }

    /// A reader of stderr.
    pub fn stderr(&self) -> OutputStream {
        self.0.output.stderr().keeping(self.clone())
    }

    /// A reader of both streams in one, in the order in which they arrived at the client. A stream
    /// from [`stdout`](Self::stdout) or [`stderr`](Self::stderr) may read at the same time: each
    /// byte goes to one reader.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// use actix_sandbox::Language;
    /// use futures::StreamExt;
    ///
    /// let process = sandbox.exec(Language::Bash, "echo out; echo err >&2").await?;
    /// let mut output = process.merged_output();
    /// while let Some(piece) = output.next().await {
    ///     let (stream, bytes) = piece?;
    ///     println!("{stream}: {}", String::from_utf8_lossy(&bytes));
    /// }
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    pub fn merged_output(&self) -> MergedOutput {
        self.0.output.merged().keeping(self.clone())
    }

    /// How many bytes of output are buffered now, of both streams together.
    pub fn buffered_output(&self) -> usize {
        self.0.output.buffered()
    }

    pub(super) fn discard_output(&self) {
        self.0.output.discard();
    }

    /// Whether output was cut off: see [`OutputStream::is_cut`].
    pub fn is_output_cut(&self) -> bool {
        self.0.output.is_cut()
    }

    /// Sends bytes to stdin, after all bytes before them. Resolves when they are accepted into the
    /// [budget](crate::SandboxBuilder::stdin_budget), which counts bytes that are not sent yet. [`flush_stdin`](Self::flush_stdin) waits until they are sent.
    ///
    /// Under protocol v2 every byte arrives once and in order, even if the connection is lost
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded): the process ended before or
    ///   during the write.
    /// - [`ErrorKind::StdinClosed`](crate::ErrorKind::StdinClosed): the process, or
    ///   [`close_stdin`](Self::close_stdin), has closed its stdin.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): protocol v1 carries only UTF-8,
    ///   and the bytes are not.
    ///
    /// **Cancel safety.** Not cancel safe: if the future is dropped while it waits for the budget,
    /// the bytes may be sent or not.
    pub async fn write_to_stdin(&self, data: impl Into<Bytes>) -> Result<(), Error> {
        ask(&self.0.actor, WriteStdin(data.into()), "write to stdin").await?
    }

    /// Resolves when everything that was accepted before is sent: under protocol v2 to the pipe of
    /// the process, under v1 to the connection. The program may read it later.
    ///
    /// # Errors
    ///
    /// The process ended before, or closed its stdin.
    pub async fn flush_stdin(&self) -> Result<(), Error> {
        ask(&self.0.actor, FlushStdin, "flush stdin").await?
    }

    /// Closes stdin after everything that was written before. The program then reads the end of its
    /// input. Resolves when the request is accepted; it waits behind earlier writes. Closing again
    /// is not an error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): protocol v1 can't close stdin.
    /// Let the program read a line, or a length first.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        ask(&self.0.actor, CloseStdin, "close stdin").await?
    }

    /// Returns how the process ended, or `None` while the client has not heard of its end. Does not
    /// wait and needs no executor.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): an actor of the sandbox is gone, so
    /// the end can't be known.
    pub fn try_wait(&self) -> Result<Option<ProcessEnd>, Error> {
        // Asked first: an actor that is gone has said before how the process ended, if it knew.
        let is_alive = self.0.actor.connected();
        match self.0.output.process_end() {
            None if !is_alive => Err(Error::actor_gone("ask for the end of the process")),
            end => Ok(end),
        }
    }

    /// Waits until the process has ended, and returns how. Any number of callers may wait, also
    /// after the end.
    ///
    /// Under protocol v2 that is the end of the main process. Its streams may continue while a
    /// background process holds them open. Under v1 it is the end of its output as well.
    ///
    /// It leaves stdin open: a program that reads its input to the end needs
    /// [`close_stdin`](Self::close_stdin) first. While a caller waits, output over the budget that
    /// has no reader is dropped, so that the process can end.
    ///
    /// **Cancel safety.** Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone). A lost sandbox is not an error: see
    /// [`ProcessEnd::SandboxLost`].
    pub async fn wait(&self) -> Result<ProcessEnd, Error> {
        if let Some(end) = self.0.output.process_end() {
            return Ok(end);
        }
        ask(&self.0.actor, Wait, "wait for the process").await?
    }

    /// Kills the process and its children. Resolves when the server confirms it, or at once if the
    /// process and its output ended before. Under protocol v2, it also kills a background process
    /// that still holds the output open. Any number of callers may ask. Under protocol v1, output
    /// beyond the budget is dropped from now on.
    ///
    /// # Errors
    ///
    /// Fails if:
    ///
    /// - the server could not kill it, or did not confirm within
    ///   [`kill_timeout`](crate::SandboxBuilder::kill_timeout);
    /// - the sandbox was lost;
    /// - the process ended, and the server stopped reading the output while a background process
    ///   held it open. That process may still run.
    pub async fn kill(&self) -> Result<(), Error> {
        ask(&self.0.actor, Kill, "kill the process").await?
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
