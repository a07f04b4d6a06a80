//! [`ErrorKind`]: the category of an error.

use std::{fmt, io};

use crate::{
    machine::{Failure, LinkError, SandboxEnd},
    protocol::{BuiltinErrorKind, Status},
};

/// The category of an [`Error`](super::Error), to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL is invalid. Nothing was dialled.
    InvalidUrl,
    /// An option is invalid, or two options contradict each other. Nothing was dialled.
    InvalidOption,
    /// The host name does not resolve.
    Resolve,
    /// The TCP connection failed: nothing listens at the address, or the network is down.
    Connect,
    /// The TLS handshake failed, or this build lacks the feature `tls`.
    Tls,
    /// The token source returned no bearer token. Nothing was dialled.
    NoToken,
    /// The server refused the WebSocket upgrade, or the request for a list, with an HTTP status.
    UpgradeRefused,
    /// The peer is not a WebSocket server.
    NotWebSocket,
    /// A dial or a request took longer than its timeout.
    Timeout,
    /// The server violated the protocol.
    Protocol,
    /// The server could not create the sandbox.
    CreationFailed,
    /// No sandbox has this id.
    NotFound,
    /// Another client is attached to the sandbox.
    InUse,
    /// The sandbox's token is wrong.
    PermissionDenied,
    /// The sandbox's checkpoint could not be restored.
    RestoreFailed,
    /// The state of the sandbox doesn't allow the request, or the same request is already in
    /// progress.
    WrongState,
    /// Another process runs in the sandbox, and protocol v1 allows only one at a time.
    ProcessRunning,
    /// The process has ended.
    ProcessEnded,
    /// The process, or this client, has closed its stdin.
    StdinClosed,
    /// The server doesn't support what the request needs. For example, it speaks protocol v1.
    Unsupported,
    /// The sandbox was created without the option that the request needs. Nothing was sent.
    NotEnabled,
    /// The process did not exit with code 0. Only
    /// [`Output::error_for_status`](crate::Output::error_for_status) returns this kind.
    ProcessFailed,
    /// The server does not run this language.
    UnsupportedLanguage,
    /// The server could not start the process.
    ExecFailed,
    /// The server refused the request for a reason that has no kind here.
    Refused,
    /// The connection was lost before the server answered, or could not be re-established.
    LinkLost,
    /// The sandbox, or this client's session with it, has ended.
    SandboxEnded,
    /// Output was dropped at this point of the stream, because it was not read in time. The stream
    /// continues after the gap.
    OutputLost,
    /// Unread output exceeded the budget under [`Overflow::Fail`](crate::Overflow::Fail), so the
    /// process was killed.
    OutputOverflow,
    /// The output exceeded the size limit of the call that collected it.
    OutputTooLarge,
    /// An operation on files or ports failed in the sandbox, or its values are invalid.
    /// [`Error::builtin`](crate::Error::builtin) returns the details.
    Builtin(BuiltinErrorKind),
    /// A file of this machine could not be read or written during a transfer, or the archive from
    /// the sandbox was refused.
    LocalFile,
    /// This machine can't listen on the local address of a forwarded port. Nothing was sent.
    LocalAddress,
    /// An actor of the sandbox is gone, because it panicked or its System was stopped.
    ActorGone,
    /// The operating system could not start a thread for the actors, or provided no random bytes.
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
            Self::Builtin(kind) => kind.as_str(),
            Self::LocalFile => "local file",
            Self::LocalAddress => "local address",
            Self::ActorGone => "actor gone",
            Self::Runtime => "no runtime",
        })
    }
}

