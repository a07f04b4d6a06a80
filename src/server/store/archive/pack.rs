//! [`Packer`] writes an archive. [`Packed`] is a complete archive that is not yet in its final
//! place.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use lz4_flex::frame::FrameEncoder;
use tar::{Builder, Header};
use tempfile::TempPath;

use super::{
    codec,
    layout::{Bounds, EXECS, Head, MAX_EXECS_BYTES, MAX_RECORD_BYTES, RECORD, Trees, too_large},
};
use crate::{
    archive::{entries, sparse::Shrunk, walk::Walk},
    server::{
        private,
        store::{tree, turns::Turn},
    },
};

/// Compresses data, and limits its size before compression. Each write calls [`Turn::check`], so it
/// pauses and stops with the operation.
struct Bounded {
    encoder: FrameEncoder<BufWriter<fs::File>>,
    bounds: Bounds,
    written: u64,
    /// Whether a write has failed. A later use of the encoder would panic.
    has_failed: bool,
    turn: Turn,
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.turn.check()?;
        if self.written + data.len() as u64 > self.bounds.bytes {
            return Err(self.bounds.too_many_bytes());
        }
        // `Builder` writes the end of the archive when it is dropped, even after an error.
        if self.has_failed {
            return Err(io::Error::other("an earlier write has failed"));
        }
        let written = self.encoder.write(data);
        self.has_failed = written.is_err();
        self.written += *written.as_ref().unwrap_or(&0) as u64;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Writes an archive to a temporary file. Dropping the packer before [`finish`](Self::finish)
/// removes the file.
pub(crate) struct Packer {
    builder: Builder<Bounded>,
    unfinished: TempPath,
    bounds: Bounds,
    files: u64,
    turn: Turn,
}

impl Packer {
    /// Starts an archive in a temporary file in `directory`. Writes the head first, if there is
    /// one.
    pub(crate) fn create(
        directory: &Path,
        prefix: &str,
        head: Option<&Head>,
        bounds: Bounds,
        turn: &Turn,
    ) -> io::Result<Self> {
        let (file, unfinished) = begin(directory, prefix)?;
        let mut builder = Builder::new(Bounded {
            encoder: codec::encoder(BufWriter::new(file)),
            bounds,
            written: 0,
            has_failed: false,
            turn: turn.clone(),
        });
        if let Some(head) = head {
            for (name, data, most) in [
                (RECORD, &head.record, MAX_RECORD_BYTES),
                (EXECS, &head.execs, MAX_EXECS_BYTES),
            ] {
                if data.len() as u64 > most {
                    return Err(too_large(format!("{name} takes more than {most} bytes")));
                }
                let mut header = Header::new_gnu();
                header.set_size(data.len() as u64);
                header.set_mode(0o600);
                builder.append_data(&mut header, name, data.as_slice())?;
            }
        }
        Ok(Self {
            builder,
            unfinished,
            bounds,
            files: 0,
            turn: turn.clone(),
        })
    }

    /// Adds the trees of a sandbox. Skips trees that don't exist.
    pub(crate) fn add_trees(&mut self, trees: &Trees) -> io::Result<()> {
        let mut trees = trees
            .trees
            .iter()
            .map(|tree| (tree.name, trees.directory.join(tree.name)));
        trees.try_for_each(|(name, tree)| self.add_tree(name, &tree))
    }

    /// Adds a directory tree under this name, in depth-first order: each directory comes before its
    /// entries, and they come before its siblings.
    pub(super) fn add_tree(&mut self, name: &str, tree: &Path) -> io::Result<()> {
        let mut walk = Walk::default();
        let top = self.add_named(Path::new(name), tree, 0)?;
        walk.enter(PathBuf::new(), top);
        while let Some(below) = walk.next() {
            self.turn.check()?;
            let (stored, path) = (Path::new(name).join(&below), tree.join(&below));
            let names = self.add_named(&stored, &path, walk.pending())?;
            walk.enter(below, names);
        }
        Ok(())
    }

    /// Like [`add`](Self::add), but an error contains the name of the entry.
    ///
    /// Skips an entry that code in the sandbox has just removed or replaced. Once a part of an
    /// entry is written, every error fails the archive: an incomplete entry would shift all later
    /// entries.
    fn add_named(&mut self, stored: &Path, path: &Path, pending: u64) -> io::Result<Vec<OsString>> {
        let written = self.builder.get_ref().written;
        match self.add(stored, path, pending) {
            Err(error) if is_replaced(&error) && self.builder.get_ref().written == written => {
                Ok(Vec::new())
            }
            Err(error) => {
                let what = format!("{}: {error}", stored.display());
                Err(io::Error::new(error.kind(), what))
            }
            added => added,
        }
    }

