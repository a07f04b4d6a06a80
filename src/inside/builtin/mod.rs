//! [`run`]: works on the files of a sandbox for a builtin exec.
//!
//! It runs where code runs and as the user of code, so it can do no more than code can: in a
//! confined sandbox in a process of the exec, on the backend `host` in a thread of the server. It
//! blocks, and uses no runtime. Code may change files and links at the same time.

mod streams;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::streams::Streams;
use crate::protocol::{
    Builtin, BuiltinError, BuiltinErrorKind, FilePath, MAX_RESULT_BYTES, excerpt,
};

/// How a builtin ended. It is written to stderr as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Result(Value),
    Error(BuiltinError),
}

/// The most bytes of a [`Report`] as JSON.
pub(crate) const MAX_REPORT_BYTES: usize = MAX_RESULT_BYTES + 1_024;

/// Runs a builtin, and writes its [`Report`] to `stderr`.
pub(crate) fn serve(
    builtin: &Builtin,
    home: &Path,
    streams: &mut Streams,
    mut stderr: impl Write,
) -> io::Result<()> {
    let report = match run(builtin, home, streams) {
        Ok(result) => Report::Result(result),
        Err(error) => Report::Error(error),
    };
    let mut json = serde_json::to_vec(&report)?;
    if json.len() > MAX_REPORT_BYTES {
        let path = excerpt(builtin.path().as_bytes());
        let (op, bytes) = (builtin.op(), json.len());
        let message = format!("the outcome of `{op}` of '{path}' takes {bytes} bytes, too many");
        json = serde_json::to_vec(&Report::Error(BuiltinError::other(message)))?;
    }
    stderr.write_all(&json)
}

/// Runs a builtin. Relative paths start at `home`. Returns the result for the client.
///
/// If the builtin is stopped before it has taken effect, it removes what it has written and fails.
fn run(builtin: &Builtin, home: &Path, streams: &mut Streams) -> Result<Value, BuiltinError> {
    let _ = (home, streams);
    Err(BuiltinError::new(
        BuiltinErrorKind::Unsupported,
        builtin.path().clone(),
        format!("the server does not support `{}`", builtin.op()),
    ))
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
