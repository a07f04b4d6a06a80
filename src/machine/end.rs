//! States and ends: [`SandboxState`], [`SandboxEnd`], [`ProcessEnd`].

use std::fmt;

use super::LinkError;
use crate::protocol::{BuiltinError, Status};

/// The state of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxState {
    /// The sandbox is being created.
    Creating,
    /// The client attaches to the sandbox, which may have to be restored.
    Attaching,
    /// The sandbox is ready for requests.
    Running,
    /// The link is lost, and the client dials again. The sandbox may still run.
    Reconnecting,
    /// The sandbox is being checkpointed. After that, the session ends.
    Checkpointing,
    /// The sandbox is being killed.
    Killing,
    /// The sandbox, or this client's session with it, has ended.
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

/// Why a sandbox, or this client's session with it, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxEnd {
    /// A client killed the sandbox, and the server confirmed the kill.
    Killed,
    /// The sandbox was checkpointed. Attach to it to resume it.
    Checkpointed,
    /// Another client took over the sandbox.
    HandedOff,
    /// The server deleted the sandbox, usually because it was idle for too long.
    Deleted,
    /// The sandbox reached the end of its lifetime, and the server deleted it:
    /// `SandboxBuilder::max_lifetime`.
    LifetimeEnded,
    /// The server doesn't support an option of the new sandbox, so the client didn't keep it.
    Unsupported {
        /// The name of the option.
        option: &'static str,
        /// Whether the sandbox is gone: the client never asked for it, or the server confirmed that
        /// it killed it. If not, the sandbox may live until its idle timeout.
        gone: bool,
    },
    /// Like [`Deleted`](Self::Deleted), but the server may have checkpointed the sandbox first: it
    /// was created with `checkpoint_when_idle`, or this client attached to it and doesn't know its
    /// options. Attach to it to find out.
    MaybeCheckpointed,
    /// The server reported an error that ends the session. After `SANDBOX_ERROR` and
    /// `SANDBOX_CHECKPOINT_ERROR`, the sandbox may still run. Attach to it to find out.
    Failed {
        /// The error status.
        status: Status,
        /// The server's own reason.
        reason: Option<String>,
    },
    /// The link was lost and could not be re-established. The sandbox may still run on the server.
    LinkLost {
        /// Why the link was lost, or why the last dial failed.
        cause: LinkError,
        /// The number of attempts to dial again.
        attempts: u32,
    },
    /// The server did not report in time that the sandbox runs.
    NotReady {
        /// The status that the client expected, and the timeout.
        waited: String,
    },
    /// The service speaks only v1, and the program of [the lift](crate::SandboxBuilder::lift) could
    /// not be started in the sandbox. The client kills a new sandbox, and leaves an existing one as
    /// it is.
    NotLifted {
        /// The reason of the service or of the program.
        reason: String,
    },
    /// The sandbox still exists, but the process doesn't, or can't be reached: for example, the
    /// sandbox moved to another server, or the lift's program ended. Only in
    /// [`ProcessEnd::SandboxLost`].
    ProcessLost {
        /// The reason of the server or of the lift's program.
        reason: Option<String>,
    },
    /// The client closed the connection, usually because every handle was dropped. The sandbox may
    /// still run on the server.
    Closed,
}

impl SandboxEnd {
    /// Whether the sandbox may still exist, so that attaching to it may succeed.
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

    /// Whether the server reported an error that ends the session and doesn't tell whether the
    /// sandbox still runs.
    fn is_session_failure(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                status: Status::SandboxError | Status::SandboxCheckpointError,
                ..
            }
        )
    }

    /// Whether the sandbox may still run, or may be restored by another client, because the server
    /// did not report that it is gone. In that case, a kill is not confirmed.
    pub(super) fn may_live(&self) -> bool {
        match self {
            Self::Killed | Self::Checkpointed | Self::Deleted | Self::LifetimeEnded => false,
            Self::Unsupported { gone, .. } => !gone,
            // With these two statuses, the server creates no sandbox or deletes it. Every other
            // fatal status only ends the session. `SANDBOX_NOT_FOUND` may hold for one instance of
            // the service only.
            Self::Failed { status, .. } => !matches!(
                status,
                Status::SandboxCreationError | Status::SandboxLockRenewalError
            ),
            Self::HandedOff
            | Self::MaybeCheckpointed
            | Self::LinkLost { .. }
            | Self::NotReady { .. }
            | Self::NotLifted { .. }
            | Self::ProcessLost { .. }
            | Self::Closed => true,
        }
    }

    /// Whether this client has nothing left to kill, because the sandbox is gone, is checkpointed,
    /// or belongs to another client. A later kill succeeds at once.
    pub(super) fn leaves_nothing_to_kill(&self) -> bool {
        !self.may_live() || matches!(self, Self::HandedOff | Self::MaybeCheckpointed)
    }
}

