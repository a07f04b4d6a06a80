//! [`Packer`] and [`Unpacker`]: directory trees as a tar archive, compressed by zstd. Blocking.
//!
//! What is in the trees is not trusted: links are stored, never followed; a pipe is never opened; files
//! may grow and shrink meanwhile; and nothing is unpacked outside of the given directory, whatever
//! an archive says.
//!
//! - Kept: directories, files, symbolic links, permissions but for set-user-id, set-group-id and
//!   sticky bits, times, holes. A file with several names becomes several files.
//! - Left out: sockets, pipes and devices.
//! - A file or directory that cannot be read fails the whole, by its name.

use std::{
    fs,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(feature = "object-store")]
use futures::future::select_all;
use tar::{Archive, Builder, EntryType, Header};
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::watch;
use zstd::{Decoder, Encoder};

use super::tree;

/// Name of the record, the first entry of an archive that has one.
const RECORD: &str = "record.json";

/// Name of the entry behind it, with the execs that were not acknowledged; in older archives there is none.
const EXECS: &str = "execs.json";

/// Most bytes of those that are read.
const MAX_EXECS_BYTES: u64 = 256 * 1024 * 1024;

/// Largest record that is read, in bytes.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// zstd's fastest ordinary level: what waits is somebody's sandbox.
const LEVEL: i32 = 1;

/// Permission bits that are not given back: set-user-id, set-group-id, sticky.
const MASKED: u32 = 0o7000;

/// Ends packing early, from another thread.
#[derive(Clone, Debug)]
pub(in crate::server) struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    pub(in crate::server) fn stop(&self) {
        self.0.send_replace(true);
    }

    /// An error once it was told to stop.
    pub(super) fn check(&self) -> io::Result<()> {
        match *self.0.borrow() {
            true => Err(io::Error::other(
                "it was given up: the sandbox is being checkpointed or deleted",
            )),
            false => Ok(()),
        }
    }

    /// Resolves once it was told to stop.
    pub(super) async fn stopped(&self) {
        // It cannot fail: the sender is here.
        let _ = self.0.subscribe().wait_for(|&stop| stop).await;
    }
}

/// Whoever may end one archive early: an error once one of them does.
#[derive(Clone, Default)]
pub(super) struct Stops(Vec<Stop>);

impl Stops {
    pub(super) fn check(&self) -> io::Result<()> {
        self.0.iter().try_for_each(Stop::check)
    }

    /// Resolves once one of them did.
    #[cfg(feature = "object-store")]
    pub(super) async fn stopped(&self) {
        if !self.0.is_empty() {
            select_all(self.0.iter().map(|stop| Box::pin(stop.stopped()))).await;
        } else {
            std::future::pending().await
        }
    }
}

/// A file that fails to take more once it was told to stop.
struct Stoppable {
    file: BufWriter<fs::File>,
    stops: Stops,
}

impl Write for Stoppable {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.stops.check()?;
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What stands before the files in the archive of a checkpoint.
pub(super) struct Head {
    pub(super) record: Vec<u8>,
    pub(super) execs: Vec<u8>,
}

/// Writes an archive. Dropped before [`finish`](Self::finish), it leaves nothing.
pub(in crate::server) struct Packer {
    builder: Builder<Encoder<'static, Stoppable>>,
    unfinished: TempPath,
    stops: Stops,
}

impl Packer {
    /// Begins an archive, in this directory for now. It begins with the head, if there is one.
    pub(super) fn create(
        directory: &Path,
        prefix: &str,
        head: Option<&Head>,
        stops: Vec<Stop>,
    ) -> io::Result<Self> {
        let stops = Stops(stops);
        let (file, unfinished) = begin(directory, prefix)?;
        let file = Stoppable {
            file: BufWriter::new(file),
            stops: stops.clone(),
        };
        let mut encoder = Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        let mut builder = Builder::new(encoder);
        if let Some(head) = head {
            for (name, data) in [(RECORD, &head.record), (EXECS, &head.execs)] {
                let mut header = Header::new_gnu();
                header.set_size(data.len() as u64);
                header.set_mode(0o600);
                builder.append_data(&mut header, name, data.as_slice())?;
            }
        }
        Ok(Self {
            builder,
            unfinished,
            stops,
        })
    }

