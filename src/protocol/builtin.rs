//! [`Builtin`]: an operation that the server provides, which an exec runs instead of code (v2).

use std::{
    io,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    ExecId, FilePath, TerminalSize,
    names::{
        FEATURE_BUILTINS, FEATURE_LIFETIME, FEATURE_METRICS, FEATURE_PORTS, FEATURE_SIGNALS,
        FEATURE_TERMINALS,
    },
};

/// Maximum length of the result of a builtin as JSON, in bytes: 64 KiB.
pub const MAX_RESULT_BYTES: usize = 64 * 1024;

/// An operation on a sandbox. The server provides it as a program, which an exec runs instead of
/// code.
///
/// Instead of an exit code, the exec ends with a result, which is a JSON object, or with a
/// [`BuiltinError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Builtin {
    /// Writes the bytes of a file to stdout. Result: [`Transferred`].
    Read {
        /// The file.
        path: FilePath,
        /// How many bytes of the file to skip. Default: 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        offset: u64,
        /// Maximum number of bytes to read. Default: up to the end of the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Writes stdin to a file. Result: [`Transferred`].
    Write {
        /// The file. Missing parent directories are created.
        path: FilePath,
        /// What happens to the old content of the file.
        #[serde(default)]
        mode: WriteMode,
        /// The permission bits of the file. Default: those of the old file, or 0644 for a new file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permissions: Option<u32>,
    },
    /// Writes the entries of a directory to stdout: one [`FileEntry`] as JSON on each line. Result:
    /// an empty object.
    List {
        /// The directory.
        path: FilePath,
        /// The number of levels to list. 1 lists only the direct entries of the directory.
        #[serde(default = "one")]
        depth: u32,
        /// Lists only the entries whose name matches. `*` matches any number of characters, `?`
        /// exactly one. Default: every name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
    },
    /// Describes a file. Result: [`FileMetadata`].
    Metadata {
        /// The file.
        path: FilePath,
        /// Whether to describe the target of a symbolic link instead of the link.
        #[serde(default, skip_serializing_if = "is_false")]
        follow: bool,
    },
    /// Creates a directory and its missing parents. Succeeds if the directory already exists.
    /// Result: an empty object.
    CreateDir {
        /// The directory.
        path: FilePath,
    },
    /// Removes a file, a link or an empty directory. Result: an empty object.
    Remove {
        /// The file or directory.
        path: FilePath,
        /// Whether to remove a directory with everything in it.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    },
    /// Renames a file or directory. Replaces a file at the new path. Result: an empty object.
    Rename {
        /// The old path.
        path: FilePath,
        /// The new path.
        to: FilePath,
    },
    /// Copies a regular file with its permissions. Replaces a file at the new path atomically, like
    /// [`Write`](Self::Write). Result: [`Transferred`].
    Copy {
        /// The file.
        path: FilePath,
        /// The path of the copy.
        to: FilePath,
    },
    /// Sets the permission bits of a file. Result: an empty object.
    SetPermissions {
        /// The file.
        path: FilePath,
        /// The permission bits, at most 0o7777.
        permissions: u32,
    },
    /// Creates a link. Fails if `path` exists. Result: an empty object.
    Link {
        /// The path of the link.
        path: FilePath,
        /// The path that the link points to. The target of a symbolic link need not exist.
        target: FilePath,
        /// Whether the link is symbolic. Otherwise it is a hard link.
        symbolic: bool,
    },
    /// Writes the changes at and below a path to stdout: one [`FileEvent`] as JSON on each line.
    /// The first line is [`Ready`](FileEvent::Ready). Runs until stdin ends, or until the path is
    /// removed or moved. Result: an empty object.
    Watch {
        /// The file or directory.
        path: FilePath,
        /// Whether to watch all directories below it, too.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    },
    /// Writes a tar archive of a file or directory to stdout. Result: [`Transferred`], with the
    /// files that were skipped.
    Pack {
        /// The file or directory. The names in the archive are relative to the directory. A file is
        /// stored under its own name.
        path: FilePath,
    },
    /// Unpacks a tar archive from stdin. Result: [`Transferred`], with the files that were skipped.
    Unpack {
        /// The directory to unpack into, which is created if it does not exist. With `file`, the
        /// path of the file.
        path: FilePath,
        /// Whether the archive contains exactly one file, which replaces the file at `path`
        /// atomically. Missing parent directories are created.
        #[serde(default, skip_serializing_if = "is_false")]
        file: bool,
    },
    /// Sends a signal to the main process of another exec. Result: an empty object.
    Signal {
        /// The id of the exec. It must run a program, not a builtin.
        exec: ExecId,
        /// The number of the signal on Linux, from 1 to 64.
        signal: i32,
        /// Whether to send the signal to the process group of the main process. The group contains
        /// its children, unless they have changed their group.
        #[serde(default, skip_serializing_if = "is_false")]
        group: bool,
    },
    /// Changes the size of the terminal of another exec. Result: an empty object.
    Resize {
        /// The id of the exec, which must have a terminal.
        exec: ExecId,
        /// The new size.
        size: TerminalSize,
    },
    /// Connects to a TCP port of the sandbox: to `127.0.0.1`, or to `::1` if that is refused. Stdin
    /// and stdout are the two directions of the connection. The first line of stdout is
    /// [`Connected`](super::ConnectEvent::Connected). The end of stdin ends the direction to the
    /// program that listens. Stdout ends when that program ends the other direction. Result: an
    /// empty object, when both directions have ended.
    Connect {
        /// The port.
        port: u16,
    },
    /// Writes the TCP ports on which programs listen to stdout: one
    /// [`ListeningPort`](super::ListeningPort) as JSON on each line. Result: an empty object.
    Ports,
    /// Waits until a program listens on a TCP port that [`Connect`](Self::Connect) can connect to.
    /// Result: an empty object.
    WaitForPort {
        /// The port.
        port: u16,
        /// How long to wait, in milliseconds. Default: no limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Measures the sandbox. Result: [`Metrics`](super::Metrics).
    Metrics,
    /// Lists the named execs whose main process runs. Result: `RunningExecs` in `protocol`.
    Processes,
    /// Changes the idle timeout of the sandbox. Result: an empty object.
    SetIdleTimeout {
        /// The new timeout in seconds, at least 1.
        seconds: u64,
    },
    /// Moves the end of the sandbox's lifetime. Fails if the sandbox has no maximum lifetime.
    /// Result: an object with `ends_at_ms`, the new end in milliseconds since 1970-01-01 UTC.
    Extend {
        /// How many seconds later the sandbox ends, at least 1.
        seconds: u64,
    },
}

impl Builtin {
    /// The name of the operation on the wire.
    pub fn op(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::List { .. } => "list",
            Self::Metadata { .. } => "metadata",
            Self::CreateDir { .. } => "create_dir",
            Self::Remove { .. } => "remove",
            Self::Rename { .. } => "rename",
            Self::Copy { .. } => "copy",
            Self::SetPermissions { .. } => "set_permissions",
            Self::Link { .. } => "link",
            Self::Watch { .. } => "watch",
            Self::Pack { .. } => "pack",
            Self::Unpack { .. } => "unpack",
            Self::Signal { .. } => "signal",
            Self::Resize { .. } => "resize",
            Self::Connect { .. } => "connect",
            Self::Ports => "ports",
            Self::WaitForPort { .. } => "wait_for_port",
            Self::Metrics => "metrics",
            Self::Processes => "processes",
            Self::SetIdleTimeout { .. } => "set_idle_timeout",
            Self::Extend { .. } => "extend",
        }
    }

    /// The feature that a server lists if it provides this operation.
    pub(crate) fn feature(&self) -> &'static str {
        match self {
            Self::Signal { .. } => FEATURE_SIGNALS,
            Self::Resize { .. } => FEATURE_TERMINALS,
            Self::Connect { .. } | Self::Ports | Self::WaitForPort { .. } => FEATURE_PORTS,
            Self::Metrics | Self::Processes => FEATURE_METRICS,
            Self::SetIdleTimeout { .. } | Self::Extend { .. } => FEATURE_LIFETIME,
            _ => FEATURE_BUILTINS,
        }
    }

    /// The path of the operation, if it has one. For an operation on two paths, the one named
    /// `path`.
    pub fn path(&self) -> Option<&FilePath> {
        Some(match self {
            Self::Read { path, .. }
            | Self::Write { path, .. }
            | Self::List { path, .. }
            | Self::Metadata { path, .. }
            | Self::CreateDir { path }
            | Self::Remove { path, .. }
            | Self::Rename { path, .. }
            | Self::Copy { path, .. }
            | Self::SetPermissions { path, .. }
            | Self::Link { path, .. }
            | Self::Watch { path, .. }
            | Self::Pack { path }
            | Self::Unpack { path, .. } => path,
            Self::Signal { .. }
            | Self::Resize { .. }
            | Self::Connect { .. }
            | Self::Ports
            | Self::WaitForPort { .. }
            | Self::Metrics
            | Self::Processes
            | Self::SetIdleTimeout { .. }
            | Self::Extend { .. } => return None,
        })
    }
}

/// What [`Builtin::Write`] does with the old content of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WriteMode {
    /// Replaces the file atomically when all input has arrived. Until then, it stays unchanged.
    #[default]
    Replace,
    /// Like `Replace`, but fails if anything exists at the path.
    Create,
    /// Appends to the file as the input arrives. Creates the file if it doesn't exist.
    Append,
    /// Overwrites the file as the input arrives, starting at this offset. Keeps all other bytes.
    /// Creates the file if it doesn't exist.
    At(u64),
}

