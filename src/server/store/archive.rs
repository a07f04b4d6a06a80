//! The archives of the store: directory trees as a tar archive, compressed by zstd. Blocking.
//! [`Packer`] writes one, [`unpack`] reads one.
//!
//! Neither the trees nor the archives are trusted:
//!
//! - Links are stored, never followed. A pipe is never opened. Files may grow and shrink while they
//!   are stored.
//! - An archive holds the [`Trees`] of its backend and nothing else. Nothing is unpacked outside of
//!   them, whatever the archive says.
//! - [`Bounds`] limit what is packed and unpacked. Memory is bounded as well.
//!
//! What is kept:
//!
//! - Directories, files, symbolic links, permissions but for set-user-id, set-group-id and sticky
//!   bits, times to the nanosecond, holes. A file with several names becomes several files.
//! - Sockets, pipes and devices are left out.
//! - A file or directory that cannot be read fails the whole, by its name.

mod pack;
mod pieces;
mod unpack;

use std::{io, path::PathBuf};

pub(super) use pack::{Packed, Packer, remove_if_left_behind};
pub(super) use unpack::{read_execs, read_record, unpack};

/// The trees that archives hold: `HOME`, and the directory for temporary files.
pub(in crate::server) const HOME: &str = "home";
pub(in crate::server) const TEMPORARY: &str = "tmp";

/// The tree of what else is at `/`, of a backend in which a sandbox has a root of its own.
pub(in crate::server) const ROOT: &str = "root";

/// The tree with the memory of processes, of a backend that can store it.
pub(in crate::server) const MEMORY: &str = "memory";

/// Name of the record, the first entry of an archive that has one.
const RECORD: &str = "record.json";

/// Name of the second entry, with the execs that were not acknowledged. Older archives have none.
const EXECS: &str = "execs.json";

/// The PAX key of the time of an entry, in seconds with a fraction (POSIX.1-2017, pax).
const MTIME: &str = "mtime";

/// Largest record, in bytes.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// Most bytes of the stored execs.
const MAX_EXECS_BYTES: u64 = 256 * 1024 * 1024;

/// The directories of a sandbox that its archives hold.
#[derive(Clone, Debug)]
pub(in crate::server) struct Trees {
    /// The directory of the sandbox, which holds them.
    pub(in crate::server) directory: PathBuf,
    pub(in crate::server) trees: Vec<Tree>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Tree {
    pub(in crate::server) name: &'static str,
    /// The user who owns what is unpacked; `None`: the user of this process.
    pub(in crate::server) owner: Option<u32>,
    /// Whether it holds files only: neither directories nor links.
    pub(in crate::server) files_only: bool,
}

impl Tree {
    pub(in crate::server) fn new(name: &'static str, owner: Option<u32>) -> Self {
        Self {
            name,
            owner,
            files_only: false,
        }
    }
}

/// Limits of one archive. They are the same for packing and unpacking, so that what is stored can be
/// restored.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Bounds {
    /// Most bytes of the archive before it is compressed.
    pub(in crate::server) bytes: u64,
    /// Most files, directories and links.
    pub(in crate::server) files: u64,
}

impl Bounds {
    /// Most bytes of the archive after it is compressed. zstd adds little to what it cannot compress.
    #[cfg(feature = "object-store")]
    pub(super) fn compressed_bytes(&self) -> u64 {
        self.bytes
            .saturating_add(self.bytes / 128)
            .saturating_add(64 * 1024)
    }

    pub(super) fn too_many_bytes(&self) -> io::Error {
        too_large(format!(
            "it holds more than {} bytes, the limit of this server for an archive (`max_archive_size`)",
            self.bytes
        ))
    }

    fn too_many_files(&self) -> io::Error {
        too_large(format!(
            "it holds more than {} files, the limit of this server for an archive (`max_archive_files`)",
            self.files
        ))
    }
}

fn too_large(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

/// What stands before the files in the archive of a checkpoint.
pub(super) struct Head {
    pub(super) record: Vec<u8>,
    pub(super) execs: Vec<u8>,
}

#[cfg(test)]
mod tests;
