//! [`Error`]: the error type of the public API.
//!
//! The lower layers define their own errors and don't know this type. This module converts them to
//! the error that the user sees.

mod kind;
#[cfg(test)]
mod tests;
mod text;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use actix::MailboxError;

pub use self::kind::ErrorKind;
use crate::{
    archive::ArchiveError,
    machine::{Effect, Failure, LinkError, ProcessEnd, SandboxEnd, SandboxState},
    protocol::{BuiltinError, ConfigError, StdStream},
    transport::UrlError,
};

#[derive(Clone, Debug)]
enum Repr {
    Url(UrlError),
    Option {
        option: &'static str,
        problem: String,
    },
    Config(ConfigError),
    Failure(Failure),
    /// The sandboxes of a server could not be listed.
    NotListed(LinkError),
    OutputLost {
        stream: StdStream,
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
    Builtin(BuiltinError),
    LocalFile {
        /// What failed: `upload` or `download to`.
        what: &'static str,
        /// The directory or file of this machine.
        path: PathBuf,
        error: Arc<ArchiveError>,
    },
    LocalAddress(Arc<io::Error>),
}

/// An error of the client. Cheap to clone.
///
/// The message says which request failed, why (in the server's words, if it gave a reason) and,
/// where possible, what to do. Programs match on [`kind`](Self::kind). [`effect`](Self::effect)
/// tells whether the request took effect on the server all the same.
///
/// It converts to an [`io::Error`] with a matching [`io::ErrorKind`]. The types that implement
/// tokio's `AsyncRead` and `AsyncWrite` return it in that form; [`io::Error::downcast`] recovers
/// this error.
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
            Repr::Failure(failure) => ErrorKind::of_failure(failure),
            Repr::NotListed(cause) => ErrorKind::of_link_error(cause),
            Repr::OutputLost { .. } => ErrorKind::OutputLost,
            Repr::OutputOverflow { .. } => ErrorKind::OutputOverflow,
            Repr::OutputTooLarge { .. } => ErrorKind::OutputTooLarge,
            Repr::SandboxLost(end) => ErrorKind::of_end(end),
            Repr::ActorGone { .. } => ErrorKind::ActorGone,
            Repr::Runtime(_) => ErrorKind::Runtime,
            Repr::ProcessFailed { .. } => ErrorKind::ProcessFailed,
            Repr::Builtin(error) => ErrorKind::Builtin(error.kind),
            Repr::LocalFile { .. } => ErrorKind::LocalFile,
            Repr::LocalAddress(_) => ErrorKind::LocalAddress,
        }
    }

    /// Whether the request took effect on the server, as far as the client knows.
    pub fn effect(&self) -> Effect {
        match &*self.0 {
            // A list has no effect.
            Repr::Url(_)
            | Repr::Option { .. }
            | Repr::Config(_)
            | Repr::Runtime(_)
            | Repr::LocalAddress(_)
            | Repr::NotListed(_) => Effect::NotApplied,
            Repr::Failure(failure) => failure.effect(),
            Repr::OutputLost { .. }
            | Repr::OutputOverflow { .. }
            | Repr::OutputTooLarge { .. }
            | Repr::ProcessFailed { .. } => Effect::Applied,
            // A part of the operation may have taken effect.
            Repr::SandboxLost(_)
            | Repr::ActorGone { .. }
            | Repr::Builtin(_)
            | Repr::LocalFile { .. } => Effect::Unknown,
        }
    }

    /// Whether the call certainly had no effect, so that a retry can't apply it twice.
    /// [`is_retryable`](Self::is_retryable) tells whether a retry may succeed.
    pub fn is_safe_to_retry(&self) -> bool {
        self.effect() == Effect::NotApplied
    }

    /// Whether a retry of the same call may succeed, because the cause may be temporary. If the
    /// retry is not [safe](Self::is_safe_to_retry), the call may take effect twice.
    pub fn is_retryable(&self) -> bool {
        // The sandbox has ended and refuses every further call.
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

    /// The reason in the server's words, or `None` if the server gave none.
    pub fn server_reason(&self) -> Option<&str> {
        match &*self.0 {
            Repr::Failure(Failure::Refused { reason, .. }) => reason.as_deref(),
            _ => match self.sandbox_end()? {
                SandboxEnd::Failed { reason, .. } => reason.as_deref(),
                _ => None,
            },
        }
    }

    /// The HTTP status with which the server refused the WebSocket upgrade, or the request for a
    /// list. `None` for every other error.
    pub fn http_status(&self) -> Option<u16> {
        match self.link_error()? {
            LinkError::UpgradeRefused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// How many bytes of output were dropped. `None` unless the kind is [`ErrorKind::OutputLost`].
    pub fn lost_bytes(&self) -> Option<u64> {
        match &*self.0 {
            Repr::OutputLost { bytes, .. } => Some(*bytes),
            _ => None,
        }
    }

    /// Why an operation on files or ports failed in the sandbox. `None` unless the kind is
    /// [`ErrorKind::Builtin`].
    pub fn builtin(&self) -> Option<&BuiltinError> {
        match &*self.0 {
            Repr::Builtin(error) => Some(error),
            _ => None,
        }
    }

    /// Why the sandbox, or this client's session with it, has ended. `None` if the error has another
    /// reason.
    pub fn sandbox_end(&self) -> Option<&SandboxEnd> {
        match &*self.0 {
            Repr::SandboxLost(end)
            | Repr::Failure(Failure::NotOpened { end } | Failure::SandboxEnded { end, .. }) => {
                Some(end)
            }
            _ => None,
        }
    }

    fn link_error(&self) -> Option<&LinkError> {
        if let Repr::NotListed(cause) = &*self.0 {
            return Some(cause);
        }
        match self.sandbox_end()? {
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

    /// A transfer failed on this machine. `what` is `upload` or `download to`.
    /// `is_file` is whether `local` is the file, and not the directory that contains it.
    pub(crate) fn local_file(
        what: &'static str,
        local: &Path,
        is_file: bool,
        error: ArchiveError,
    ) -> Self {
        let path = match error.path() {
            Some(path) if !is_file => local.join(path),
            _ => local.to_owned(),
        };
        Self::new(Repr::LocalFile {
            what,
            path,
            error: Arc::new(error),
        })
    }

    /// A listener could not be started on a local address.
    pub(crate) fn local_address(error: io::Error) -> Self {
        Self::new(Repr::LocalAddress(Arc::new(error)))
    }

    pub(crate) fn not_listed(cause: LinkError) -> Self {
        Self::new(Repr::NotListed(cause))
    }

    pub(crate) fn output_lost(stream: StdStream, bytes: u64) -> Self {
        Self::new(Repr::OutputLost { stream, bytes })
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

    /// Includes the last 2,000 bytes of stderr, where most programs report errors.
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

    pub(crate) fn random(error: &io::Error) -> Self {
        Self::runtime(format!(
            "the operating system provided no random bytes: {error}"
        ))
    }

    /// Returns a function that converts a closed mailbox to [`ErrorKind::ActorGone`].
    pub(crate) fn mailbox(what: &'static str) -> impl Fn(MailboxError) -> Self {
        move |_| Self::actor_gone(what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Repr::Url(error) => Some(error),
            Repr::Config(error) => Some(error),
            Repr::Builtin(error) => Some(error),
            Repr::LocalFile { error, .. } => Some(error),
            Repr::LocalAddress(error) => Some(error.as_ref()),
            Repr::Failure(failure) => match self.link_error() {
                Some(cause) => Some(cause),
                None => Some(failure),
            },
            _ => self.link_error().map(|cause| cause as _),
        }
    }
}

impl From<BuiltinError> for Error {
    fn from(error: BuiltinError) -> Self {
        Self::new(Repr::Builtin(error))
    }
}

impl From<UrlError> for Error {
    fn from(error: UrlError) -> Self {
        Self::new(Repr::Url(error))
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::NotAllowed { key, problem } => {
                // The builder sets one label at a time.
                let option = if key == "labels" { "label" } else { key };
                Self::option(option, problem)
            }
            error => Self::new(Repr::Config(error)),
        }
    }
}

/// For `actor.send(message).await??`: a closed mailbox means that the actor is gone.
impl From<MailboxError> for Error {
    fn from(_: MailboxError) -> Self {
        Self::actor_gone("get an answer")
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &*error.0 {
            Repr::LocalFile { error, .. } => error.io().kind(),
            Repr::LocalAddress(error) => error.kind(),
            _ => error.kind().to_io(),
        };
        Self::new(kind, error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(Repr::Failure(failure))
    }
}