/// The result of a builtin that moves bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transferred {
    /// How many bytes of files were read or written.
    pub bytes: u64,
    /// How many files, directories and links were packed or unpacked. 1 for an operation on one
    /// file.
    #[serde(default)]
    pub entries: u64,
}

impl Transferred {
    /// Creates a result with these numbers.
    pub fn new(bytes: u64, entries: u64) -> Self {
        Self { bytes, entries }
    }
}

/// The result of [`Builtin::Extend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// The new end of the lifetime, in milliseconds since 1970-01-01 UTC.
    pub ends_at_ms: u64,
}

/// The result of [`Builtin::Pack`] and [`Builtin::Unpack`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveResult {
    /// The bytes of the files, and how many files, directories and links were packed or unpacked.
    #[serde(flatten)]
    pub transferred: Transferred,
    /// The first skipped files, as many as fit into the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedFile>,
    /// The number of all skipped files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_count: u64,
}

/// A file that was not transferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SkippedFile {
    /// The path, relative to the directory that was transferred.
    pub path: FilePath,
    /// Why the file was skipped.
    pub reason: String,
}

impl SkippedFile {
    /// Creates the report of a file that was not transferred.
    pub fn new(path: impl Into<FilePath>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket or a device, or a kind that this version doesn't know.
    #[serde(other)]
    Other,
}

/// The properties of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileMetadata {
    /// The kind of the file.
    pub kind: FileKind,
    /// The size in bytes.
    pub size: u64,
    /// The permission bits, at most 0o7777.
    pub permissions: u32,
    /// The time of the last modification, in nanoseconds since 1970-01-01 UTC. Negative before.
    pub modified_ns: i64,
    /// The target, if this is a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<FilePath>,
}

