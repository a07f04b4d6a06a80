//! [`run`]: works on the files and ports of a sandbox for a builtin exec.
//!
//! A builtin can do no more than code can. In a confined sandbox, it runs in a process of its own
//! there, as the user of code. On the backend `host`, it runs in a thread of the server. It blocks,
//! uses no runtime and changes no state of its process. Code may change files and links while a
//! builtin runs.

mod archive;
mod connect;
mod edit;
mod list;
mod metadata;
mod new_file;
mod place;
#[cfg(target_os = "linux")]
mod ports;
mod read;
mod relay;
mod remove;
mod streams;
#[cfg(target_os = "linux")]
mod watch;
mod write;

use std::{
    io::{self, Write},
    path::Path,
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::place::Subject;
pub(crate) use self::streams::Streams;
#[cfg(target_os = "linux")]
use super::{proc::pids, usage::usage};
#[cfg(target_os = "linux")]
use crate::protocol::ProcessUsage;
use crate::protocol::{
    Builtin, BuiltinError, BuiltinErrorKind, FilePath, MAX_RESULT_BYTES, excerpt,
};

/// The outcome of a builtin, which it writes to stderr as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Result(Value),
    Error(BuiltinError),
}

/// Maximum length of a [`Report`] as JSON, in bytes.
pub(crate) const MAX_REPORT_BYTES: usize = MAX_RESULT_BYTES + 1_024;

/// Runs a builtin, and writes its [`Report`] to `stderr`.
///
/// The end of the output of a connection means that the program in the sandbox has ended that
/// direction. So when a connection fails, the output stays open until the server has read the
/// report, and has closed stdin in answer.
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
        let path = builtin.path().map(|path| excerpt(path.as_bytes()));
        let path = path
            .map(|path| format!(" for '{path}'"))
            .unwrap_or_default();
        let (op, bytes) = (builtin.op(), json.len());
        let message = format!("the outcome of `{op}`{path} is too long: {bytes} bytes");
        json = serde_json::to_vec(&Report::Error(BuiltinError::other(message)))?;
    }
    stderr.write_all(&json)?;
    drop(stderr);
    match (builtin, report) {
        (Builtin::Connect { .. }, Report::Error(_)) => streams.drain(),
        _ => Ok(()),
    }
}

/// Runs a builtin. Relative paths start at `home`. Returns the result for the client.
///
/// A builtin that is stopped fails. If it was about to replace a file, it removes its temporary
/// file and leaves the old one.
fn run(builtin: &Builtin, home: &Path, streams: &mut Streams) -> Result<Value, BuiltinError> {
    let result = match builtin {
        Builtin::Read {
            path,
            offset,
            length,
        } => to_json(read::read(home, path, *offset, *length, streams)?),
        Builtin::Write {
            path,
            mode,
            permissions,
        } => to_json(write::write(home, path, *mode, *permissions, streams)?),
        Builtin::Copy { path, to } => to_json(write::copy(home, path, to, streams)?),
        Builtin::List {
            path,
            depth,
            pattern,
        } => to_json(list::list(home, path, *depth, pattern.as_deref(), streams)?),
        Builtin::Metadata { path, follow } => to_json(metadata::metadata(home, path, *follow)?),
        Builtin::CreateDir { path } => to_json(edit::create_dir(home, path)?),
        Builtin::Remove { path, recursive } => {
            to_json(remove::remove(home, path, *recursive, streams)?)
        }
        Builtin::Rename { path, to } => to_json(edit::rename(home, path, to)?),
        Builtin::SetPermissions { path, permissions } => {
            to_json(edit::set_permissions(home, path, *permissions)?)
        }
        Builtin::Link {
            path,
            target,
            symbolic,
        } => to_json(edit::link(home, path, target, *symbolic)?),
        #[cfg(target_os = "linux")]
        Builtin::Watch { path, recursive } => {
            to_json(watch::watch(home, path, *recursive, streams)?)
        }
        #[cfg(not(target_os = "linux"))]
        Builtin::Watch { .. } => return Err(unsupported(builtin)),
        // The server performs these itself.
        #[cfg(target_os = "linux")]
        Builtin::Metrics => to_json(metrics()?),
        #[cfg(not(target_os = "linux"))]
        Builtin::Metrics => return Err(unsupported(builtin)),
        Builtin::Signal { .. }
        | Builtin::Resize { .. }
        | Builtin::Processes
        | Builtin::SetIdleTimeout { .. }
        | Builtin::Extend { .. } => return Err(unsupported(builtin)),
        Builtin::Pack { path } => return archive::pack(home, path, streams),
        Builtin::Unpack { path, file } => return archive::unpack(home, path, *file, streams),
        Builtin::Connect { port } => to_json(connect::connect(*port, streams)?),
        #[cfg(target_os = "linux")]
        Builtin::Ports => to_json(ports::ports(streams)?),
        #[cfg(target_os = "linux")]
        Builtin::WaitForPort { port, timeout_ms } => {
            to_json(ports::wait_for_port(*port, *timeout_ms, streams)?)
        }
        #[cfg(not(target_os = "linux"))]
        Builtin::Ports | Builtin::WaitForPort { .. } => return Err(unsupported(builtin)),
    };
    result.map_err(|error| BuiltinError::other(format!("cannot encode the result: {error}")))
}

/// Measures all processes that this one sees, except itself. In a confined sandbox, these are its
/// processes.
#[cfg(target_os = "linux")]
fn metrics() -> Result<ProcessUsage, BuiltinError> {
    let me = std::process::id().cast_signed();
    let measured = pids().and_then(|pids| usage(pids.into_iter().filter(|pid| *pid != me)));
    measured.map_err(|error| {
        BuiltinError::other(format!("cannot measure the sandbox: {}", reason(&error)))
    })
}

/// The result of a builtin without a value: an empty object.
#[derive(Serialize)]
struct Done {}

fn to_json(result: impl Serialize) -> serde_json::Result<Value> {
    serde_json::to_value(result)
}

fn unsupported(builtin: &Builtin) -> BuiltinError {
    BuiltinError {
        kind: BuiltinErrorKind::Unsupported,
        path: builtin.path().cloned(),
        message: format!("the server does not support `{}`", builtin.op()),
    }
}

/// The error of an operation on a path. `what` is the operation, for example `read`.
pub(super) fn failure(what: &str, path: &FilePath, error: &io::Error) -> BuiltinError {
    BuiltinError::new(
        kind(error),
        path.clone(),
        format!("cannot {what} '{path}': {}", reason(error)),
    )
}

fn kind(error: &io::Error) -> BuiltinErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => BuiltinErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => BuiltinErrorKind::PermissionDenied,
        Io::NotADirectory => BuiltinErrorKind::NotADirectory,
        Io::IsADirectory => BuiltinErrorKind::IsADirectory,
        Io::AlreadyExists => BuiltinErrorKind::AlreadyExists,
        Io::DirectoryNotEmpty => BuiltinErrorKind::NotEmpty,
        Io::StorageFull | Io::QuotaExceeded => BuiltinErrorKind::NoSpace,
        Io::FileTooLarge => BuiltinErrorKind::TooLarge,
        Io::InvalidInput | Io::InvalidFilename => BuiltinErrorKind::InvalidInput,
        // `open` fails with ENXIO for a socket, and for a pipe without a reader.
        _ if error.raw_os_error() == Some(Errno::ENXIO as i32) => BuiltinErrorKind::NotAFile,
        _ => BuiltinErrorKind::Other,
    }
}

/// The text of an error, without its number.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod testing;
