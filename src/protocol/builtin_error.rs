//! [`BuiltinError`]: why a builtin failed (v2).

use std::io;

use serde::{Deserialize, Serialize};

use super::FilePath;

/// The error of a builtin that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct BuiltinError {
    /// The kind of the failure.
    pub kind: BuiltinErrorKind,
    /// The path that caused the failure. `None` if no path did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
    /// What failed and why. Contains the path.
    pub message: String,
}

impl BuiltinError {
    /// Creates the error of an operation on a path.
    pub fn new(kind: BuiltinErrorKind, path: FilePath, message: impl Into<String>) -> Self {
        Self {
            kind,
            path: Some(path),
            message: message.into(),
        }
    }

    /// Creates an error without a path, of the kind [`Other`](BuiltinErrorKind::Other).
    pub fn other(message: impl Into<String>) -> Self {
        Self {
            kind: BuiltinErrorKind::Other,
            path: None,
            message: message.into(),
        }
    }
}

/// The kind of a [`BuiltinError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuiltinErrorKind {
    /// The file, or a directory on its path, does not exist.
    NotFound,
    /// The user that code runs as lacks the permission, or the file system is read-only.
    PermissionDenied,
    /// A part of the path is not a directory.
    NotADirectory,
    /// The path is a directory, but the operation needs a file.
    IsADirectory,
    /// The file already exists.
    AlreadyExists,
    /// The directory is not empty.
    NotEmpty,
    /// The disk is full, or a limit on disk space is reached.
    NoSpace,
    /// The file would exceed the maximum size, or it reports the size 0 and has more than 16 MiB of
    /// content. Read such a file with a `length`.
    TooLarge,
    /// The path is a pipe, a socket or a device.
    NotAFile,
    /// The path, another value or the archive is not valid. For example, a name is too long.
    InvalidInput,
    /// No program listens on the port.
    ConnectionRefused,
    /// The program that listens on the port ended the connection without reading everything, or
    /// aborted it.
    ConnectionReset,
    /// The time limit of the operation has elapsed.
    TimedOut,
    /// The server can't do this.
    Unsupported,
    /// Another failure, or a kind that this version doesn't know.
    #[serde(other)]
    Other,
}

impl BuiltinErrorKind {
    /// A short name, for tables and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "file not found",
            Self::PermissionDenied => "file permission denied",
            Self::NotADirectory => "not a directory",
            Self::IsADirectory => "is a directory",
            Self::AlreadyExists => "file exists",
            Self::NotEmpty => "directory not empty",
            Self::NoSpace => "no space",
            Self::TooLarge => "file too large",
            Self::NotAFile => "not a file",
            Self::InvalidInput => "invalid path or value",
            Self::ConnectionRefused => "connection refused",
            Self::ConnectionReset => "connection reset",
            Self::TimedOut => "operation timed out",
            Self::Unsupported => "operation not supported",
            Self::Other => "operation failed",
        }
    }

    /// The nearest [`io::ErrorKind`].
    pub fn to_io(self) -> io::ErrorKind {
        match self {
            Self::NotFound => io::ErrorKind::NotFound,
            Self::PermissionDenied => io::ErrorKind::PermissionDenied,
            Self::NotADirectory => io::ErrorKind::NotADirectory,
            Self::IsADirectory => io::ErrorKind::IsADirectory,
            Self::AlreadyExists => io::ErrorKind::AlreadyExists,
            Self::NotEmpty => io::ErrorKind::DirectoryNotEmpty,
            Self::NoSpace => io::ErrorKind::StorageFull,
            Self::TooLarge => io::ErrorKind::FileTooLarge,
            Self::NotAFile | Self::InvalidInput => io::ErrorKind::InvalidInput,
            Self::ConnectionRefused => io::ErrorKind::ConnectionRefused,
            Self::ConnectionReset => io::ErrorKind::ConnectionReset,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Unsupported => io::ErrorKind::Unsupported,
            Self::Other => io::ErrorKind::Other,
        }
    }
}
