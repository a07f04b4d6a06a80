//! [`Error`]: the error type of the public API.
//!
//! The lower layers have small errors of their own and don't know this type. This module converts
//! them to the error that the user sees.

use std::{fmt, sync::Arc};

use actix::MailboxError;

use crate::{
    machine::{Effect, Failure, LinkError, ProcessEnd, SandboxEnd, SandboxState},
    protocol::{ConfigError, Status},
    transport::UrlError,
};

/// The category of an [`Error`], for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL is invalid. Nothing was dialled.
    InvalidUrl,
    /// An option is invalid, or two options contradict each other. Nothing was dialled.
    InvalidOption,
    /// The host name does not resolve.
    Resolve,
    /// The TCP connection failed: nothing listens, or the network is down.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The token source returned no bearer token. Nothing was dialled.
    NoToken,
    /// The server answered the WebSocket upgrade with an HTTP status other than 101.
    UpgradeRefused,
    /// The peer is no WebSocket server.
    NotWebSocket,
    /// No answer came in time.
    Timeout,
    /// The server violated the protocol.
    Protocol,
    /// The server could not create the sandbox.
    CreationFailed,
    /// No sandbox has this id.
    NotFound,
    /// Another client is attached to the sandbox.
    InUse,
    /// The token is wrong.
    PermissionDenied,
    /// The sandbox could not be restored.
    RestoreFailed,
    /// The sandbox is not in a state that allows this.
    WrongState,
    /// A process runs in the sandbox, and protocol v1 allows only one at a time.
    ProcessRunning,
    /// The process has ended.
    ProcessEnded,
    /// The process, or this client, has closed its stdin.
    StdinClosed,
    /// The server speaks protocol v1, which cannot do this.
    Unsupported,
    /// The sandbox was created without the option that this needs. Nothing was sent.
    NotEnabled,
    /// The process failed; see [`Output::error_for_status`](crate::Output::error_for_status).
    ProcessFailed,
    /// The server does not run this language.
    UnsupportedLanguage,
    /// The server could not start the process.
    ExecFailed,
    /// The server refused the request for another reason.
    Refused,
    /// The connection was lost before the answer, or could not be re-established.
    LinkLost,
    /// The sandbox is over.
    SandboxEnded,
    /// Output was dropped at this point, because the budget was exceeded. The stream continues
    /// after it.
    OutputLost,
    /// The output budget was exceeded under [`Overflow::Fail`](crate::Overflow::Fail).
    OutputOverflow,
    /// The output exceeded the limit of `read_all`, `run` or `output`.
    OutputTooLarge,
    /// An actor of the sandbox is gone: it panicked, or its System was stopped.
    ActorGone,
    /// The operating system provided no thread for the actors, or no random bytes.
    Runtime,
}

impl fmt::Display for ErrorKind {
    /// Writes a short name of the kind, for tables and counters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidUrl => "invalid URL",
            Self::InvalidOption => "invalid option",
            Self::Resolve => "host not found",
            Self::Connect => "no connection",
            Self::Tls => "TLS failed",
            Self::NoToken => "no bearer token",
            Self::UpgradeRefused => "upgrade refused",
            Self::NotWebSocket => "not a WebSocket server",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol violated",
            Self::CreationFailed => "creation failed",
            Self::NotFound => "sandbox not found",
            Self::InUse => "sandbox in use",
            Self::PermissionDenied => "permission denied",
            Self::RestoreFailed => "restore failed",
            Self::WrongState => "wrong state",
            Self::ProcessRunning => "another process runs",
            Self::ProcessEnded => "process ended",
            Self::StdinClosed => "stdin closed",
            Self::Unsupported => "not supported by the server",
            Self::NotEnabled => "not enabled",
            Self::ProcessFailed => "process failed",
            Self::UnsupportedLanguage => "unsupported language",
            Self::ExecFailed => "exec failed",
            Self::Refused => "refused",
            Self::LinkLost => "connection lost",
            Self::SandboxEnded => "sandbox ended",
            Self::OutputLost => "output lost",
            Self::OutputOverflow => "output budget exceeded",
            Self::OutputTooLarge => "output too large",
            Self::ActorGone => "actor gone",
            Self::Runtime => "no runtime",
        })
    }
}

