//! The results of builtins that work on files, and the events of a watch (v2).

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::FilePath;

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

/// The result of [`Builtin::Pack`](super::Builtin::Pack) and
/// [`Builtin::Unpack`](super::Builtin::Unpack).
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

/// A change that [`Builtin::Watch`](super::Builtin::Watch) reports. All paths are relative to the
/// watched path. An empty path stands for the watched path itself.
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

fn is_zero(number: &u64) -> bool {
    *number == 0
}
