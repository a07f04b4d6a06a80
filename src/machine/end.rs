//! States and ends: [`SandboxState`], [`SandboxEnd`], [`ProcessEnd`].

use std::fmt;

use super::LinkError;
use crate::protocol::Status;

/// The state of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxState {
    /// It is being created.
    Creating,
    /// It is being attached to, or restored.
    Attaching,
    /// It is ready.
    Running,
    /// The link is lost and is being dialled again. The sandbox may still run.
    Reconnecting,
    /// It is being checkpointed. Then the server ends it.
    Checkpointing,
    /// It is being killed.
    Killing,
    /// It has ended.
    Ended(SandboxEnd),
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creating => f.write_str("being created"),
            Self::Attaching => f.write_str("being attached"),
            Self::Running => f.write_str("running"),
            Self::Reconnecting => f.write_str("reconnecting"),
            Self::Checkpointing => f.write_str("being checkpointed"),
            Self::Killing => f.write_str("being killed"),
            Self::Ended(end) => write!(f, "over: {end}"),
        }
    }
}

/// Why a sandbox is over for this client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxEnd {
    /// It was killed, and the server confirmed it.
    Killed,
    /// It was checkpointed; attach to it to go on.
    Checkpointed,
    /// Another client took it over.
    HandedOff,
    /// The server deleted it, usually because it was idle too long.
    Deleted,
    /// As [`Deleted`](Self::Deleted), but the server may have checkpointed it first: the sandbox
    /// was created with `enable_idle_timeout_auto_checkpoint`, or it was attached to and its
    /// options are not known. Attach to it to find out.
    MaybeCheckpointed,
    /// The server reported an error that ends the session. After `SANDBOX_ERROR` and
    /// `SANDBOX_CHECKPOINT_ERROR` the sandbox may live on; attach to it to find out.
    Failed {
        /// The status.
        status: Status,
        /// The server's own reason.
        reason: Option<String>,
    },
    /// The link was lost and not got back. The sandbox itself may still live on the server.
    LinkLost {
        /// What happened last.
        cause: LinkError,
        /// Attempts that were made to get the link back.
        attempts: u32,
    },
    /// The server didn't report the sandbox as ready in time.
    NotReady {
        /// What was waited for, and how long.
        waited: String,
    },
    /// The sandbox lives, but a process in it ended with the sandbox's life on another server, or
    /// was forgotten (protocol v2). Only processes end by this.
    ProcessLost {
        /// The server's own reason.
        reason: Option<String>,
    },
    /// Every handle was dropped, or the sandbox was closed. It may still live on the server.
    Closed,
}

impl SandboxEnd {
    /// Whether a later attach may find the sandbox again.
    pub fn is_reattachable(&self) -> bool {
        matches!(
            self,
            Self::Checkpointed
                | Self::MaybeCheckpointed
                | Self::HandedOff
                | Self::LinkLost { .. }
                | Self::ProcessLost { .. }
                | Self::Closed
        ) || self.is_session_failure()
    }

    /// Whether the server reported an error that ends the session and says nothing of the sandbox.
    fn is_session_failure(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                status: Status::SandboxError | Status::SandboxCheckpointError,
                ..
            }
        )
    }

    /// Whether the sandbox may still run, or may be restored without this client's doing: the
    /// server did not say that it is gone. A kill is no success then.
    pub(super) fn may_live(&self) -> bool {
        match self {
            Self::Killed | Self::Checkpointed | Self::Deleted => false,
            // The server creates nothing, or deletes the sandbox. Another fatal error ends the
            // session alone; `SANDBOX_NOT_FOUND` speaks for one instance of the service.
            Self::Failed { status, .. } => !matches!(
                status,
                Status::SandboxCreationError | Status::SandboxLockRenewalError
            ),
            Self::HandedOff
            | Self::MaybeCheckpointed
            | Self::LinkLost { .. }
            | Self::NotReady { .. }
            | Self::ProcessLost { .. }
            | Self::Closed => true,
        }
    }

    /// Whether the server said that this client has nothing left to kill: the sandbox is gone, is
    /// stored, or belongs to another client now. A kill asked for after that succeeds.
    pub(super) fn leaves_nothing_to_kill(&self) -> bool {
        !self.may_live() || matches!(self, Self::HandedOff | Self::MaybeCheckpointed)
    }
}