/// The advice if the service refuses the upgrade with 401 or 403 and gives no reason.
const AUTHENTICATE: &str = "; the service may need authentication: turn on \
     `.use_google_auth(true)`, or add a `.bearer_token_source(…)` or an `Authorization` header (on \
     Cloud Run the caller needs the role roles/run.invoker)";

#[derive(Clone, Debug)]
enum Repr {
    Url(UrlError),
    Option {
        option: &'static str,
        problem: String,
    },
    Config(ConfigError),
    Failure(Failure),
    OutputLost {
        bytes: u64,
    },
    OutputOverflow {
        budget: usize,
    },
    OutputTooLarge {
        limit: usize,
    },
    SandboxLost(SandboxEnd),
    ActorGone {
        what: &'static str,
    },
    Runtime(String),
    ProcessFailed {
        end: ProcessEnd,
        stderr: String,
    },
}

/// An error of the client. Cheap to clone.
///
/// The message says which request failed, why (with the server's own reason) and, if possible, what
/// to do. Programs should use [`kind`](Self::kind). [`effect`](Self::effect) tells whether the
/// request took effect anyway.
///
/// ```
/// use actix_sandbox::{ErrorKind, Sandbox};
///
/// # futures::executor::block_on(async {
/// let error = Sandbox::create("ftp://example.com").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidUrl);
/// assert!(error.to_string().contains("expected ws://, wss://, http:// or https://"));
/// # });
/// ```
#[derive(Clone)]
pub struct Error(Arc<Repr>);

