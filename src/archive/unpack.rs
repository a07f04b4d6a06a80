//! [`unpack`]: reads an archive into a directory.

use std::{
    cell::Cell,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use tar::{Entry, EntryType, Unpacked};

use super::{
    ArchiveError, ArchiveErrorKind, Progress, Summary, entries,
    reading::{self, Budget, Directory, MAX_HEADER_BYTES, Parents, damaged},
    unfinished_name,
};

/// Limits of one archive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum bytes of the archive, and maximum size of a file in it. A file may have holes, so it
    /// may be larger than its archive.
    pub(crate) bytes: u64,
    /// Maximum number of files, directories and links.
    pub(crate) entries: u64,
}

impl Limits {
    /// No limits, for use where the sender of the archive could write the same files itself.
    pub(crate) const NONE: Self = Self {
        bytes: u64::MAX,
        entries: u64::MAX,
    };
}

/// Unpacks an archive into a directory, which is created if it does not exist. Blocks.
///
/// Replaces files and links that exist, and never follows a link below `destination`. Keeps
/// everything else in directories that exist.
///
/// Skips and reports names and links that this system can't represent.
///
/// # Errors
///
/// Fails if `input` fails or ends before the end of the archive, if the archive is not valid or
/// exceeds the limits, if a directory is in the place of a file, or if a file can't be written. The
/// entries that were unpacked before the error stay.
pub(crate) fn unpack(
    destination: &Path,
    input: &mut dyn Read,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, ArchiveError> {
    unpack_on(problem, destination, None, input, limits, progress)
}

/// Unpacks an archive of one file to a path. Atomically replaces a file or link there. Creates
/// missing parent directories. Blocks. Fails like [`unpack`].
pub(crate) fn unpack_file(
    path: &Path,
    input: &mut dyn Read,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, ArchiveError> {
    let fail = |error| ArchiveError::new("unpack", ArchiveErrorKind::File, Some(path), error);
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name");
    path.file_name().ok_or_else(no_name).map_err(fail)?;
    // A device or a pipe at the path may be important to this machine.
    let replaced = fs::symlink_metadata(path);
    if replaced.is_ok_and(|meta| !meta.is_file() && !meta.is_symlink()) {
        let what = "it exists and is not a file. Remove it or choose another path";
        return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let unfinished = PathBuf::from(unfinished_name().map_err(fail)?);
    let place = directory.join(&unfinished);
    let unpacked = unpack_on(
        problem,
        directory,
        Some(&unfinished),
        input,
        limits,
        progress,
    );
    let unpacked = unpacked.and_then(|summary| {
        let missing = || damaged("it contains no file");
        let is_there = fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_file());
        let renamed = match is_there {
            true => fs::rename(&place, path),
            false => Err(missing()),
        };
        renamed.map(|()| summary).map_err(fail)
    });
    if unpacked.is_err() {
        let _ = fs::remove_file(&place);
    }
    unpacked
}

/// Returns the reason why an operating system can't represent a name or the target of a link, or
/// `None` if it can.
type Problem = fn(name: &[u8], target: Option<&[u8]>) -> Option<&'static str>;

/// Unpacks an archive. Skips entries for which `problem` returns a reason. With `only`, the archive
/// must contain exactly one file, which gets this name.
pub(super) fn unpack_on(
    problem: Problem,
    destination: &Path,
    only: Option<&Path>,
    input: &mut dyn Read,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, ArchiveError> {
    fs::create_dir_all(destination).map_err(|error| {
        ArchiveError::new("unpack", ArchiveErrorKind::File, Some(destination), error)
    })?;
    let watch = Watch::default();
    let mut unpacking = Unpacking {
        problem,
        destination,
        only,
        limits,
        watch: &watch,
        parents: Parents::default(),
        skipped_directory: None,
        summary: Summary::default(),
    };
    let source = Source {
        input,
        progress,
        watch: &watch,
    };
    let unpacked = unpacking.unpack(source);
    unpacked
        .map(|()| unpacking.summary)
        .map_err(|failure| failure.into_error(&watch))
}

/// What the reader of the archive has seen.
#[derive(Default)]
struct Watch {
    bytes: Cell<u64>,
    entries: Cell<u64>,
    has_failed: Cell<bool>,
    has_ended: Cell<bool>,
}

struct Source<'a> {
    input: &'a mut dyn Read,
    progress: &'a mut dyn FnMut(Progress),
    watch: &'a Watch,
}

impl Read for Source<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.input.read(to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match &read {
            Ok(0) if to.is_empty() => {}
            Ok(0) => self.watch.has_ended.set(true),
            Ok(length) => self
                .watch
                .bytes
                .set(self.watch.bytes.get() + *length as u64),
            Err(_) => self.watch.has_failed.set(true),
        }
        (self.progress)(Progress {
            bytes: self.watch.bytes.get(),
            entries: self.watch.entries.get(),
        });
        read
    }
}

/// A failure, before it is known whether the input caused it.
struct Failure {
    path: Option<PathBuf>,
    error: io::Error,
}

impl Failure {
    fn into_error(self, watch: &Watch) -> ArchiveError {
        let (kind, path) = match self.error.kind() {
            _ if watch.has_failed.get() => (ArchiveErrorKind::Stream, None),
            _ if watch.has_ended.get() => {
                let what = "it ended too early, so files may be missing or incomplete";
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, what);
                return ArchiveError::new("unpack", ArchiveErrorKind::Truncated, None, error);
            }
            // `tar` reports an invalid archive with the kind `Other`. The file system never does.
            io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                (ArchiveErrorKind::InvalidArchive, self.path)
            }
            _ => (ArchiveErrorKind::File, self.path),
        };
        ArchiveError::new("unpack", kind, path.as_deref(), self.error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { path: None, error }
    }
}

