//! [`Process`]: the handle of one exec.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix::Addr;
use bytes::Bytes;

use super::{Sandbox, ask};
use crate::{
    Error, MergedOutput, OutputStream, ProcessActor, ProcessEnd, ProcessId, ProcessOutput,
    actor::{CloseStdin, FlushStdin, Kill, StartedProcess, Wait, WriteStdin},
    machine::Failure,
    protocol::ExecId,
};

/// A process in a sandbox.
///
/// A handle is cheap to clone and can be sent to any thread. Its output streams can be read
/// concurrently, one after the other, or not at all. [`OutputPolicy`](crate::OutputPolicy) decides
/// what happens to unread output.
///
/// **Dropping** the last handle doesn't kill the process, unless
/// [`kill_on_drop`](crate::Command::kill_on_drop) was set. Output streams and
/// [`stdin`](Self::stdin) count as handles. Without a handle, the process continues and its output
/// is dropped. Under protocol v1, the sandbox then runs nothing else until the process ends.
///
/// **Background processes** that the code leaves behind continue after its end, at most until the
/// sandbox ends. Their output is delivered until a [grace period](crate::Command::output_grace) is
/// over.
///
/// # Cancel safety
///
/// Every future of this type can be dropped. A request that was already sent still takes effect,
/// but its result is lost. [`write_to_stdin`](Self::write_to_stdin) is an exception.
///
/// # Examples
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
    /// Keeps the sandbox's connection open.
    sandbox: Sandbox,
    process: ProcessId,
    /// The id of the exec (v2).
    exec: Option<ExecId>,
    actor: Addr<ProcessActor>,
    output: ProcessOutput,
    kill_on_drop: AtomicBool,
}

impl Process {
    pub(super) fn new(sandbox: Sandbox, started: StartedProcess, kill_on_drop: bool) -> Self {
        let StartedProcess {
            process,
            exec,
            actor,
            output,
        } = started;
        Self(Arc::new(Inner {
            sandbox,
            process,
            exec,
            actor,
            output,
            kill_on_drop: AtomicBool::new(kill_on_drop),
        }))
    }

    /// Dropping the last handle doesn't kill the process any more.
    pub(super) fn leave_on_drop(&self) {
        self.0.kill_on_drop.store(false, Ordering::Relaxed);
    }

    /// The number of the process. The client counts the processes of a sandbox from 1.
    pub fn id(&self) -> ProcessId {
        self.0.process
    }

    /// Returns a reader of stdout. It starts with the output that has not been read. If there are
    /// several readers, each byte goes to one of them.
    pub fn stdout(&self) -> OutputStream {
        self.0.output.stdout().keeping(self.clone())
    }

    /// Returns a reader of stderr. Otherwise like [`stdout`](Self::stdout).
    pub fn stderr(&self) -> OutputStream {
        self.0.output.stderr().keeping(self.clone())
    }

    /// Returns a reader of stdout and stderr together, in the order in which the output arrived at
    /// the client. Streams from [`stdout`](Self::stdout) and [`stderr`](Self::stderr) may read at
    /// the same time: each byte goes to one reader.
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

    /// The number of unread bytes of stdout and stderr together that the client buffers now.
    pub fn buffered_output(&self) -> usize {
        self.0.output.buffered()
    }

    pub(super) fn discard_output(&self) {
        self.0.output.discard();
    }

    /// Whether the output was cut off: see [`OutputStream::is_cut`].
    pub fn is_output_cut(&self) -> bool {
        self.0.output.is_cut()
    }

    /// Sends bytes to stdin, after all earlier writes. Resolves when the bytes are accepted into
    /// the [budget](crate::SandboxBuilder::stdin_budget). A write waits while the budget is full. A
    /// write that is larger than the budget is accepted when the budget is empty.
    /// [`flush_stdin`](Self::flush_stdin) waits until everything is sent.
    ///
    /// Under protocol v2, every byte arrives once and in order, even if the connection is lost in
    /// between.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded): the process ended before or
    ///   during the write.
    /// - [`ErrorKind::StdinClosed`](crate::ErrorKind::StdinClosed): the process, or
    ///   [`close_stdin`](Self::close_stdin), has closed stdin.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the bytes are not valid UTF-8,
    ///   and protocol v1 carries nothing else.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped while it waits for the budget, the bytes may or
    /// may not be sent. A [`stdin`](Self::stdin) handle doesn't have this problem.
    #[doc(alias = "send_stdin")]
    pub async fn write_to_stdin(&self, data: impl Into<Bytes>) -> Result<(), Error> {
        ask(&self.0.actor, WriteStdin(data.into()), "write to stdin").await?
    }

