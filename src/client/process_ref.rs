//! [`ProcessRef`]: a process for another program to resume.

use serde::{Deserialize, Serialize};

use crate::{
    SandboxId,
    actor::ProcessPlace,
    protocol::{ExecId, limits::MIN_WINDOW},
};

/// The name of a process in a sandbox, and the position up to which its output was read.
///
/// It can be stored and sent, for example as JSON. It holds no secret: a program that resumes the
/// process needs the sandbox's token to attach to the sandbox first.
/// [`Process::to_ref`](crate::Process::to_ref) returns it, and
/// [`Sandbox::attach_process`](crate::Sandbox::attach_process) takes it.
///
/// It also holds the process's window: how many bytes of output the server sends before the client
/// acknowledges them. The program that resumes the process keeps to this window, whatever its own
/// [`OutputPolicy`](crate::OutputPolicy) is.
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

    /// The sandbox that the process is in.
    pub fn sandbox_id(&self) -> SandboxId {
        SandboxId::from(self.sandbox.clone())
    }

    /// How many bytes of stdout were read or dropped.
    pub fn stdout_offset(&self) -> u64 {
        self.stdout
    }

    /// How many bytes of stderr were read or dropped.
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