struct Unpacking<'a> {
    problem: Problem,
    destination: &'a Path,
    only: Option<&'a Path>,
    limits: &'a Limits,
    watch: &'a Watch,
    parents: Parents,
    /// The prefix of the names in a directory that was skipped.
    skipped_directory: Option<Vec<u8>>,
    summary: Summary,
}

impl Unpacking<'_> {
    fn unpack(&mut self, source: Source<'_>) -> Result<(), Failure> {
        let most = self.limits.bytes;
        let budget = Budget::new(most, format!("it exceeds the limit of {most} bytes"));
        let mut archive = reading::open(source, &budget);
        let mut entries = archive.entries()?;
        loop {
            budget.limit_part(MAX_HEADER_BYTES);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry?;
            budget.limit_part(u64::MAX);
            self.add(&mut entry).map_err(|error| Failure {
                path: Some(lossy(&entry.path_bytes())),
                error,
            })?;
        }
        std::mem::take(&mut self.parents).close()?;
        budget.limit_part(u64::MAX);
        Ok(check_end(&mut archive.into_inner())?)
    }

    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        self.watch.entries.set(self.watch.entries.get() + 1);
        if self.watch.entries.get() > self.limits.entries {
            let most = self.limits.entries;
            return Err(too_large(format!(
                "the archive has more than {most} entries"
            )));
        }
        let kind = reading::check_kind(entry)?;
        if entry.size() > self.limits.bytes {
            let most = self.limits.bytes;
            return Err(too_large(format!("it exceeds the limit of {most} bytes")));
        }
        if self.is_skipped(entry, kind) {
            return io::copy(entry, &mut io::sink()).map(drop);
        }
        // Other programs begin each name with `./`, and store the top directory.
        let path = entry.path()?;
        let path = path.strip_prefix(".").unwrap_or(&path);
        if path.as_os_str().is_empty() && kind == EntryType::Directory {
            return Ok(());
        }
        let name = match self.only {
            None => reading::name(path)?,
            Some(_) if kind.is_dir() || kind.is_symlink() || self.summary.entries > 0 => {
                return Err(damaged("it must contain exactly one file and nothing else"));
            }
            Some(only) => only.to_owned(),
        };
        self.parents.descend(&name)?;
        let path = self.destination.join(&name);
        let modified = entries::modified(entry)?;
        let exists = make_room(&path, kind)?;
        match kind {
            EntryType::Directory => {
                if !exists {
                    create_directory(&path)?;
                }
                self.parents.enter(Directory {
                    name,
                    mode: entry.header().mode()?,
                    modified,
                    path,
                });
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default();
                if let Err(error) = create_link(&target, &path) {
                    if cfg!(unix) {
                        return Err(error);
                    }
                    let reason = format!("the link can't be created: {error}");
                    self.summary.skip(name, reason);
                    return Ok(());
                }
                reading::set_link_time(&path, modified);
            }
            _ => {
                let size = entry.size();
                match entry.unpack(&path) {
                    Ok(Unpacked::File(file)) => {
                        modified.map_or(Ok(()), |modified| file.set_modified(modified))?;
                    }
                    Ok(_) => return Err(damaged("it is not a file")),
                    Err(error) => {
                        // Remove the incomplete file, so that nothing mistakes it for a complete
                        // one.
                        let _ = fs::remove_file(&path);
                        return Err(error);
                    }
                }
                self.summary.bytes = self.summary.bytes.saturating_add(size);
            }
        }
        self.summary.entries += 1;
        Ok(())
    }

    /// Skips an entry that this system can't represent, and all entries below it.
    fn is_skipped(&mut self, entry: &Entry<'_, impl Read>, kind: EntryType) -> bool {
        let name = entry.path_bytes();
        if let Some(start) = &self.skipped_directory {
            if name.starts_with(start) {
                return true;
            }
            self.skipped_directory = None;
        }
        let target = entry.link_name_bytes();
        let Some(reason) = (self.problem)(&name, target.as_deref()) else {
            return false;
        };
        self.summary.skip(lossy(&name), reason);
        if kind == EntryType::Directory {
            let end = name.iter().rposition(|byte| *byte != b'/');
            let name = name.iter().copied().take(end.map_or(0, |end| end + 1));
            self.skipped_directory = Some(name.chain([b'/']).collect());
        }
        true
    }
}