impl Error {
    /// The category of this error.
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Repr::Url(_) => ErrorKind::InvalidUrl,
            Repr::Option { .. } | Repr::Config(_) => ErrorKind::InvalidOption,
            Repr::Failure(failure) => failure_kind(failure),
            Repr::OutputLost { .. } => ErrorKind::OutputLost,
            Repr::OutputOverflow { .. } => ErrorKind::OutputOverflow,
            Repr::OutputTooLarge { .. } => ErrorKind::OutputTooLarge,
            Repr::SandboxLost(end) => end_kind(end),
            Repr::ActorGone { .. } => ErrorKind::ActorGone,
            Repr::Runtime(_) => ErrorKind::Runtime,
            Repr::ProcessFailed { .. } => ErrorKind::ProcessFailed,
        }
    }

    /// Whether the request took effect on the server, as far as the client knows.
    pub fn effect(&self) -> Effect {
        match &*self.0 {
            Repr::Url(_) | Repr::Option { .. } | Repr::Config(_) | Repr::Runtime(_) => {
                Effect::NotApplied
            }
            Repr::Failure(failure) => failure.effect(),
            Repr::OutputLost { .. }
            | Repr::OutputOverflow { .. }
            | Repr::OutputTooLarge { .. }
            | Repr::ProcessFailed { .. } => Effect::Applied,
            Repr::SandboxLost(_) | Repr::ActorGone { .. } => Effect::Unknown,
        }
    }

    /// Whether a retry is safe, because the call had no effect.
    /// [`is_retryable`](Self::is_retryable) tells whether a retry may succeed.
    pub fn is_safe_to_retry(&self) -> bool {
        self.effect() == Effect::NotApplied
    }

    /// Whether a retry of the same call may succeed. Unless a retry
    /// [is safe](Self::is_safe_to_retry), the call may then take effect twice.
    pub fn is_retryable(&self) -> bool {
        // The sandbox is over and refuses every further call.
        if matches!(
            &*self.0,
            Repr::SandboxLost(_) | Repr::Failure(Failure::SandboxEnded { .. })
        ) {
            return false;
        }
        match self.kind() {
            ErrorKind::Timeout
            | ErrorKind::InUse
            | ErrorKind::ProcessRunning
            | ErrorKind::LinkLost => true,
            ErrorKind::WrongState => matches!(
                &*self.0,
                Repr::Failure(Failure::WrongState {
                    state: SandboxState::Reconnecting,
                    ..
                })
            ),
            _ => self.link_error().is_some_and(LinkError::is_retryable),
        }
    }

    /// The server's own reason, if it gave one.
    pub fn server_reason(&self) -> Option<&str> {
        match &*self.0 {
            Repr::Failure(Failure::Refused { reason, .. }) => reason.as_deref(),
            _ => match self.end()? {
                SandboxEnd::Failed { reason, .. } => reason.as_deref(),
                _ => None,
            },
        }
    }

    /// The HTTP status with which the server refused the WebSocket upgrade.
    pub fn http_status(&self) -> Option<u16> {
        match self.link_error()? {
            LinkError::UpgradeRefused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How many bytes of output were dropped, for [`ErrorKind::OutputLost`].
    pub fn lost_bytes(&self) -> Option<u64> {
        match &*self.0 {
            Repr::OutputLost { bytes } => Some(*bytes),
            _ => None,
        }
    }

    fn end(&self) -> Option<&SandboxEnd> {
        match &*self.0 {
            Repr::SandboxLost(end)
            | Repr::Failure(Failure::NotOpened { end } | Failure::SandboxEnded { end, .. }) => {
                Some(end)
            }
            _ => None,
        }
    }

    fn link_error(&self) -> Option<&LinkError> {
        match self.end()? {
            SandboxEnd::LinkLost { cause, .. } => Some(cause),
            _ => None,
        }
    }

    fn new(repr: Repr) -> Self {
        Self(Arc::new(repr))
    }

    pub(crate) fn option(option: &'static str, problem: impl Into<String>) -> Self {
        Self::new(Repr::Option {
            option,
            problem: problem.into(),
        })
    }

    pub(crate) fn output_lost(bytes: u64) -> Self {
        Self::new(Repr::OutputLost { bytes })
    }

    pub(crate) fn output_overflow(budget: usize) -> Self {
        Self::new(Repr::OutputOverflow { budget })
    }

    pub(crate) fn output_too_large(limit: usize) -> Self {
        Self::new(Repr::OutputTooLarge { limit })
    }

    pub(crate) fn sandbox_lost(end: SandboxEnd) -> Self {
        Self::new(Repr::SandboxLost(end))
    }

    pub(crate) fn actor_gone(what: &'static str) -> Self {
        Self::new(Repr::ActorGone { what })
    }

    /// Includes the end of stderr, where most programs report errors.
    pub(crate) fn process_failed(end: ProcessEnd, stderr: &str) -> Self {
        const MOST: usize = 2_000;
        let stderr = stderr.trim_end();
        let from = stderr.len().saturating_sub(MOST);
        let from = (from..).find(|&at| stderr.is_char_boundary(at));
        let stderr = stderr.get(from.unwrap_or(stderr.len())..);
        Self::new(Repr::ProcessFailed {
            end,
            stderr: stderr.unwrap_or_default().to_owned(),
        })
    }

    pub(crate) fn runtime(problem: impl Into<String>) -> Self {
        Self::new(Repr::Runtime(problem.into()))
    }

    pub(crate) fn random(error: &std::io::Error) -> Self {
        Self::runtime(format!(
            "the operating system provided no random bytes: {error}"
        ))
    }

    /// Converts a closed mailbox to "the actor is gone".
    pub(crate) fn mailbox(what: &'static str) -> impl Fn(MailboxError) -> Self {
        move |_| Self::actor_gone(what)
    }
}

fn failure_kind(failure: &Failure) -> ErrorKind {
    match failure {
        Failure::NotOpened { end } | Failure::SandboxEnded { end, .. } => end_kind(end),
        Failure::WrongState { .. } | Failure::AlreadyUnderWay { .. } => ErrorKind::WrongState,
        Failure::ProcessRunning { .. } => ErrorKind::ProcessRunning,
        Failure::ProcessEnded { .. } | Failure::OutputHeld { .. } => ErrorKind::ProcessEnded,
        Failure::StdinClosed { .. } => ErrorKind::StdinClosed,
        Failure::Unsupported { .. } => ErrorKind::Unsupported,
        Failure::NotEnabled { .. } => ErrorKind::NotEnabled,
        Failure::Refused { status, .. } => match status {
            Status::ExecutionUnsupportedLanguageError => ErrorKind::UnsupportedLanguage,
            Status::ExecutionError => ErrorKind::ExecFailed,
            _ => ErrorKind::Refused,
        },
        Failure::Timeout { .. } => ErrorKind::Timeout,
        Failure::LinkLost { .. } => ErrorKind::LinkLost,
        Failure::ActorGone { .. } | Failure::Cancelled { .. } => ErrorKind::ActorGone,
    }
}

fn end_kind(end: &SandboxEnd) -> ErrorKind {
    match end {
        SandboxEnd::Failed { status, .. } => match status {
            Status::SandboxCreationError => ErrorKind::CreationFailed,
            Status::SandboxNotFound => ErrorKind::NotFound,
            Status::SandboxInUse => ErrorKind::InUse,
            Status::SandboxPermissionDenialError => ErrorKind::PermissionDenied,
            Status::SandboxRestoreError => ErrorKind::RestoreFailed,
            _ => ErrorKind::SandboxEnded,
        },
        SandboxEnd::LinkLost { cause, .. } => match cause {
            LinkError::Resolve { .. } => ErrorKind::Resolve,
            LinkError::Connect { .. } => ErrorKind::Connect,
            LinkError::Tls { .. } | LinkError::TlsUnavailable { .. } => ErrorKind::Tls,
            LinkError::NoToken { .. } => ErrorKind::NoToken,
            LinkError::UpgradeRefused { .. } => ErrorKind::UpgradeRefused,
            LinkError::NotWebSocket { .. } => ErrorKind::NotWebSocket,
            LinkError::ConnectTimeout { .. } => ErrorKind::Timeout,
            LinkError::Protocol { .. } => ErrorKind::Protocol,
            LinkError::InUse => ErrorKind::InUse,
            LinkError::ActorGone => ErrorKind::ActorGone,
            _ => ErrorKind::LinkLost,
        },
        SandboxEnd::NotReady { .. } => ErrorKind::Timeout,
        _ => ErrorKind::SandboxEnded,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Url(error) => error.fmt(f),
            Repr::Option { option, problem } => write!(f, "the option `{option}` {problem}"),
            Repr::Config(error) => {
                write!(
                    f,
                    "{error} Add `.enable_sandbox_checkpoint(true)`, or remove the other option."
                )
            }
            Repr::Failure(failure) => {
                failure.fmt(f)?;
                match self.link_error() {
                    Some(LinkError::UpgradeRefused {
                        status: 401 | 403,
                        reason: None,
                        ..
                    }) => f.write_str(AUTHENTICATE),
                    _ => Ok(()),
                }
            }
            Repr::OutputLost { bytes } => write!(
                f,
                "{bytes} bytes of output were dropped here, because they were not read in time; \
                 read the output while the process runs, or raise the budget (`.output_policy(…)`)"
            ),
            Repr::OutputOverflow { budget } => {
                write!(
                    f,
                    "the process was killed, because its unread output exceeded the budget of \
                     {budget} bytes; read the output while the process runs, or raise the budget \
                     (`.output_policy(…)`)"
                )
            }
            Repr::OutputTooLarge { limit } => write!(
                f,
                "the output is larger than the limit of {limit} bytes; read it as a stream, or \
                 raise the limit"
            ),
            Repr::SandboxLost(end) => write!(
                f,
                "the output may be incomplete, because the sandbox is over: {end}"
            ),
            Repr::ActorGone { what } => {
                write!(
                    f,
                    "cannot {what}: the sandbox's actor is gone, because it panicked or its System \
                     was stopped"
                )
            }
            Repr::Runtime(problem) => write!(f, "cannot start the runtime: {problem}"),
            Repr::ProcessFailed { end, stderr } => {
                write!(f, "the process did not succeed: {end}")?;
                match stderr.as_str() {
                    "" => Ok(()),
                    stderr => write!(f, "; the end of its stderr:\n{stderr}"),
                }
            }
        }
    }
}