impl FileMetadata {
    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind == FileKind::Symlink
    }

    /// The time of the last modification.
    pub fn modified(&self) -> SystemTime {
        let distance = Duration::from_nanos(self.modified_ns.unsigned_abs());
        match self.modified_ns >= 0 {
            true => SystemTime::UNIX_EPOCH + distance,
            false => SystemTime::UNIX_EPOCH - distance,
        }
    }

    /// Creates metadata without a link target.
    pub fn new(kind: FileKind, size: u64, permissions: u32, modified_ns: i64) -> Self {
        Self {
            kind,
            size,
            permissions,
            modified_ns,
            target: None,
        }
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileEntry {
    /// The path, relative to the listed directory.
    pub path: FilePath,
    /// The properties of the entry. If it is a symbolic link, those of the link itself.
    #[serde(flatten)]
    pub metadata: FileMetadata,
}

impl FileEntry {
    /// Creates an entry.
    pub fn new(path: FilePath, metadata: FileMetadata) -> Self {
        Self { path, metadata }
    }
}

/// A change that [`Builtin::Watch`] reports. All paths are relative to the watched path. An empty
/// path stands for the watched path itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileEvent {
    /// The watch is ready: it reports every later change. `Files::watch` waits for this event, so
    /// its stream doesn't contain it.
    Ready,
    /// A file or directory was created, or moved here from elsewhere.
    Created {
        /// The file or directory.
        path: FilePath,
    },
    /// The content or an attribute of a file or directory changed, for example its permissions.
    Modified {
        /// The file or directory.
        path: FilePath,
    },
    /// A file or directory was removed, or moved elsewhere.
    Removed {
        /// The file or directory.
        path: FilePath,
    },
    /// A file or directory was renamed.
    Renamed {
        /// The old path.
        path: FilePath,
        /// The new path.
        to: FilePath,
    },
    /// Changes were lost: they came faster than they were read, or there are too many directories
    /// to watch. List the directory to find the changes.
    Overflow,
    /// A change of a kind that this version doesn't know.
    #[serde(other)]
    Other,
}

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

fn one() -> u32 {
    1
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtins_keep_their_form_on_the_wire() {
        let read = Builtin::Read {
            path: "in.csv".into(),
            offset: 0,
            length: None,
        };
        let json = serde_json::to_string(&read).unwrap();
        assert_eq!(json, r#"{"op":"read","path":"in.csv"}"#);
        assert_eq!(serde_json::from_str::<Builtin>(&json).unwrap(), read);
        let write = r#"{"op":"write","path":"a","mode":{"at":5},"permissions":420}"#;
        let Builtin::Write {
            mode, permissions, ..
        } = serde_json::from_str(write).unwrap()
        else {
            panic!()
        };
        assert_eq!((mode, permissions), (WriteMode::At(5), Some(0o644)));
        let ports = serde_json::to_string(&Builtin::Ports).unwrap();
        assert_eq!(ports, r#"{"op":"ports"}"#);
        let ports = r#"{"op":"ports","new":1}"#;
        let ports: Builtin = serde_json::from_str(ports).unwrap();
        assert_eq!(ports, Builtin::Ports);
        let large = r#"{"op":"connect","port":70000}"#;
        assert!(serde_json::from_str::<Builtin>(large).is_err());
    }

    #[test]
    fn unknown_kinds_are_other() {
        let error = r#"{"kind":"on_fire","message":"m"}"#;
        let error: BuiltinError = serde_json::from_str(error).unwrap();
        assert_eq!(error.kind, BuiltinErrorKind::Other);
        let event = r#"{"event":"painted","path":"a"}"#;
        let event: FileEvent = serde_json::from_str(event).unwrap();
        assert_eq!(event, FileEvent::Other);
        let file = r#"{"path":"a","kind":"door","size":1,"permissions":420,"modified_ns":-1}"#;
        let entry: FileEntry = serde_json::from_str(file).unwrap();
        assert_eq!(entry.metadata.kind, FileKind::Other);
    }
}
