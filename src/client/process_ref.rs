//! [`ProcessRef`]: the name of a process that another program can resume.

use serde::{Deserialize, Serialize};

use super::{Process, Sandbox, ask};
use crate::{
    Error, SandboxId,
    actor::{AttachProcess, GetPlace, ProcessPlace},
    protocol::{ExecId, limits::MIN_WINDOW},
};

/// The name of a process in a sandbox, and the position up to which its output was read.
///
/// [`Process::to_ref`] returns it, and [`Sandbox::attach_process`] takes it. It can be stored and
/// sent, for example as JSON. It holds no secret: a program that resumes the process must first
/// attach to the sandbox with the sandbox's token.
///
/// It also holds the window of the process: how many unacknowledged bytes of output the server may
/// send. The program that resumes the process uses this window, not the budget of its own
/// [`OutputPolicy`](crate::OutputPolicy).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    sandbox: String,
    exec: String,
    stdout: u64,
    stderr: u64,
    window: u64,
}

impl ProcessRef {
    pub(super) fn new(sandbox: &SandboxId, place: ProcessPlace) -> Self {
        let [stdout, stderr] = place.offsets;
        Self {
            sandbox: sandbox.as_str().to_owned(),
            exec: place.exec.as_str().to_owned(),
            stdout,
            stderr,
            window: place.window,
        }
    }

    /// The id of the sandbox in which the process runs.
    pub fn sandbox_id(&self) -> SandboxId {
        SandboxId::from(self.sandbox.clone())
    }

    /// The offset in stdout at which reading resumes: the number of bytes that were read or
    /// dropped.
    pub fn stdout_offset(&self) -> u64 {
        self.stdout
    }

    /// The offset in stderr at which reading resumes: the number of bytes that were read or
    /// dropped.
    pub fn stderr_offset(&self) -> u64 {
        self.stderr
    }

    pub(super) fn place(&self) -> ProcessPlace {
        ProcessPlace {
            exec: ExecId::new(self.exec.clone()),
            offsets: [self.stdout, self.stderr],
            window: self.window.max(MIN_WINDOW),
        }
    }
}

impl Process {
    /// Returns the name of the process and the position up to which its output was read, so that
    /// another program can resume it: see [`Sandbox::attach_process`].
    ///
    /// Call it after the last read: the other program doesn't get output that this program reads
    /// later. After the call, unread output is kept even during a [`wait`](Self::wait) and after
    /// the last handle is dropped. When unread output fills the budget, the process pauses until
    /// the other program reads.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): under protocol v1 processes
    ///   have no names.
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): the process's
    ///   [`OutputPolicy`](crate::OutputPolicy) is not [`Overflow::Pause`](crate::Overflow::Pause).
    ///   Under the other policies, the client takes all output from the server at once, so none is
    ///   left for the other program.
    /// - [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): an actor of the sandbox is gone.
    pub async fn to_ref(&self) -> Result<ProcessRef, Error> {
        let place = ask(self.addr(), GetPlace, "name the process").await??;
        Ok(ProcessRef::new(self.sandbox().sandbox_id(), place))
    }
}

impl Sandbox {
    /// Resumes a process that another client started in this sandbox. Its output continues where
    /// that client stopped reading.
    ///
    /// The other client must have detached first, because only one client can be attached at a
    /// time. The call doesn't ask the server: a process that the server doesn't know is returned,
    /// too, and ends as [`ProcessEnd::SandboxLost`](crate::ProcessEnd::SandboxLost).
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// use actix_sandbox::{Language, LocalServer, ProcessRef, Sandbox};
    ///
    /// let server = LocalServer::start().await?;
    /// let sandbox = Sandbox::create(server.url()).await?;
    /// let process = sandbox.exec(Language::Bash, "read x; echo got $x").await?;
    /// // Store these three, for example in a database.
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
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): the reference belongs to
    ///   another sandbox.
    /// - [`ErrorKind::WrongState`](crate::ErrorKind::WrongState): the sandbox is neither running
    ///   nor reconnecting, or this client already has a handle to the process.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1.
    /// - [`ErrorKind::ActorGone`](crate::ErrorKind::ActorGone): the sandbox's actor is gone.
    pub async fn attach_process(&self, process: &ProcessRef) -> Result<Process, Error> {
        if process.sandbox_id() != *self.sandbox_id() {
            let problem = format!(
                "belongs to the sandbox {}; this sandbox is {}",
                process.sandbox_id(),
                self.sandbox_id()
            );
            return Err(Error::option("process", problem));
        }
        let place = process.place();
        let started = ask(
            self.addr(),
            AttachProcess { place },
            "attach to the process",
        )
        .await??;
        Ok(Process::new(self.clone(), started, false))
    }
}
