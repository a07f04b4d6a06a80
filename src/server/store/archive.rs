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
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tar::{Archive, Builder, EntryType, Header};
use tempfile::{NamedTempFile, TempPath};
use zstd::{Decoder, Encoder};

/// Name of the record, the first entry of an archive that has one.
const RECORD: &str = "record.json";

/// Largest record that is read, in bytes.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// zstd's fastest ordinary level: what waits is somebody's sandbox.
const LEVEL: i32 = 1;

/// Permission bits that are not given back: set-user-id, set-group-id, sticky.
const MASKED: u32 = 0o7000;

/// Ends packing early, from another thread.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(in crate::server) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file that fails to take more once it was told to stop.
struct Stoppable {
    file: BufWriter<fs::File>,
    stop: Stop,
}

impl Write for Stoppable {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.stop.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("the sandbox is being deleted"));
        }
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes an archive. Dropped before [`finish`](Self::finish), it leaves nothing.
pub(in crate::server) struct Packer {
    builder: Builder<Encoder<'static, Stoppable>>,
    unfinished: TempPath,
}

impl Packer {
    /// Begins an archive that will be put at `place`. It begins with the record, if there is one.
    pub(super) fn create(
        place: &Path,
        prefix: &str,
        record: Option<&[u8]>,
        stop: Stop,
    ) -> io::Result<Self> {
        let directory = place.parent().unwrap_or(Path::new("."));
        // Only its owner may read it.
        let (file, unfinished) = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(directory)
            .map(NamedTempFile::into_parts)?;
        let file = Stoppable {
            file: BufWriter::new(file),
            stop,
        };
        let mut encoder = Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        let mut builder = Builder::new(encoder);
        if let Some(record) = record {
            let mut header = Header::new_gnu();
            header.set_size(record.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, RECORD, record)?;
        }
        Ok(Self {
            builder,
            unfinished,
        })
    }

    /// Adds a directory and everything below it under this name. A tree that is not there is left out.
    pub(in crate::server) fn add_tree(&mut self, name: &str, tree: &Path) -> io::Result<()> {
        let mut todo = vec![tree.to_owned()];
        while let Some(path) = todo.pop() {
            let below = path.strip_prefix(tree).map_err(io::Error::other)?;
            let stored = Path::new(name).join(below);
            match self.add(&stored, &path, &mut todo) {
                // The code of the sandbox has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
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
            let target = fs::read_link(path)?;
            let mut header = header_of(&meta, EntryType::Symlink);
            self.builder.append_link(&mut header, stored, target)
        } else if kind.is_dir() {
            let entries: Vec<_> = fs::read_dir(path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<_>>()?;
            let mut header = header_of(&meta, EntryType::Directory);
            self.builder.append_data(&mut header, stored, io::empty())?;
            todo.extend(entries);
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
        // Whatever has taken its place since it was looked at is neither followed nor waited for.
        let no_trap = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let mut file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(no_trap)
            .open(path)?;
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

    /// Completes the archive and puts it in its place, where it replaces another; unless `fence`, which
    /// is asked just before, forbids it.
    pub(super) fn finish(
        self,
        place: &Path,
        fence: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut packed = self.builder.into_inner()?.finish()?;
        packed.flush()?;
        packed.file.get_ref().sync_all()?;
        fence()?;
        self.unfinished
            .persist(place)
            .map_err(|error| error.error)?;
        // The new name is only on the disk with its directory.
        match place.parent() {
            Some(directory) => fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn header_of(meta: &fs::Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(0);
    header
}

type Source = Decoder<'static, BufReader<fs::File>>;

fn open(place: &Path) -> io::Result<Source> {
    Decoder::new(fs::File::open(place)?)
}

/// Reads the record of an archive.
pub(super) fn read_record(place: &Path) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(open(place)?);
    let first = archive.entries()?.next().ok_or_else(no_record)??;
    if first.path_bytes() != RECORD.as_bytes() {
        return Err(no_record());
    }
    let mut record = Vec::new();
    first.take(MAX_RECORD_BYTES).read_to_end(&mut record)?;
    Ok(record)
}

fn no_record() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it does not begin with a record",
    )
}

/// Reads an archive.
pub(in crate::server) struct Unpacker(Source);

impl Unpacker {
    pub(super) fn open(place: &Path) -> io::Result<Self> {
        open(place).map(Self)
    }

    /// Unpacks everything but the record below this directory, and nothing anywhere else.
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
            if entry.path_bytes() == RECORD.as_bytes() {
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