    /// Resolves when everything that was accepted before is written: under protocol v2 to the pipe
    /// of the process, under v1 to the connection. The program may read it later.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded): the process ended before.
    /// - [`ErrorKind::StdinClosed`](crate::ErrorKind::StdinClosed): the process closed its stdin
    ///   before.
    pub async fn flush_stdin(&self) -> Result<(), Error> {
        ask(&self.0.actor, FlushStdin, "flush stdin").await?
    }

    /// Closes stdin after all earlier writes, so that the program reads the end of its input.
    /// Resolves when the request is accepted, which happens after all earlier writes are accepted.
    /// Closing stdin again, or after the end of the process, is not an error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): protocol v1 can't close stdin.
    /// There, let the program read up to a line end or a length that it reads first.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        ask(&self.0.actor, CloseStdin, "close stdin").await?
    }

    /// Returns how the process ended, or `None` if the client doesn't know of its end. Doesn't wait
    /// and needs no executor.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): an actor of the sandbox is gone, so
    /// the end can't be known.
    pub fn try_wait(&self) -> Result<Option<ProcessEnd>, Error> {
        // This check comes first: an actor publishes the end of the process, if it knows it, before
        // it stops.
        let is_alive = self.0.actor.connected();
        match self.0.output.process_end() {
            None if !is_alive => Err(Error::actor_gone("ask for the end of the process")),
            end => Ok(end),
        }
    }

    /// Waits until the process has ended, and returns how it ended. Any number of callers may wait,
    /// even after the end.
    ///
    /// Under protocol v2, this is the end of the main process; the output streams may continue
    /// while a background process holds them open. Under v1, the process and its output end
    /// together.
    ///
    /// This method leaves stdin open: a program that reads its input to the end needs
    /// [`close_stdin`](Self::close_stdin) first. While a caller waits, unread output beyond the
    /// budget is dropped from streams without a reader, so that the process can end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call returns the same end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): an actor of the sandbox is gone. A
    /// lost sandbox is not an error: see [`ProcessEnd::SandboxLost`].
    pub async fn wait(&self) -> Result<ProcessEnd, Error> {
        if let Some(end) = self.0.output.process_end() {
            return Ok(end);
        }
        ask(&self.0.actor, Wait, "wait for the process").await?
    }

    /// Kills the process and its children. Resolves when the server confirms the kill, or at once
    /// if the process and its output have ended. Any number of callers may ask.
    ///
    /// Under protocol v2, this also kills background processes that hold the output open. Under v1,
    /// unread output beyond the budget is dropped from now on.
    ///
    /// # Errors
    ///
    /// Fails if:
    ///
    /// - the server can't kill the process, or doesn't confirm within
    ///   [`kill_timeout`](crate::SandboxBuilder::kill_timeout) (then the kill may still take
    ///   effect);
    /// - the sandbox is lost;
    /// - the process has ended, and the server stopped reading the output while a background
    ///   process held it open. The background process may still run.
    pub async fn kill(&self) -> Result<(), Error> {
        ask(&self.0.actor, Kill, "kill the process").await?
    }

    /// The id of the exec, for a request about it. `what` is the request.
    pub(super) fn exec_id(&self, what: &'static str) -> Result<ExecId, Error> {
        let exec = self.0.exec.clone();
        exec.ok_or_else(|| Failure::unnamed(what).into())
    }

    /// The sandbox that the process runs in.
    pub fn sandbox(&self) -> &Sandbox {
        &self.0.sandbox
    }

    /// The address of the actor behind this handle, for programs that use actors.
    pub fn addr(&self) -> &Addr<ProcessActor> {
        &self.0.actor
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.kill_on_drop.get_mut() {
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