    /// Adds a directory and everything below it under this name. A tree that is not there is left out.
    pub(in crate::server) fn add_tree(&mut self, name: &str, tree: &Path) -> io::Result<()> {
        let mut todo = vec![tree.to_owned()];
        while let Some(path) = todo.pop() {
            self.stops.check()?;
            let below = path.strip_prefix(tree).map_err(io::Error::other)?;
            let stored = Path::new(name).join(below);
            match self.add(&stored, &path, &mut todo) {
                // The code of the sandbox has removed it meanwhile, or put something else in its place.
                Err(error) if is_replaced(&error) => {}
                Err(error) => {
                    let what = format!("{}: {error}", stored.display());
                    return Err(io::Error::new(error.kind(), what));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, stored: &Path, path: &Path, todo: &mut Vec<PathBuf>) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        if kind.is_symlink() {
            let (meta, target) = tree::read_link(path)?;
            let mut header = header_of(&meta, EntryType::Symlink);
            self.builder.append_link(&mut header, stored, target)
        } else if kind.is_dir() {
            let directory = tree::open(path)?;
            let meta = directory.metadata()?;
            let names = tree::names(&directory, path)?;
            let mut header = header_of(&meta, EntryType::Directory);
            self.builder.append_data(&mut header, stored, io::empty())?;
            todo.extend(names.into_iter().map(|name| path.join(name)));
            Ok(())
        } else if kind.is_file() {
            self.add_file(stored, path)
        } else {
            debug_assert!(
                kind.is_fifo()
                    || kind.is_socket()
                    || kind.is_block_device()
                    || kind.is_char_device()
            );
            tracing::debug!(kind = ?kind, "left out of an archive: neither file, directory nor link");
            Ok(())
        }
    }

    fn add_file(&mut self, stored: &Path, path: &Path) -> io::Result<()> {
        let mut file = tree::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(());
        }
        if meta.blocks().saturating_mul(512) < meta.size() {
            // Only its data are stored. The places of the holes are read first, so it must stay as it is.
            self.builder.append_file(stored, &mut file)?;
            let now = file.metadata()?;
            let state = |meta: &fs::Metadata| (meta.size(), meta.mtime(), meta.mtime_nsec());
            if state(&now) != state(&meta) {
                return Err(io::Error::other(
                    "this file has holes and was written to while it was stored; try again",
                ));
            }
            return Ok(());
        }
        let mut header = header_of(&meta, EntryType::Regular);
        header.set_size(meta.size());
        // As long as the header says, whatever is done to the file meanwhile.
        let exactly = file.chain(io::repeat(0)).take(meta.size());
        self.builder.append_data(&mut header, stored, exactly)
    }

    /// Completes the archive.
    pub(super) fn finish(self) -> io::Result<Packed> {
        let mut packed = self.builder.into_inner()?.finish()?;
        packed.flush()?;
        let written = packed
            .file
            .into_inner()
            .map_err(|error| error.into_error())?;
        written.sync_all()?;
        Ok(Packed {
            file: self.unfinished,
            stops: self.stops,
            _locked: written,
        })
    }
}

/// A whole archive that is not in its place yet. Dropped, it leaves nothing.
pub(in crate::server) struct Packed {
    file: TempPath,
    stops: Stops,
    /// Nobody takes it for one left behind.
    _locked: fs::File,
}

impl Packed {
    /// Puts it in its place, where it replaces another, unless `fence`, which is asked just before, forbids it.
    pub(super) fn put(
        self,
        place: &Path,
        fence: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        fence()?;
        // Whoever deletes the sandbox has said so before: files that were not found are then no proof
        // that the sandbox had removed them.
        self.stops.check()?;
        self.file.persist(place).map_err(|error| error.error)?;
        // The new name is only on the disk with its directory.
        match place.parent() {
            Some(directory) => fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// To be read from its beginning.
    #[cfg(feature = "object-store")]
    pub(super) fn open(&self) -> io::Result<fs::File> {
        fs::File::open(&self.file)
    }

    /// Who may still end it early.
    #[cfg(feature = "object-store")]
    pub(super) fn stops(&self) -> &Stops {
        &self.stops
    }
}

/// Whether what was to be opened or read is not there, or no longer of its kind.
fn is_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};

