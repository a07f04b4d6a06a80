//! [`ProcessRef`]: a process for another program to go on with.

use serde::{Deserialize, Serialize};

use crate::{
    SandboxId,
    actor::ProcessPlace,
    protocol::{ExecId, limits::MIN_WINDOW},
};

/// Names a process of a sandbox, and the place in its output up to which it was read.
///
/// It can be stored and sent, as JSON for example, and holds no secret: who goes on with the process attaches to the
/// sandbox first, with its token. Made by [`Process::to_ref`](crate::Process::to_ref), taken by
/// [`Sandbox::attach_process`](crate::Sandbox::attach_process).
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

    /// Bytes of stdout that were read.
    pub fn stdout_offset(&self) -> u64 {
        self.stdout
    }

    /// Bytes of stderr that were read.
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