impl fmt::Display for SandboxEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => f.write_str("it was killed"),
            Self::Checkpointed => f.write_str("it was checkpointed; attach to it to go on"),
            Self::HandedOff => f.write_str("another client took it over"),
            Self::Deleted => f.write_str(
                "the server deleted it (it was idle too long, or the server was stopped)",
            ),
            Self::MaybeCheckpointed => f.write_str(
                "the server deleted it (it was idle too long, or the server was stopped); if it was \
                 created with `enable_idle_timeout_auto_checkpoint`, attach to it to restore it",
            ),
            Self::Failed { status, reason } => match (reason, status) {
                (Some(reason), _) => write!(f, "{}: {reason}", status.as_str()),
                // What the server sends no reason with.
                (None, Status::SandboxNotFound) => f.write_str(
                    "no sandbox has this id (SANDBOX_NOT_FOUND): it was killed or deleted, \
                     or the id is of another service",
                ),
                (None, Status::SandboxInUse) => f.write_str(
                    "another client is attached (SANDBOX_IN_USE): wait until it is gone, \
                     or close its connection; a server may take seconds to notice a lost one",
                ),
                (None, _) => f.write_str(status.as_str()),
            },
            Self::LinkLost { cause, attempts: 0 } => write!(f, "the link was lost: {cause}"),
            Self::LinkLost { cause, attempts } => {
                write!(
                    f,
                    "the link was lost and not got back in {attempts} attempts: {cause}"
                )
            }
            Self::NotReady { waited } => write!(f, "the server did not get ready: {waited}"),
            Self::ProcessLost { reason } => {
                f.write_str("the process did not outlive a move of the sandbox")?;
                match reason {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            Self::Closed => f.write_str("it was closed by its last handle"),
        }
    }
}

/// How a process ended.
///
/// A non-zero exit code is not an [`Error`](std::error::Error), and neither is a lost sandbox: then
/// it is unknown whether and how the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessEnd {
    /// It exited with this code. Protocol v1 reports it only with
    /// `Command::wrap_for_v1`.
    Exited(i32),
    /// This signal ended it. Protocol v1 reports it only with `Command::wrap_for_v1`.
    Signaled(i32),
    /// It was killed: this client or the server asked for a kill while it ran, and the server
    /// confirmed its end.
    Killed,
    /// It exceeded its time limit and was killed. Protocol v1 never reports it.
    TimedOut,
    /// The sandbox was lost while the process ran. Whether and how the process ended is unknown.
    SandboxLost {
        /// Why the sandbox is over.
        end: SandboxEnd,
    },
    /// The server said that it ended, but not how. Protocol v1 says no more, except with
    /// `Command::wrap_for_v1`.
    Unknown,
}

impl ProcessEnd {
    /// Whether the server said that the process ended. `false` if the sandbox was lost.
    pub fn is_confirmed(&self) -> bool {
        !matches!(self, Self::SandboxLost { .. })
    }

    /// Whether the process exited with code 0. `false` for [`Unknown`](Self::Unknown).
    pub fn success(&self) -> bool {
        matches!(self, Self::Exited(0))
    }

    /// The exit code. `None` if the process did not exit by itself, or the server did not say.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(*code),
            _ => None,
        }
    }

    /// The signal that ended the process, if it was not [`Killed`](Self::Killed) or
    /// [`TimedOut`](Self::TimedOut) by the server. `None` if the server did not say.
    pub fn signal(&self) -> Option<i32> {
        match self {
            Self::Signaled(signal) => Some(*signal),
            _ => None,
        }
    }
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled(signal) => write!(f, "ended by signal {signal}"),
            Self::Killed => f.write_str("killed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::SandboxLost { end } => write!(f, "sandbox lost: {end}"),
            Self::Unknown => f.write_str("ended (protocol v1 does not tell the exit code)"),
        }
    }
}