    matches!(error.kind(), NotFound | NotADirectory | InvalidInput)
}

/// A new file that only its owner may read, locked for as long as it is written.
fn begin(directory: &Path, prefix: &str) -> io::Result<(fs::File, TempPath)> {
    loop {
        let (file, unfinished) = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(directory)
            .map(NamedTempFile::into_parts)?;
        // Where the storage has no locks its age has to do.
        let _ = file.lock();
        if file.metadata()?.nlink() > 0 {
            return Ok((file, unfinished));
        }
        // A server that was started in this very moment took it for one left behind.
    }
}

/// Removes an unfinished file that nobody writes to any more: the lock of a process goes with it. Whether
/// it is removed; `None` where the storage has no locks.
pub(super) fn remove_if_left_behind(unfinished: &Path) -> Option<bool> {
    let file = fs::File::open(unfinished).ok()?;
    match file.try_lock() {
        // While it is locked here, so that nobody begins with it.
        Ok(()) => Some(fs::remove_file(unfinished).is_ok()),
        Err(fs::TryLockError::WouldBlock) => Some(false),
        Err(fs::TryLockError::Error(_)) => None,
    }
}

fn header_of(meta: &fs::Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(0);
    header
}

/// Reads the record of an archive.
pub(super) fn read_record(archive: impl Read) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Decoder::new(archive)?);
    let first = archive.entries()?.next().ok_or_else(no_record)??;
    if first.path_bytes() != RECORD.as_bytes() {
        return Err(no_record());
    }
    let mut record = Vec::new();
    first.take(MAX_RECORD_BYTES).read_to_end(&mut record)?;
    Ok(record)
}

/// Reads the execs of an archive. `None`: it is an older one, and has none.
pub(super) fn read_execs(archive: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut archive = Archive::new(Decoder::new(archive)?);
    for entry in archive.entries()?.take(2) {
        let entry = entry?;
        if entry.path_bytes() == EXECS.as_bytes() {
            let mut execs = Vec::new();
            entry.take(MAX_EXECS_BYTES).read_to_end(&mut execs)?;
            return Ok(Some(execs));
        }
    }
    Ok(None)
}

fn no_record() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it does not begin with a record",
    )
}

/// Reads an archive.
pub(in crate::server) struct Unpacker(Decoder<'static, BufReader<fs::File>>);

impl Unpacker {
    pub(super) fn new(archive: fs::File) -> io::Result<Self> {
        Decoder::new(archive).map(Self)
    }

    /// Unpacks everything but the head below this directory, and nothing anywhere else.
    pub(in crate::server) fn unpack_into(self, directory: &Path) -> io::Result<()> {
        let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut archive = Archive::new(self.0);
        archive.set_preserve_permissions(true);
        archive.set_mask(MASKED);
        let directory = &directory.canonicalize()?;
        // Last, from the inside out: one that may not be written to is still to be filled.
        let mut directories = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            if [RECORD, EXECS]
                .map(str::as_bytes)
                .contains(&&*entry.path_bytes())
            {
                continue;
            }
            let name = entry.path()?.display().to_string();
            let unpacked = match entry.header().entry_type() {
                EntryType::Directory => {
                    directories.push(entry);
                    continue;
                }
                EntryType::Regular | EntryType::GNUSparse | EntryType::Symlink => {
                    entry.unpack_in(directory)?
                }
                kind => return Err(damaged(format!("{name}: an entry of the kind {kind:?}"))),
            };
            if !unpacked {
                return Err(damaged(format!("{name}: leads out of the sandbox")));
            }
        }
        directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
        for mut entry in directories {
            if !entry.unpack_in(directory)? {
                let name = entry.path()?.display().to_string();
                return Err(damaged(format!("{name}: leads out of the sandbox")));
            }
        }
        // To the end, where the checksum is.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
    }
}

#[cfg(test)]
mod tests;
