//! [`Storage`]: where the state of servers is kept, as files of a name. [`Directory`](super::directory::Directory) and
//! `Bucket` are such.

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

/// The beginning of the names of files that are being written.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// The directories of archives.
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// Most bytes of a small file that are read: a lock takes a few hundred.
pub(super) const MAX_SMALL_BYTES: u64 = 64 * 1024;

/// What is asked at the last moment before an archive is put in its place: an error forbids it.
pub(super) type Fence<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

/// Files by names like `locks/ID/1`. Each is whole or not there, and several servers may share them. Blocking: not to be
/// called where futures are polled, but for [`forget`](Self::forget).
///
/// What is not there is an error of the kind `NotFound`, unless it says otherwise.
pub(crate) trait Storage: Send + Sync {
    /// The names of the files right below a directory; none for a directory that is not there.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// A small file; no more than its first [`MAX_SMALL_BYTES`].
    fn read(&self, name: &str) -> io::Result<(Vec<u8>, Stamp)>;

    /// Makes a small file. False: there is one of this name. Of several that try at once one alone succeeds.
    fn create(&self, name: &str, data: &[u8]) -> io::Result<bool>;

    /// Replaces the small file that was read. False: it is not that one any more, where that can be told.
    fn replace(&self, name: &str, data: &[u8], old: &Stamp) -> io::Result<bool>;

    /// Makes a small file, or replaces it whatever it is.
    fn write(&self, name: &str, data: &[u8]) -> io::Result<()>;

    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes all files right below a directory.
    fn remove_all(&self, directory: &str) -> io::Result<()>;

    /// Removes a file soon. Does not block, and nobody hears of a failure.
    fn forget(&self, name: &str);

    /// Which file of a name there is.
    fn stamp(&self, name: &str) -> io::Result<Stamp>;

    /// The directory of this machine in which an archive of this name is packed.
    fn workplace(&self, name: &str) -> PathBuf;

    /// Puts an archive in its place, where it replaces another, unless it was told to stop or `fence` forbids it.
    fn put(&self, archive: Packed, name: &str, fence: Fence<'_>) -> io::Result<()>;

    /// An archive, from its beginning; no more of it is fetched than is read.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>>;

    /// A whole archive, on this machine. Fails if it is larger than one within the bounds can be.
    fn fetch(&self, name: &str, bounds: &Bounds, turn: &Turn) -> io::Result<fs::File>;

    /// How often it may be looked at for somebody who waits, where locks are good for so long.
    fn look_every(&self, lease: Duration) -> Duration;
}

/// Tells a file from another that takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The storage's own mark of what it holds.
    pub(super) tag: Option<String>,
    pub(super) version: Option<String>,
    pub(super) modified: SystemTime,
}
