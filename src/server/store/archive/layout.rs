//! The layout and the limits of the store's archives: tar archives of directory trees, compressed
//! with LZ4. `pack` writes an archive and `unpack` reads one. Both block.
//!
//! Neither the trees nor the archives are trusted:
//!
//! - Symbolic links are stored, never followed. Pipes are never opened. Files may grow and shrink
//!   while they are stored.
//! - An archive may hold only the [`Trees`] of its backend. Nothing is unpacked outside of them,
//!   whatever the archive contains.
//! - [`Bounds`] limit the size of archives, both for packing and for unpacking. Memory is limited
//!   too.
//!
//! The contents of an archive:
//!
//! - Kept: directories, files, symbolic links, permissions except set-user-id, set-group-id and
//!   sticky bits, modification times to the nanosecond, and holes. Each hard link becomes a
//!   separate file.
//! - Skipped: sockets, pipes and devices.
//! - If a file or directory can't be read, the whole operation fails with its name in the error.

use std::{io, path::PathBuf};

/// The tree with the home directory of the sandbox.
pub(crate) const HOME: &str = "home";

/// The tree with the temporary files of the sandbox.
pub(crate) const TEMPORARY: &str = "tmp";

/// The tree with all other files in `/`, for backends in which a sandbox has its own root.
pub(crate) const ROOT: &str = "root";

/// The tree with the memory of processes, for backends that can store it.
pub(crate) const MEMORY: &str = "memory";

/// Name of the record of a checkpoint, the first entry of its archive.
pub(super) const RECORD: &str = "record.json";

/// Name of the second entry of a checkpoint, which holds the ended execs that were not
/// acknowledged. Older checkpoints lack it.
pub(super) const EXECS: &str = "execs.json";

/// Largest record, in bytes. The largest variables and labels need about 500 KiB, because JSON
/// writes a control character as 6 bytes.
pub(super) const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// Largest list of stored execs, in bytes.
pub(super) const MAX_EXECS_BYTES: u64 = 256 * 1024 * 1024;

/// The directories of a sandbox that its archives hold.
#[derive(Clone, Debug)]
pub(crate) struct Trees {
    /// The directory of the sandbox. Each tree is directly below it.
    pub(crate) directory: PathBuf,
    pub(crate) trees: Vec<Tree>,
}

/// One directory tree of a sandbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) name: &'static str,
    /// User ID and group ID of everything that is unpacked. `None`: those of the server.
    pub(crate) owner: Option<u32>,
    /// Whether the tree may contain only files: neither directories nor links.
    pub(crate) files_only: bool,
}

impl Tree {
    pub(crate) fn new(name: &'static str, owner: Option<u32>) -> Self {
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
pub(crate) struct Bounds {
    /// Maximum bytes of the archive before compression.
    pub(crate) bytes: u64,
    /// Maximum number of files, directories and links.
    pub(crate) files: u64,
}

impl Bounds {
    /// Maximum bytes of the compressed archive. LZ4 adds a few bytes to each block that it can't
    /// compress.
    #[cfg(feature = "object-store")]
    pub(crate) fn compressed_bytes(&self) -> u64 {
        self.bytes
            .saturating_add(self.bytes / 128)
            .saturating_add(64 * 1024)
    }

    pub(crate) fn too_many_bytes(&self) -> io::Error {
        too_large(format!(
            "the archive exceeds this server's limit of {} bytes (`max_archive_size`)",
            self.bytes
        ))
    }

    pub(super) fn too_many_files(&self) -> io::Error {
        too_large(format!(
            "the archive exceeds this server's limit of {} files (`max_archive_files`)",
            self.files
        ))
    }
}

pub(super) fn too_large(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

/// The entries that precede the files in the archive of a checkpoint.
pub(crate) struct Head {
    pub(crate) record: Vec<u8>,
    pub(crate) execs: Vec<u8>,
}
