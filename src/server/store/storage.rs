//! [`Storage`]: the trait of storages that keep the state of servers as named files.
//! [`Directory`](super::directory::Directory) and `Bucket` implement it.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    archive::{layout::Bounds, pack::Packed},
    turns::Turn,
};

/// Prefix of the names of unfinished files.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// The directories of archives.
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// Maximum size of a small file, in bytes. A lock takes a few hundred.
pub(super) const MAX_SMALL_BYTES: u64 = 64 * 1024;

/// Checks, right before an archive is stored under its name, that this server may still store it.
/// An error prevents that.
pub(super) type Fence<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

/// Files with names like `locks/ID/1`. Each file is whole or absent. Several servers may share a
/// storage.
///
/// All methods except [`forget`](Self::forget) block, so a future must not call them. Unless a
/// method says otherwise, it fails with the kind `NotFound` if the file doesn't exist.
pub(crate) trait Storage: Send + Sync {
    /// The names of the files directly in a directory. Empty if the directory doesn't exist.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Reads a small file. If it is larger than [`MAX_SMALL_BYTES`], fails or returns only its
    /// start.
    fn read(&self, name: &str) -> io::Result<(Vec<u8>, Stamp)>;

    /// Creates a small file. Returns false if one with this name exists. If several callers try
    /// concurrently, exactly one of them succeeds.
    fn create(&self, name: &str, data: &[u8]) -> io::Result<bool>;

    /// Replaces the small file that was read. Returns false if it has changed since then, if the
    /// storage can detect that.
    fn replace(&self, name: &str, data: &[u8], old: &Stamp) -> io::Result<bool>;

    /// Creates or replaces a small file.
    fn write(&self, name: &str, data: &[u8]) -> io::Result<()>;

    /// Removes a file, if it exists.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes all files directly in a directory.
    fn remove_all(&self, directory: &str) -> io::Result<()>;

    /// Removes a file, possibly in the background. Doesn't wait for the network, and ignores
    /// errors.
    fn forget(&self, name: &str);

    /// The stamp of the file that currently has this name.
    fn stamp(&self, name: &str) -> io::Result<Stamp>;

    /// The directory on this machine in which an archive with this name is packed.
    fn workplace(&self, name: &str) -> PathBuf;

    /// Stores an archive, which replaces an older one with this name. Fails, and replaces nothing,
    /// if the operation was stopped or `fence` returns an error.
    fn put(&self, archive: Packed, name: &str, fence: Fence<'_>) -> io::Result<()>;

    /// A reader of an archive. Fetches data only as it is read.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>>;

    /// Fetches a whole archive to this machine. A download fails if the archive is larger than the
    /// bounds allow.
    fn fetch(&self, name: &str, bounds: &Bounds, turn: &Turn) -> io::Result<fs::File>;

    /// How often locks with this lease may be polled.
    fn look_every(&self, lease: Duration) -> Duration;
}

/// Distinguishes a file from another that replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The ETag of an object, or the inode number of a file.
    pub(super) tag: Option<String>,
    pub(super) version: Option<String>,
    pub(super) modified: SystemTime,
}