impl fmt::Display for SandboxEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => f.write_str("it was killed"),
            Self::Checkpointed => f.write_str("it was checkpointed; attach to it to resume it"),
            Self::HandedOff => f.write_str("another client took it over"),
            Self::Deleted => f.write_str(
                "the server deleted it (it was idle for too long, or the server was stopped)",
            ),
            Self::LifetimeEnded => f.write_str(
                "it reached the end of its lifetime (`max_lifetime`), and the server deleted it",
            ),
            Self::Unsupported { option, gone } => {
                write!(
                    f,
                    "the server does not support the option `{option}`: leave it out, or use a \
                     server of this crate that does"
                )?;
                match gone {
                    true => Ok(()),
                    false => f.write_str(
                        "; the kill of the new sandbox was not confirmed, so it may live until its \
                         idle timeout",
                    ),
                }
            }
            Self::MaybeCheckpointed => f.write_str(
                "the server deleted it (it was idle for too long, or the server was stopped); if it \
                 was created with `enable_idle_timeout_auto_checkpoint`, attach to it to restore it",
            ),
            Self::Failed { status, reason } => match (reason, status) {
                (Some(reason), _) => write!(f, "{}: {reason}", status.as_str()),
                // The server sends no reason with these statuses.
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
            Self::LinkLost { cause, attempts: 0 } => write!(f, "the connection was lost: {cause}"),
            Self::LinkLost { cause, attempts } => {
                write!(
                    f,
                    "the connection was lost, and {attempts} attempts to reconnect failed: {cause}"
                )
            }
            Self::NotReady { waited } => write!(f, "the sandbox did not get ready: {waited}"),
            Self::NotLifted { reason } => write!(f, "{reason}"),
            Self::ProcessLost { reason } => {
                f.write_str("the process is no longer reachable")?;
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
/// Neither a non-zero exit code nor a lost sandbox is an [`Error`](std::error::Error).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessEnd {
    /// The process exited with this code. Never reported under protocol v1.
    Exited(i32),
    /// A signal with this number ended the process. Never reported under protocol v1.
    Signaled(i32),
    /// A builtin ended, with its result (a JSON object) or its error. There is no exit code.
    Completed(Result<String, Box<BuiltinError>>),
    /// A client or the server killed the process, or the process was killed with its sandbox.
    Killed,
    /// The process exceeded its time limit, and the server killed it. Never reported under protocol
    /// v1.
    TimedOut,
    /// The sandbox was lost while the process ran. Whether and how the process ended is unknown.
    SandboxLost {
        /// Why the sandbox, or the process in it, was lost.
        end: SandboxEnd,
    },
    /// The process ended, but the server did not report how. Under protocol v1, every process ends
    /// like this, unless it was killed. On a service that speaks only v1, use
    /// [`SandboxBuilder::lift`](crate::SandboxBuilder::lift).
    Unknown,
}

impl ProcessEnd {
    /// Whether the process is known to have ended. `false` if the sandbox was lost.
    pub fn is_confirmed(&self) -> bool {
        !matches!(self, Self::SandboxLost { .. })
    }

    /// Whether the process exited with code 0, or the builtin succeeded. `false` for
    /// [`Unknown`](Self::Unknown).
    pub fn success(&self) -> bool {
        matches!(self, Self::Exited(0) | Self::Completed(Ok(_)))
    }

    /// The exit code. `None` if the process did not exit by itself, or if the server did not report
    /// how it ended.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(*code),
            _ => None,
        }
    }

    /// The number of the signal that ended the process. `None` for [`Killed`](Self::Killed) and
    /// [`TimedOut`](Self::TimedOut), if the process exited, or if the server did not report how it
    /// ended.
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
            Self::Completed(Ok(_)) => f.write_str("completed"),
            Self::Completed(Err(error)) => write!(f, "failed: {error}"),
            Self::Killed => f.write_str("killed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::SandboxLost { end } => write!(f, "sandbox lost: {end}"),
            Self::Unknown => f.write_str("ended (protocol v1 does not tell the exit code)"),
        }
    }
}
