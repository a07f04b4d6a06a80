//! [`pack`]: writes an archive of a directory tree or of a file.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use tar::Builder;

use super::{
    ArchiveError, ArchiveErrorKind, Progress, Summary, entries, sparse::Shrunk, walk::Walk,
};

const BUFFER_BYTES: usize = 64 * 1024;

/// Writes an archive of a directory or a file to `out`. Blocks.
///
/// The names in the archive are relative to the directory; the directory itself is not an entry. A
/// file is stored under its own name. `source` may be a symbolic link to either. Links in the
/// directory are stored, not followed.
///
/// `excludes` gets each path in the archive, and whether it is a directory. If it returns `true`,
/// the path and everything below it are left out. Sockets, pipes, devices, and files that are
/// removed meanwhile are skipped and reported.
///
/// # Errors
///
/// Fails if `out` fails, if a file can't be read or stored in an archive, or if a file becomes
/// shorter while it is read. Then `out` has received an incomplete archive, which
/// [`unpack`](super::unpack()) refuses.
pub(crate) fn pack(
    source: &Path,
    excludes: &dyn Fn(&Path, bool) -> bool,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, ArchiveError> {
    let mut packing = Packing {
        builder: Builder::new(Sink {
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            progress,
            done: Progress::default(),
            has_failed: false,
            is_closed: false,
        }),
        source,
        excludes,
        summary: Summary::default(),
    };
    let packed = packing.add_all();
    let Packing {
        mut builder,
        summary,
        ..
    } = packing;
    let finished = packed.and_then(|()| {
        let finished = builder.finish().and_then(|()| builder.get_mut().flush());
        finished.map_err(|error| (PathBuf::new(), error))
    });
    finished.map(|()| summary).map_err(|(path, error)| {
        let sink = builder.get_mut();
        // Dropping the builder would write the end of the archive.
        sink.is_closed = true;
        match sink.has_failed {
            true => ArchiveError::stream("pack", error),
            false => ArchiveError::new("pack", ArchiveErrorKind::File, Some(&path), error),
        }
    })
}

/// The output. Counts its bytes.
struct Sink<'a> {
    out: BufWriter<&'a mut dyn Write>,
    progress: &'a mut dyn FnMut(Progress),
    done: Progress,
    /// Whether a write has failed.
    has_failed: bool,
    is_closed: bool,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Err(io::Error::other("packing has failed"));
        }
        let written = self.out.write(bytes);
        self.has_failed |= written.is_err();
        self.done.bytes += *written.as_ref().unwrap_or(&0) as u64;
        (self.progress)(self.done);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.has_failed |= flushed.is_err();
        flushed
    }
}

struct Packing<'a> {
    builder: Builder<Sink<'a>>,
    source: &'a Path,
    excludes: &'a dyn Fn(&Path, bool) -> bool,
    summary: Summary,
}

impl Packing<'_> {
    /// An error comes with its path in the archive, or with `source`.
    fn add_all(&mut self) -> Result<(), (PathBuf, io::Error)> {
        let top = |error| (self.source.to_owned(), error);
        let meta = fs::metadata(self.source).map_err(top)?;
        if !meta.is_dir() {
            if !meta.is_file() {
                return Err(top(io::Error::new(io::ErrorKind::InvalidInput, special())));
            }
            let no_name =
                || io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name");
            let name = Path::new(self.source.file_name().ok_or_else(no_name).map_err(top)?);
            let path = self.source.canonicalize().map_err(top)?;
            return self.add_file(name, &path).map_err(top);
        }
        let names = names(self.source).map_err(top)?;
        let mut walk = Walk::default();
        walk.enter(PathBuf::new(), names);
        while let Some(name) = walk.next() {
            let written = self.builder.get_ref().done.bytes;
            match self.add(&name) {
                Ok(names) => walk.enter(name, names),
                // The file was removed. If a part of its entry is already written, packing fails.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && self.builder.get_ref().done.bytes == written =>
                {
                    self.summary
                        .skip(name, "it was removed while the directory was packed");
                }
                Err(error) => return Err((name, error)),
            }
        }
        Ok(())
    }

    /// Adds a file, link or directory. Returns the names in a directory; for a file or link,
    /// returns no names.
    fn add(&mut self, name: &Path) -> io::Result<Vec<OsString>> {
        let path = self.source.join(name);
        let meta = fs::symlink_metadata(&path)?;
        let kind = meta.file_type();
        if (self.excludes)(name, kind.is_dir()) {
            return Ok(Vec::new());
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path)?;
            self.count(0);
            entries::append_link(&mut self.builder, name, &meta, &target)?;
        } else if kind.is_dir() {
            let names = names(&path)?;
            self.count(0);
            entries::append_directory(&mut self.builder, name, &meta)?;
            return Ok(names);
        } else if kind.is_file() {
            self.add_file(name, &path)?;
        } else {
            self.summary.skip(name, special());
        }
        Ok(Vec::new())
    }

    fn add_file(&mut self, name: &Path, path: &Path) -> io::Result<()> {
        let file = open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            self.summary.skip(name, special());
            return Ok(());
        }
        self.count(meta.len());
        entries::append_file(&mut self.builder, name, &file, &meta, Shrunk::Fail)
    }

    fn count(&mut self, bytes: u64) {
        self.summary.entries += 1;
        self.summary.bytes = self.summary.bytes.saturating_add(bytes);
        self.builder.get_mut().done.entries += 1;
    }
}

/// The names in a directory, in order.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Opens a file for reading. Does not follow a link, and does not block on a pipe.
pub(crate) fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    }
    options.read(true).open(path)
}

fn special() -> &'static str {
    "it is a pipe, a socket or a device"
}
