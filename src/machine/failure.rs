//! [`Failure`]: why a request was not granted, and what is known of its effect.

use std::time::Duration;

use super::{SandboxEnd, SandboxState};
use crate::protocol::Status;

/// What is known of the effect of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// It did not take effect: it was refused, or never left.
    NotApplied,
    /// It took effect, though the answer is an error: the code ran, and its output was lost, or
    /// its exit code was not 0.
    Applied,
    /// It was sent and no answer came, or it may still be sent.
    Unknown,
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The sandbox could not be created or attached to.
    #[error("cannot open the sandbox: {}", match end { SandboxEnd::LinkLost { cause, .. } => cause as &dyn std::fmt::Display, end => end })]
    NotOpened {
        /// What happened instead.
        end: SandboxEnd,
    },
    /// The sandbox is not in a state that allows it.
    #[error("cannot {what}: the sandbox is {state}")]
    WrongState {
        /// What was asked for.
        what: &'static str,
        /// The state.
        state: SandboxState,
    },
    /// A process runs, and this version of the protocol runs one at a time.
    #[error("cannot {what}: a process is running in the sandbox; wait for it or kill it first")]
    ProcessRunning {
        /// What was asked for.
        what: &'static str,
    },
    /// The server speaks a version of the protocol that cannot do it.
    #[error("cannot {what}: the server speaks protocol v1, which has no {feature}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What the version lacks.
        feature: &'static str,
    },
    /// The sandbox was created without the option that this needs. Nothing was sent.
    #[error(
        "cannot {what}: the sandbox was created without `.checkpoint(true)` (`{option}`); turn that on \
         when it is created"
    )]
    NotEnabled {
        /// What was asked for.
        what: &'static str,
        /// The option.
        option: &'static str,
    },
    /// The process, or this client, has closed its stdin.
    #[error("cannot {what}: stdin is closed")]
    StdinClosed {
        /// What was asked for.
        what: &'static str,
    },
    /// The process has ended.
    #[error("cannot {what}: the process has ended")]
    ProcessEnded {
        /// What was asked for.
        what: &'static str,
    },
    /// The same request is already under way.
    #[error("cannot {what}: it is already under way")]
    AlreadyUnderWay {
        /// What was asked for.
        what: &'static str,
    },
    /// The server refused it.
    #[error("cannot {what}: {}{status}", reason.as_ref().map(|reason| format!("{reason} ")).unwrap_or_default(), status = Parenthesised(status, reason.is_some()))]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The status.
        status: Status,
        /// The server's own reason.
        reason: Option<String>,
    },
    /// No answer came in time.
    #[error("cannot confirm {what}: the server did not answer within {after:?}")]
    Timeout {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The sandbox ended, or was lost, before the answer.
    #[error("cannot {what}: the sandbox {end}", end = Ended(end))]
    SandboxEnded {
        /// What was asked for.
        what: &'static str,
        /// Why the sandbox is over.
        end: SandboxEnd,
        /// Whether the request had been sent.
        effect: Effect,
    },
    /// The link was lost before the answer; the sandbox may still be got back.
    #[error("cannot {what}: the link was lost before the server answered")]
    LinkLost {
        /// What was asked for.
        what: &'static str,
        /// Whether the request had been sent.
        effect: Effect,
    },
    /// The process ended, and another one held its output when the server stopped reading it.
    #[error(
        "cannot {what}: it ended, and a process that it left in the background held its output \
         and may still run; kill the sandbox to end that"
    )]
    OutputHeld {
        /// What was asked for.
        what: &'static str,
        /// Whether the request had been sent.
        effect: Effect,
    },
    /// The actor that managed the process is gone.
    #[error(
        "cannot {what}: the actor of the process is gone: it panicked, or its System was stopped"
    )]
    ActorGone {
        /// What was asked for.
        what: &'static str,
    },
    /// The caller stopped waiting.
    #[error("cannot {what}: it was cancelled")]
    Cancelled {
        /// What was asked for.
        what: &'static str,
    },
}

impl Failure {
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

    /// What is known of the effect of the request.
    pub fn effect(&self) -> Effect {
        match self {
            Self::NotOpened {
                end: SandboxEnd::Failed { .. },
            } => Effect::NotApplied,
            Self::NotOpened {
                end: SandboxEnd::LinkLost { cause, .. },
            } if cause.is_dial_failure() => Effect::NotApplied,
            Self::WrongState { .. }
            | Self::ProcessRunning { .. }
            | Self::ProcessEnded { .. }
            | Self::Unsupported { .. }
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