    /// Adds one file, link or directory. Returns the names in a directory, and no names for a file
    /// or a link.
    ///
    /// `pending` is the number of names that the caller holds in memory and has not added yet.
    /// These names and the names in the directory count towards the limit of files.
    pub(super) fn add(
        &mut self,
        stored: &Path,
        path: &Path,
        pending: u64,
    ) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        if kind.is_symlink() {
            let (meta, target) = tree::read_link(path)?;
            self.count()?;
            entries::append_link(&mut self.builder, stored, &meta, &target)?;
        } else if kind.is_dir() {
            let directory = tree::open(path)?;
            let meta = directory.metadata()?;
            self.count()?;
            let most = (self.bounds.files - self.files).saturating_sub(pending);
            for name in tree::names(&directory, path)? {
                self.turn.check()?;
                if names.len() as u64 >= most {
                    return Err(self.bounds.too_many_files());
                }
                names.push(name?);
            }
            entries::append_directory(&mut self.builder, stored, &meta)?;
        } else if kind.is_file() {
            self.add_file(stored, path)?;
        } else {
            debug_assert!(
                kind.is_fifo()
                    || kind.is_socket()
                    || kind.is_block_device()
                    || kind.is_char_device()
            );
            tracing::debug!(?kind, "skipped a file of a kind that archives don't store");
        }
        Ok(names)
    }

    fn count(&mut self) -> io::Result<()> {
        if self.files >= self.bounds.files {
            return Err(self.bounds.too_many_files());
        }
        self.files += 1;
        Ok(())
    }

    fn add_file(&mut self, stored: &Path, path: &Path) -> io::Result<()> {
        let file = tree::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(());
        }
        self.count()?;
        entries::append_file(&mut self.builder, stored, &file, &meta, Shrunk::Pad)
    }

    /// Completes the archive and syncs it to the disk.
    pub(crate) fn finish(self) -> io::Result<Packed> {
        let packed = self.builder.into_inner()?.encoder.finish()?;
        let written = packed.into_inner().map_err(|error| error.into_error())?;
        written.sync_all()?;
        Ok(Packed {
            file: self.unfinished,
            turn: self.turn,
            _locked: written,
        })
    }
}

/// A complete archive that is not yet in its final place. Dropping it removes the file.
pub(crate) struct Packed {
    file: TempPath,
    turn: Turn,
    /// The lock that keeps another server from removing the file as abandoned.
    _locked: fs::File,
}

impl Packed {
    /// Moves the archive to its final place, and replaces an older archive there. Calls `fence`
    /// just before, and fails if `fence` fails.
    pub(crate) fn put(
        self,
        place: &Path,
        fence: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        fence()?;
        // Before the server deletes a sandbox and its files, it stops this operation. Without this
        // check, an archive that lacks the deleted files could replace an older, complete archive.
        self.turn.check()?;
        self.file.persist(place).map_err(|error| error.error)?;
        // The new name is durable only once its directory is synced.
        match place.parent() {
            Some(directory) => fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Opens the archive for reading from its beginning.
    #[cfg(feature = "object-store")]
    pub(crate) fn open(&self) -> io::Result<fs::File> {
        fs::File::open(&self.file)
    }

    /// The turn of the operation that stores the archive.
    #[cfg(feature = "object-store")]
    pub(crate) fn turn(&self) -> &Turn {
        &self.turn
    }
}

/// Whether the error means that the file is gone or has been replaced by one of another type.
pub(super) fn is_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};

    matches!(error.kind(), NotFound | NotADirectory | InvalidInput)
}

/// Creates a temporary file that only its owner may read. The file is locked until it is closed.
fn begin(directory: &Path, prefix: &str) -> io::Result<(fs::File, TempPath)> {
    loop {
        let (file, unfinished) = private::unfinished(directory, prefix)?.into_parts();
        // On storage without locks, the age of the file shows whether it is abandoned.
        let _ = file.lock();
        if file.metadata()?.nlink() > 0 {
            return Ok((file, unfinished));
        }
        // A server that started at this moment removed the file as abandoned. Try again.
    }
}

/// Removes an unfinished file unless its writer still holds the lock. Returns whether the file was
/// removed, or `None` if the file can't be opened or the storage has no locks.
pub(crate) fn remove_if_left_behind(unfinished: &Path) -> Option<bool> {
    let file = fs::File::open(unfinished).ok()?;
    match file.try_lock() {
        // The lock is held during the removal. So a writer that has just created the file waits for
        // the lock, finds the file removed, and creates another one.
        Ok(()) => Some(fs::remove_file(unfinished).is_ok()),
        Err(fs::TryLockError::WouldBlock) => Some(false),
        Err(fs::TryLockError::Error(_)) => None,
    }
}
