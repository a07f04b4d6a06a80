//! The archives of the store: directory trees as a tar archive, compressed by zstd. Blocking.
//! [`Packer`] writes one, [`unpack`] reads one.
//!
//! Neither the trees nor the archives are trusted:
//!
//! - Links are stored, never followed. Pipes are never opened. Files may grow and shrink while they
//!   are stored.
//! - An archive may hold only the [`Trees`] of its backend. Nothing is unpacked outside of them,
//!   whatever the archive contains.
//! - [`Bounds`] limit the size of archives when they are packed and unpacked. Memory is limited
//!   too.
//!
//! What is kept:
//!
//! - Kept: directories, files, symbolic links, permissions except set-user-id, set-group-id and
//!   sticky bits, timestamps to the nanosecond, and holes. Each hard link becomes a file of its
//!   own.
//! - Skipped: sockets, pipes and devices.
//! - If a file or directory can't be read, the whole operation fails with its name.

mod pack;
mod pieces;
mod unpack;

use std::{io, path::PathBuf};

pub(super) use pack::{Packed, Packer, remove_if_left_behind};
pub(super) use unpack::{read_execs, read_record, unpack};

/// The trees that archives hold: `HOME`, and the directory for temporary files.
pub(in crate::server) const HOME: &str = "home";
pub(in crate::server) const TEMPORARY: &str = "tmp";

/// The tree with all other files in `/`, for backends in which a sandbox has its own root.
pub(in crate::server) const ROOT: &str = "root";

/// The tree with the memory of processes, for backends that can store it.
pub(in crate::server) const MEMORY: &str = "memory";

/// Name of the record of a checkpoint, the first entry of its archive.
const RECORD: &str = "record.json";

/// Name of the second entry, with the execs that were not acknowledged. Older archives lack it.
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

/// One directory tree of a sandbox.
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

/// Limits of one archive. They are the same for packing and unpacking, so that every stored archive
/// can be restored.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Bounds {
    /// Maximum bytes of the archive before compression.
    pub(in crate::server) bytes: u64,
    /// Maximum number of files, directories and links.
    pub(in crate::server) files: u64,
}

impl Bounds {
    /// Maximum bytes of the compressed archive. zstd adds little to data that it can't compress.
    #[cfg(feature = "object-store")]
    pub(super) fn compressed_bytes(&self) -> u64 {
        self.bytes
            .saturating_add(self.bytes / 128)
            .saturating_add(64 * 1024)
    }

    pub(super) fn too_many_bytes(&self) -> io::Error {
        too_large(format!(
            "it holds more than {} bytes, this server's limit for an archive (`max_archive_size`)",
            self.bytes
        ))
    }

    fn too_many_files(&self) -> io::Error {
        too_large(format!(
            "it holds more than {} files, this server's limit for an archive (`max_archive_files`)",
            self.files
        ))
    }
}

fn too_large(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

/// The entries that precede the files in the archive of a checkpoint.
pub(super) struct Head {
    pub(super) record: Vec<u8>,
    pub(super) execs: Vec<u8>,
}

#[cfg(test)]
mod tests;
