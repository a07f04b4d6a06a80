//! [`ArchiveError`]: why an archive can't be packed or unpacked.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
};

use crate::protocol::excerpt;

/// Why [`pack`](super::pack) or [`unpack`](super::unpack) failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", self.subject())]
pub(crate) struct ArchiveError {
    operation: &'static str,
    kind: ArchiveErrorKind,
    /// The path in the archive, or the source or destination as the caller gave it. `None` if the
    /// error is about the whole archive or its stream.
    path: Option<PathBuf>,
    source: io::Error,
}

/// The kind of an [`ArchiveError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveErrorKind {
    /// The file system refused an operation, or a limit was exceeded. The kind of the source error
    /// says which.
    File,
    /// The archive is not valid, or contains an entry that is not allowed.
    InvalidArchive,
    /// The archive ended too early.
    Truncated,
    /// The stream of the archive failed. An operation that was stopped ends with this error.
    Stream,
}

impl ArchiveError {
    pub(super) fn new(
        operation: &'static str,
        kind: ArchiveErrorKind,
        path: Option<&Path>,
        source: io::Error,
    ) -> Self {
        let has_cause = source.get_ref().is_some_and(|it| it.source().is_some());
        let source = match has_cause {
            true => io::Error::new(source.kind(), cause(&source)),
            false => source,
        };
        Self {
            operation,
            kind,
            path: path.map(Path::to_owned),
            source,
        }
    }

    /// Creates an error about the source or destination.
    #[cfg(feature = "client")]
    pub(crate) fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::new(operation, ArchiveErrorKind::File, Some(path), source)
    }

    /// Creates an error about the stream of the archive.
    pub(crate) fn stream(operation: &'static str, source: io::Error) -> Self {
        Self::new(operation, ArchiveErrorKind::Stream, None, source)
    }

    pub(crate) fn kind(&self) -> ArchiveErrorKind {
        self.kind
    }

    /// The path in the archive, or the source or destination as the caller gave it.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The operation that failed: `pack` or `unpack`.
    pub(crate) fn operation(&self) -> &'static str {
        self.operation
    }

    /// The source error.
    pub(crate) fn io(&self) -> &io::Error {
        &self.source
    }

    fn subject(&self) -> String {
        match &self.path {
            Some(path) => format!("'{}'", excerpt(path.as_os_str().as_encoded_bytes())),
            None => "the archive".to_owned(),
        }
    }
}

/// The root cause of an error. The top-level messages of `tar` contain paths of this machine, and
/// lack the cause.
pub(crate) fn cause(error: &io::Error) -> String {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        cause = error.to_string();
        source = error.source();
    }
    cause
}