impl ErrorKind {
    /// The kind of a failed request.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        match failure {
            Failure::NotOpened { end } | Failure::SandboxEnded { end, .. } => Self::of_end(end),
            Failure::WrongState { .. } | Failure::AlreadyUnderWay { .. } => Self::WrongState,
            Failure::ProcessRunning { .. } => Self::ProcessRunning,
            Failure::ProcessEnded { .. } | Failure::OutputHeld { .. } => Self::ProcessEnded,
            Failure::StdinClosed { .. } => Self::StdinClosed,
            Failure::Unsupported { .. } | Failure::NotOffered { .. } => Self::Unsupported,
            Failure::NotEnabled { .. } => Self::NotEnabled,
            Failure::Refused { status, .. } => match status {
                Status::ExecutionUnsupportedLanguageError => Self::UnsupportedLanguage,
                Status::ExecutionError => Self::ExecFailed,
                _ => Self::Refused,
            },
            Failure::Timeout { .. } => Self::Timeout,
            Failure::LinkLost { .. } => Self::LinkLost,
            Failure::ActorGone { .. } | Failure::Cancelled { .. } => Self::ActorGone,
        }
    }

    /// The kind for a sandbox that ended.
    pub(super) fn of_end(end: &SandboxEnd) -> Self {
        match end {
            SandboxEnd::Failed { status, .. } => match status {
                Status::SandboxCreationError => Self::CreationFailed,
                Status::SandboxNotFound => Self::NotFound,
                Status::SandboxInUse => Self::InUse,
                Status::SandboxPermissionDenialError => Self::PermissionDenied,
                Status::SandboxRestoreError => Self::RestoreFailed,
                _ => Self::SandboxEnded,
            },
            SandboxEnd::Unsupported { .. } | SandboxEnd::NotLifted { .. } => Self::Unsupported,
            SandboxEnd::LinkLost { cause, .. } => Self::of_link_error(cause),
            SandboxEnd::NotReady { .. } => Self::Timeout,
            _ => Self::SandboxEnded,
        }
    }

    /// The kind for a link that failed.
    pub(super) fn of_link_error(cause: &LinkError) -> Self {
        match cause {
            LinkError::Resolve { .. } => Self::Resolve,
            LinkError::Connect { .. } => Self::Connect,
            LinkError::Tls { .. } | LinkError::TlsUnavailable { .. } => Self::Tls,
            LinkError::NoToken { .. } => Self::NoToken,
            LinkError::UpgradeRefused(_) => Self::UpgradeRefused,
            LinkError::NotWebSocket { .. } => Self::NotWebSocket,
            LinkError::ConnectTimeout { .. } => Self::Timeout,
            LinkError::Protocol { .. } => Self::Protocol,
            LinkError::InUse => Self::InUse,
            LinkError::ActorGone => Self::ActorGone,
            _ => Self::LinkLost,
        }
    }

    /// The nearest [`io::ErrorKind`], for [`AsyncRead`](tokio::io::AsyncRead) and
    /// [`AsyncWrite`](tokio::io::AsyncWrite).
    pub(super) fn to_io(self) -> io::ErrorKind {
        match self {
            Self::InvalidUrl | Self::InvalidOption => io::ErrorKind::InvalidInput,
            Self::Resolve | Self::NotFound => io::ErrorKind::NotFound,
            Self::Connect => io::ErrorKind::ConnectionRefused,
            Self::LinkLost | Self::SandboxEnded => io::ErrorKind::ConnectionReset,
            Self::ActorGone => io::ErrorKind::ConnectionAborted,
            Self::ProcessEnded | Self::StdinClosed => io::ErrorKind::BrokenPipe,
            Self::InUse | Self::ProcessRunning => io::ErrorKind::ResourceBusy,
            Self::PermissionDenied => io::ErrorKind::PermissionDenied,
            Self::Timeout => io::ErrorKind::TimedOut,
            Self::Protocol => io::ErrorKind::InvalidData,
            Self::Unsupported | Self::UnsupportedLanguage => io::ErrorKind::Unsupported,
            Self::Builtin(kind) => kind.to_io(),
            Self::OutputOverflow => io::ErrorKind::QuotaExceeded,
            Self::OutputTooLarge => io::ErrorKind::FileTooLarge,
            _ => io::ErrorKind::Other,
        }
    }
}