#[cfg(windows)]
use super::windows::problem;

#[cfg(not(windows))]
fn problem(name: &[u8], _: Option<&[u8]>) -> Option<&'static str> {
    let is_text = std::str::from_utf8(name).is_ok();
    (cfg!(target_os = "macos") && !is_text).then_some("macOS allows only names in UTF-8")
}

/// Removes a file or link in the place of an entry. Returns whether a directory exists there.
fn make_room(path: &Path, kind: EntryType) -> io::Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        let removed = match fs::remove_file(path) {
            // A link to a directory, on Windows.
            Err(_) if cfg!(windows) && meta.is_symlink() => fs::remove_dir(path),
            removed => removed,
        };
        return removed.map(|()| false);
    }
    if kind != EntryType::Directory {
        let what = "a directory is in its place. Remove the directory or choose another path";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = meta.permissions().mode();
        if mode & 0o700 != 0o700 {
            reading::set_mode(path, mode & 0o777 | 0o700)?;
        }
    }
    Ok(true)
}

/// Creates a directory that only this user may use. It gets its final permissions after its entries
/// have been unpacked.
fn create_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(0o700).create(path)
    }
    #[cfg(not(unix))]
    fs::create_dir(path)
}

fn create_link(target: &Path, path: &Path) -> io::Result<()> {
    if target.as_os_str().is_empty() {
        return Err(damaged("the link has no target"));
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, path);
    #[cfg(windows)]
    {
        use std::os::windows::fs::{symlink_dir, symlink_file};
        // The target is relative, so it can't lead to a network share.
        let is_directory = path.parent().is_some_and(|it| it.join(target).is_dir());
        match is_directory {
            true => symlink_dir(target, path),
            false => symlink_file(target, path),
        }
    }
}

/// Checks that two empty blocks end the archive, and that only zeros follow.
fn check_end(rest: &mut impl Read) -> io::Result<()> {
    // `tar` has read the first block, or has reached the end of the input.
    let mut block = [0; 512];
    rest.read_exact(&mut block)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut read = &block[..];
    loop {
        if read.iter().any(|byte| *byte != 0) {
            return Err(damaged("data follows the end of the archive"));
        }
        match rest.read(&mut buffer)? {
            0 => return Ok(()),
            length => read = &buffer[..length],
        }
    }
}

fn lossy(name: &[u8]) -> PathBuf {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::OsStr::from_bytes(name).into()
    }
    #[cfg(not(unix))]
    {
        String::from_utf8_lossy(name).into_owned().into()
    }
}

fn too_large(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}