impl fmt::Debug for Error {
    /// Writes the message, because a `main` that returns the error prints `Debug`. `{:#?}` also
    /// shows the kind and the effect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("effect", &self.effect())
            .field("message", &self.to_string())
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Repr::Url(error) => Some(error),
            Repr::Config(error) => Some(error),
            Repr::Failure(failure) => match self.link_error() {
                Some(cause) => Some(cause),
                None => Some(failure),
            },
            _ => self.link_error().map(|cause| cause as _),
        }
    }
}

impl From<UrlError> for Error {
    fn from(error: UrlError) -> Self {
        Self::new(Repr::Url(error))
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::new(Repr::Config(error))
    }
}

/// For `actor.send(message).await??`: a closed mailbox means that the actor is gone.
impl From<MailboxError> for Error {
    fn from(_: MailboxError) -> Self {
        Self::actor_gone("get an answer")
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(Repr::Failure(failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_opening_is_retryable_after_the_sandbox_is_over() {
        let end = SandboxEnd::LinkLost {
            cause: LinkError::Dropped {
                detail: "cut".into(),
            },
            attempts: 3,
        };
        let over = Failure::SandboxEnded {
            what: "confirm the checkpoint",
            end: end.clone(),
            effect: Effect::Unknown,
        };
        assert!(!Error::from(over).is_retryable());
        assert!(!Error::sandbox_lost(end.clone()).is_retryable());
        assert!(Error::from(Failure::NotOpened { end }).is_retryable());
    }

    #[test]
    fn debug_shows_the_message_and_alternate_debug_the_kind() {
        let error = Error::option("idle_timeout", "is zero");
        assert_eq!(format!("{error:?}"), "the option `idle_timeout` is zero");
        let full = format!("{error:#?}");
        assert!(
            full.contains("InvalidOption") && full.contains("NotApplied"),
            "{full}"
        );
    }

    fn refused(status: u16, reason: Option<&str>) -> Error {
        let cause = LinkError::UpgradeRefused {
            address: "host:1".into(),
            status,
            reason: reason.map(str::to_owned),
            location: None,
            retry_after: None,
        };
        let end = SandboxEnd::LinkLost { cause, attempts: 0 };
        Error::from(Failure::NotOpened { end })
    }

    #[test]
    fn authentication_is_advised_only_without_another_reason() {
        for (status, reason, advised) in [
            (401, None, true),
            (403, None, true),
            (403, Some("quota used up"), false),
            (404, None, false),
        ] {
            let text = refused(status, reason).to_string();
            assert_eq!(text.contains("roles/run.invoker"), advised, "{text}");
        }
    }

    #[test]
    fn a_failure_is_safe_to_retry_only_without_an_effect() {
        let (what, after) = ("do it", std::time::Duration::from_secs(1));
        let (not_applied, unknown) = (Effect::NotApplied, Effect::Unknown);
        let refused = Status::ExecutionError;
        let (status, reason) = (refused, None);
        let end = SandboxEnd::Killed;
        for (failure, effect) in [
            (
                Failure::WrongState {
                    what,
                    state: SandboxState::Reconnecting,
                },
                not_applied,
            ),
            (Failure::ProcessRunning { what }, not_applied),
            (
                Failure::Unsupported {
                    what,
                    feature: "arguments",
                },
                not_applied,
            ),
            (Failure::StdinClosed { what }, not_applied),
            (Failure::ProcessEnded { what }, not_applied),
            (Failure::AlreadyUnderWay { what }, not_applied),
            (
                Failure::Refused {
                    what,
                    status,
                    reason,
                },
                not_applied,
            ),
            (Failure::Timeout { what, after }, unknown),
            (
                Failure::SandboxEnded {
                    what,
                    end: end.clone(),
                    effect: unknown,
                },
                unknown,
            ),
            (
                Failure::SandboxEnded {
                    what,
                    end,
                    effect: not_applied,
                },
                not_applied,
            ),
            (
                Failure::LinkLost {
                    what,
                    effect: unknown,
                },
                unknown,
            ),
            (
                Failure::LinkLost {
                    what,
                    effect: not_applied,
                },
                not_applied,
            ),
            (Failure::ActorGone { what }, unknown),
            (Failure::Cancelled { what }, unknown),
        ] {
            let error = Error::from(failure);
            assert_eq!(error.effect(), effect, "{error}");
            assert_eq!(error.is_safe_to_retry(), effect == not_applied, "{error}");
        }
        // The process ran: another call runs it again.
        let failed = Error::process_failed(ProcessEnd::Exited(1), "why\n");
        assert_eq!(failed.effect(), Effect::Applied);
        assert!(!failed.is_safe_to_retry() && !failed.is_retryable());
        assert!(failed.to_string().ends_with("stderr:\nwhy"), "{failed}");
    }
}
