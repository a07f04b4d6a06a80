//! [`run`]: works on the files of a sandbox for a builtin exec.
//!
//! It runs where code runs and as the user of code, so it can do no more than code can: in a
//! confined sandbox in a process of the exec, on the backend `host` in a thread of the server. It
//! blocks, and uses no runtime. Code may change files and links at the same time.

mod archive;
mod streams;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

pub(crate) use self::streams::Streams;
use crate::protocol::{Builtin, BuiltinError, BuiltinErrorKind, FilePath};

/// Runs a builtin. Relative paths start at `home`. Returns the result for the client.
///
/// If the builtin is stopped before it has taken effect, it removes what it has written and fails.
pub(crate) fn run(
    builtin: &Builtin,
    home: &Path,
    streams: &mut Streams,
) -> Result<Value, BuiltinError> {
    match builtin {
        Builtin::Pack { path } => archive::pack(home, path, streams),
        Builtin::Unpack { path } => archive::unpack(home, path, streams),
        _ => Err(BuiltinError::new(
            BuiltinErrorKind::Unsupported,
            builtin.path().clone(),
            format!("the server does not support `{}`", builtin.op()),
        )),
    }
}

/// The path on this machine.
pub(super) fn place(home: &Path, path: &FilePath) -> PathBuf {
    home.join(path.as_path())
}

/// The failure of an operation on a path. `what` is the operation, for example `read`.
pub(super) fn failure(what: &str, path: &FilePath, error: &io::Error) -> BuiltinError {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => BuiltinErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => BuiltinErrorKind::PermissionDenied,
        Io::NotADirectory => BuiltinErrorKind::NotADirectory,
        Io::IsADirectory => BuiltinErrorKind::IsADirectory,
        Io::AlreadyExists => BuiltinErrorKind::AlreadyExists,
        Io::DirectoryNotEmpty => BuiltinErrorKind::NotEmpty,
        Io::StorageFull | Io::QuotaExceeded => BuiltinErrorKind::NoSpace,
        Io::FileTooLarge => BuiltinErrorKind::TooLarge,
        Io::InvalidInput | Io::InvalidFilename => BuiltinErrorKind::InvalidInput,
        _ => BuiltinErrorKind::Other,
    };
    BuiltinError::new(
        kind,
        path.clone(),
        format!("cannot {what} '{path}': {error}"),
    )
}
