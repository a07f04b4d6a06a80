//! [`Process`]: the handle of one exec.

use std::{fmt, sync::Arc};

use actix::Addr;
use bytes::Bytes;

use super::{ProcessRef, Sandbox};
use crate::{
    Error, OutputStream, ProcessActor, ProcessEnd, ProcessId, ProcessOutput,
    actor::{CloseStdin, FlushStdin, GetPlace, Kill, StartedProcess, Wait, WriteStdin},
};

/// A process in a sandbox.
///
/// A handle is cheap to clone and can be sent anywhere. Its streams can be read both at once, one
/// after the other, or not at all: see [`OutputPolicy`](crate::OutputPolicy) for what happens to output that nobody reads.
///
/// **Dropping** the last handle (a stream is one, too) does not kill the process, unless
/// [`kill_on_drop`](crate::ExecBuilder::kill_on_drop) was set. It runs on, its output is dropped, and under
/// protocol v1 the sandbox runs nothing else until it ends.
///
/// Processes that the code leaves in the background live on after its end, and die with the
/// sandbox. What they print to its stdout and stderr is delivered for a
/// [grace](crate::Command::output_grace).
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

    /// Whether output was cut off: see [`OutputStream::is_cut`].
    pub fn is_output_cut(&self) -> bool {
        self.0.output.is_cut()
    }

    /// Sends bytes to stdin, after all bytes before them. Resolves when they are accepted into the
    /// stdin budget; [`flush_stdin`](Self::flush_stdin) tells when they were taken.
    ///
    /// Under protocol v2 every byte arrives once, in order, whatever happens to the connection. Protocol v1 carries
    /// UTF-8 only.
    ///
    /// # Errors
    ///
    /// The process has ended, before or while the write waited; it, or
    /// [`close_stdin`](Self::close_stdin), has closed its stdin.
    ///
    /// Dropped while it waits for the budget, the bytes may be sent or not.
    pub async fn write_to_stdin(&self, data: impl AsRef<[u8]>) -> Result<(), Error> {
        let data = Bytes::copy_from_slice(data.as_ref());
        self.0
            .actor
            .send(WriteStdin(data))
            .await
            .map_err(Error::mailbox("write to stdin"))?
    }

    /// Resolves when everything accepted so far was taken: under protocol v2 by the pipe of the process, under v1 by the
    /// connection. Whether the program read it, nobody knows.
    ///
    /// # Errors
    ///
    /// The process ended before, or closed its stdin.
    pub async fn flush_stdin(&self) -> Result<(), Error> {
        self.0
            .actor
            .send(FlushStdin)
            .await
            .map_err(Error::mailbox("flush stdin"))?
    }

    /// Closes stdin after everything that was written before, so that a program that reads to the end of its
    /// input goes on. Any number may ask. Resolves when the end is accepted behind what waits for the budget.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): protocol v1 cannot close stdin. Let the program read
    /// a line, or a length first.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.0
            .actor
            .send(CloseStdin)
            .await
            .map_err(Error::mailbox("close stdin"))?
    }

    /// Names the process and the place up to which its output was read, so that another program can go on with it:
    /// see [`Sandbox::attach_process`].
    ///
    /// Take it when this program is done reading: of what is read here later, the other program gets what it is still
    /// told, and no more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): under protocol v1 processes have no names.
    pub async fn to_ref(&self) -> Result<ProcessRef, Error> {
        let place = self
            .0
            .actor
            .send(GetPlace)
            .await
            .map_err(Error::mailbox("name the process"))??;
        Ok(ProcessRef::new(self.sandbox().sandbox_id(), place))
    }

    /// Resolves when the process has ended, with how. Any number may wait, before and after.
    ///
    /// Under protocol v2 that is the end of the main process: its streams may go on, while another
    /// process in the background holds them. Under v1 it is the end of its output as well.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone). A lost sandbox is no error but
    /// [`ProcessEnd::SandboxLost`].
    pub async fn wait(&self) -> Result<ProcessEnd, Error> {
        if let Some(end) = self.0.output.process_end() {
            return Ok(end);
        }
        self.0
            .actor
            .send(Wait)
            .await
            .map_err(Error::mailbox("wait for the process"))?
    }

    /// Kills the process and its children. Resolves when the server confirmed that; at once if the
    /// process and its output ended before. Under protocol v2, it also kills a background process
    /// that still holds the output. Any number may ask. Under protocol v1, output beyond the budget
    /// is dropped from now on.
    ///
    /// # Errors
    ///
    /// The server could not kill it, or did not confirm within
    /// [`kill_timeout`](crate::SandboxBuilder::kill_timeout); the sandbox was lost; the process
    /// ended, and the server stopped reading the output while a background process held it (that
    /// process may still run).
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
