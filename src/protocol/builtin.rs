//! [`Builtin`]: an operation that the server provides, which an exec runs instead of code (v2).

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
/// [`BuiltinError`](super::BuiltinError).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Builtin {
    /// Writes the bytes of a file to stdout. Result: [`Transferred`](super::Transferred).
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
    /// Writes stdin to a file. Result: [`Transferred`](super::Transferred).
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
    /// Writes the entries of a directory to stdout: one [`FileEntry`](super::FileEntry) as JSON on
    /// each line. Result: an empty object.
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
    /// Describes a file. Result: [`FileMetadata`](super::FileMetadata).
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
    /// [`Write`](Self::Write). Result: [`Transferred`](super::Transferred).
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
    /// Writes the changes at and below a path to stdout: one [`FileEvent`](super::FileEvent) as
    /// JSON on each line. The first line is [`Ready`](super::FileEvent::Ready). Runs until stdin
    /// ends, or until the path is removed or moved. Result: an empty object.
    Watch {
        /// The file or directory.
        path: FilePath,
        /// Whether to watch all directories below it, too.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    },
    /// Writes a tar archive of a file or directory to stdout. Result:
    /// [`Transferred`](super::Transferred), with the files that were skipped.
    Pack {
        /// The file or directory. The names in the archive are relative to the directory. A file is
        /// stored under its own name.
        path: FilePath,
    },
    /// Unpacks a tar archive from stdin. Result: [`Transferred`](super::Transferred), with the
    /// files that were skipped.
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

/// The result of [`Builtin::Extend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// The new end of the lifetime, in milliseconds since 1970-01-01 UTC.
    pub ends_at_ms: u64,
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
    use crate::protocol::{BuiltinError, BuiltinErrorKind, FileEntry, FileEvent, FileKind};

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
