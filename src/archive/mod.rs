//! Tar archives of directory trees: [`pack`] writes one and [`unpack`] reads one. Both block.
//!
//! The client and the builtins in the sandbox use them to move files. The store of the server
//! shares the parts that read and write single entries, and adds its own layout, limits and
//! compression.
//!
//! **An archive is hostile input.** Nothing is written outside the destination, whatever the
//! archive contains. Entries are in depth-first order: a directory comes before its entries, and
//! its entries come before its siblings. The reader refuses any other order. So each parent of an
//! entry is a directory that the reader has created or checked, never a link, and the reader
//! remembers only the parents of the current entry.
//!
//! The reader checks a path and then creates the entry, in two steps. The client assumes that no
//! hostile process changes the destination. In a sandbox, code may replace a directory with a link
//! between the two steps. But there, the reader runs as the user of code, and can do no more than
//! code can.
//!
//! The contents of an archive:
//!
//! - Preserved: directories, files, symbolic links, permissions (except the set-user-id,
//!   set-group-id and sticky bits), modification times to the nanosecond, and holes. Each hard link
//!   becomes a separate file. Names and targets of links need not be UTF-8.
//! - Skipped and reported in [`Summary::skipped`]: sockets, pipes and devices, files that are
//!   removed meanwhile, and names and links that the destination's operating system can't
//!   represent.
//! - Refused: everything else, for example a file that can't be read, or an archive with a hard
//!   link.
//!
//! While a file is being written, it has the default permissions of the process.
//!
//! Memory: buffers of 64 KiB, the headers of one entry (at most 2 MiB), and for packing, the names
//! in the current directory and its parents.

pub(crate) mod entries;
pub(crate) mod error;
pub(crate) mod pack;
pub(crate) mod reading;
pub(crate) mod sparse;
mod unpack;
pub(crate) mod walk;
#[cfg(any(windows, test))]
mod windows;

#[cfg(test)]
#[cfg(unix)]
mod tests;

use std::{ffi::OsString, io};

use crate::protocol::{FilePath, SkippedFile};

pub(crate) use self::{
    error::{ArchiveError, ArchiveErrorKind},
    pack::pack,
    unpack::{Limits, unpack, unpack_file},
};

/// How the name of a file begins that becomes another file when it is complete. 16 random
/// hexadecimal digits follow.
pub(crate) const UNFINISHED: &str = ".actix-sandbox-";

/// The name of an unfinished file: hidden, and random, so that code in a sandbox can't prepare a
/// file of this name.
pub(crate) fn unfinished_name() -> io::Result<OsString> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!("{UNFINISHED}{:016x}", u64::from_ne_bytes(random)).into())
}

/// Maximum number of skipped files that a summary lists.
const MAX_SKIPPED: usize = 1_000;

/// The progress of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The number of bytes of the archive that were written or read so far.
    pub(crate) bytes: u64,
    /// The number of files, directories and links that the operation has started with.
    pub(crate) entries: u64,
}

/// The result of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The sum of the sizes of the files.
    pub(crate) bytes: u64,
    /// The number of files, directories and links, without the skipped ones.
    pub(crate) entries: u64,
    /// The skipped files, at most 1,000, by their paths in the archive. Entries of a skipped
    /// directory are not listed.
    pub(crate) skipped: Vec<SkippedFile>,
    /// The number of skipped files, including those beyond 1,000. A skipped directory counts once,
    /// whatever it contains.
    pub(crate) skipped_count: u64,
}

impl Summary {
    fn skip(&mut self, path: impl Into<FilePath>, reason: impl Into<String>) {
        self.skipped_count += 1;
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push(SkippedFile::new(path, reason));
        }
    }
}
