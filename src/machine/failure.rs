//! [`Failure`]: why a request failed, and whether it took effect.

use std::time::Duration;

use super::{SandboxEnd, SandboxState};
use crate::protocol::Status;

/// Whether a failed request took effect on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// The request did not take effect: the server refused it, or the client never sent it.
    NotApplied,
    /// The request took effect, although the call returned an error. For example, the code ran, but
    /// its output was lost or its exit code was not 0.
    Applied,
    /// The client can't know: it sent the request and got no answer, or may still send it.
    Unknown,
}

/// Why a request failed. `what` names the request, as in "cannot {what}".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The sandbox could not be created or attached to.
    #[error("cannot open the sandbox: {}", match end { SandboxEnd::LinkLost { cause, .. } => cause as &dyn std::fmt::Display, end => end })]
    NotOpened {
        /// Why opening failed.
        end: SandboxEnd,
    },
    /// The state of the sandbox doesn't allow the request.
    #[error("cannot {what}: the sandbox is {state}")]
    WrongState {
        /// The request.
        what: &'static str,
        /// The state of the sandbox.
        state: SandboxState,
    },
    /// Another process runs, and protocol v1 allows only one at a time.
    #[error("cannot {what}: a process is running in the sandbox; wait for it or kill it first")]
    ProcessRunning {
        /// The request.
        what: &'static str,
    },
    /// The server speaks protocol v1, which can't express the request.
    #[error(
        "cannot {what}: the server speaks protocol v1, which has no {feature}; see `SandboxBuilder::lift`"
    )]
    Unsupported {
        /// The request.
        what: &'static str,
        /// The feature that v1 lacks.
        feature: &'static str,
    },
    /// The server speaks protocol v2, but doesn't support a feature that the request needs. The
    /// client has sent nothing.
    #[error("cannot {what}: the server does not offer the feature `{feature}`; use a newer server")]
    NotOffered {
        /// The request.
        what: &'static str,
        /// The name of the feature on the wire.
        feature: &'static str,
    },
    /// The sandbox was created without the option that the request needs. Nothing was sent.
    #[error(
        "cannot {what}: the sandbox was created without `.checkpoint(true)` (`{option}`); turn that on \
         when it is created"
    )]
    NotEnabled {
        /// The request.
        what: &'static str,
        /// The name of the option.
        option: &'static str,
    },
    /// The process, or this client, has closed its stdin.
    #[error("cannot {what}: stdin is closed")]
    StdinClosed {
        /// The request.
        what: &'static str,
    },
    /// The process has ended.
    #[error("cannot {what}: the process has ended")]
    ProcessEnded {
        /// The request.
        what: &'static str,
    },
    /// The same request is already in progress.
    #[error("cannot {what}: the same request is already in progress")]
    AlreadyUnderWay {
        /// The request.
        what: &'static str,
    },
    /// The server refused the request.
    #[error("cannot {what}: {}{status}", reason.as_ref().map(|reason| format!("{reason} ")).unwrap_or_default(), status = Parenthesised(status, reason.is_some()))]
    Refused {
        /// The request.
        what: &'static str,
        /// The error status of the server.
        status: Status,
        /// The reason in the server's words.
        reason: Option<String>,
    },
    /// The server did not answer in time.
    #[error("cannot confirm {what}: the server did not answer within {after:?}")]
    Timeout {
        /// The request.
        what: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The sandbox ended, or was lost, before the answer.
    #[error("cannot {what}: the sandbox {end}", end = Ended(end))]
    SandboxEnded {
        /// The request.
        what: &'static str,
        /// Why the sandbox ended.
        end: SandboxEnd,
        /// Whether the request had been sent.
        effect: Effect,
    },
    /// The link was lost before the answer. The client may still reconnect to the sandbox.
    #[error("cannot {what}: the connection was lost before the server answered")]
    LinkLost {
        /// The request.
        what: &'static str,
        /// Whether the request had been sent.
        effect: Effect,
    },
    /// The process has ended, but a background process held its output when the server stopped
    /// reading.
    #[error(
        "cannot {what}: it ended, but a background process held its output open and may still \
         run; kill the sandbox to end it"
    )]
    OutputHeld {
        /// The request.
        what: &'static str,
        /// Whether the request had been sent.
        effect: Effect,
    },
    /// The actor of the process is gone.
    #[error(
        "cannot {what}: the actor of the process is gone: it panicked, or its System was stopped"
    )]
    ActorGone {
        /// The request.
        what: &'static str,
    },
    /// The caller cancelled the request.
    #[error("cannot {what}: it was cancelled")]
    Cancelled {
        /// The request.
        what: &'static str,
    },
}

impl Failure {
    /// The request needs a process with a name, which protocol v1 doesn't have.
    pub(crate) fn unnamed(what: &'static str) -> Self {
        let feature = "named processes";
        Self::Unsupported { what, feature }
    }

    pub(super) fn not_offered(what: &'static str, feature: &'static str) -> Self {
        Self::NotOffered { what, feature }
    }

    pub(super) fn refused(what: &'static str, status: Status, reason: Option<String>) -> Self {
        Self::Refused {
            what,
            status,
            reason,
        }
    }

    pub(super) fn ended(what: &'static str, end: &SandboxEnd, effect: Effect) -> Self {
        let end = end.clone();
        Self::SandboxEnded { what, end, effect }
    }

    pub(super) fn link_lost(what: &'static str, effect: Effect) -> Self {
        Self::LinkLost { what, effect }
    }

    pub(super) fn timeout(what: &'static str, after: Duration) -> Self {
        Self::Timeout { what, after }
    }

    /// Whether the request took effect on the server.
    pub fn effect(&self) -> Effect {
        match self {
            Self::NotOpened {
                end:
                    SandboxEnd::Failed { .. }
                    | SandboxEnd::LifetimeEnded
                    | SandboxEnd::Unsupported { gone: true, .. },
            } => Effect::NotApplied,
            Self::NotOpened {
                end: SandboxEnd::LinkLost { cause, .. },
            } if cause.is_dial_failure() => Effect::NotApplied,
            Self::WrongState { .. }
            | Self::ProcessRunning { .. }
            | Self::ProcessEnded { .. }
            | Self::Unsupported { .. }
            | Self::NotOffered { .. }
            | Self::NotEnabled { .. }
            | Self::StdinClosed { .. }
            | Self::AlreadyUnderWay { .. }
            | Self::Refused { .. } => Effect::NotApplied,
            Self::NotOpened { .. }
            | Self::Timeout { .. }
            | Self::ActorGone { .. }
            | Self::Cancelled { .. } => Effect::Unknown,
            Self::SandboxEnded { effect, .. }
            | Self::LinkLost { effect, .. }
            | Self::OutputHeld { effect, .. } => *effect,
        }
    }
}

struct Parenthesised<'a>(&'a Status, bool);

impl std::fmt::Display for Parenthesised<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.1 {
            write!(f, "({})", self.0)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

struct Ended<'a>(&'a SandboxEnd);

impl std::fmt::Display for Ended<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            end @ SandboxEnd::Failed { .. } if end.may_live() => write!(
                f,
                "is over for this client: {end}; it may still run: attach to it to find out"
            ),
            end => write!(f, "has ended: {end}"),
        }
    }
}
