//! [`ProcessRef`]: a reference with which another program can resume a process.

use serde::{Deserialize, Serialize};

use super::{Process, Sandbox, ask};
use crate::{
    Error, SandboxId,
    actor::{AttachProcess, GetPlace, ProcessPlace},
    protocol::{ExecId, limits::MIN_WINDOW},
};

/// A reference to a process: its sandbox, its name, and the position up to which its output was
/// read.
///
/// [`Process::to_ref`] returns a reference, and [`Sandbox::attach_process`] takes one. A program
/// can store it or send it to another program, for example as JSON. The reference contains no
/// secret: to resume the process, a program must first attach to the sandbox with the sandbox's
/// token.
///
/// The reference also contains the window of the process: how many unacknowledged bytes of output
/// the server may send. The server keeps to this window, even if the program that resumes the
/// process has another budget in its own [`OutputPolicy`](crate::OutputPolicy).
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

    /// The id of the process, which is unique in its sandbox. The command `actix-sandbox` shows this
    /// id.
    pub fn exec_id(&self) -> &str {
        &self.exec
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
    /// Returns a reference with which another program can resume the process where this program
    /// stopped reading: see [`Sandbox::attach_process`].
    ///
    /// Call this method after the last read: if this program reads more output later, the other
    /// program doesn't get that output. After the call, no unread output is dropped, even during a
    /// [`wait`](Self::wait) and after the last handle is dropped. When unread output fills the
    /// budget, the process pauses until the other program reads.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1,
    ///   in which processes have no names.
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
    /// Resumes a process that another client started in this sandbox. The output continues at the
    /// position in the reference, which is where that client stopped reading.
    ///
    /// Only one client can be attached to a sandbox at a time, so the other client must drop its
    /// handles before this client can attach. This method doesn't wait for the server. If the
    /// server doesn't know the process, the method still returns a handle, and the process ends as
    /// [`ProcessEnd::SandboxLost`](crate::ProcessEnd::SandboxLost).
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
    /// // Store the id, the token and the reference, for example in a database.
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
