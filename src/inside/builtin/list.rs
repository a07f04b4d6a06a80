//! [`list`]: writes the entries of a directory to stdout.

use std::{
    ffi::{CStr, CString},
    io::{self, Write},
    os::unix::ffi::OsStringExt,
    path::Path,
    vec,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, readlinkat},
    sys::stat::{Mode, fstatat},
};

use super::{Done, Streams, Subject, metadata::describe, place::open_directory};
use crate::protocol::{
    BuiltinError, BuiltinErrorKind, FileEntry, FileKind, FileMetadata, FilePath,
};

/// The most levels of directories. Each open level needs a file descriptor.
const MAX_LEVELS: usize = 128;
/// The most bytes of a pattern. A name has at most 255 bytes.
const MAX_PATTERN: usize = 1024;
/// The output is written in pieces of this size.
const PIECE: usize = 64 * 1024;

/// Sorts the entries of each directory by name, and lists a directory before its entries.
///
/// Follows a link only if it is the listed path itself. Lists a directory that the user may not
/// read, but not its entries. An empty path stands for the home. Fails if it would have to list
/// more than 128 levels.
pub(super) fn list(
    home: &Path,
    path: &FilePath,
    depth: u32,
    pattern: Option<&str>,
    streams: &mut Streams,
) -> Result<Done, BuiltinError> {
    let subject = Subject::or_home("list", path)?;
    if pattern.is_some_and(|pattern| pattern.len() > MAX_PATTERN) {
        let reason = "the pattern is longer than 1024 bytes";
        return Err(subject.refuse(BuiltinErrorKind::InvalidInput, reason));
    }
    let fail = |error: io::Error| subject.fail(error);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = Dir::open(&subject.on_machine(home), flags, Mode::empty())
        .map_err(|error| subject.fail(error))?;
    let top = Level::read(top, 0, streams).map_err(fail)?;
    let mut lister = Lister {
        levels: vec![top],
        path: Vec::new(),
        output: Vec::with_capacity(PIECE + 1024),
        streams,
    };
    let depth = usize::try_from(depth.max(1)).unwrap_or(usize::MAX);
    while let Some(entry) = lister.next() {
        let is_listed = pattern.is_none_or(|it| matches(it.as_bytes(), entry.name.to_bytes()));
        let is_directory = match lister.visit(&entry, is_listed) {
            Ok(kind) => kind == FileKind::Directory,
            // Code has removed the entry.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fail(error)),
        };
        if !is_directory || lister.levels.len() >= depth {
            continue;
        }
        if lister.levels.len() == MAX_LEVELS {
            let reason = "it has more than 128 levels of directories; list fewer levels";
            return Err(subject.refuse(BuiltinErrorKind::Unsupported, reason));
        }
        lister.enter(&entry).map_err(fail)?;
    }
    let Lister {
        output, streams, ..
    } = lister;
    streams.write_all(&output).map_err(fail)?;
    Ok(Done {})
}

struct Lister<'a> {
    /// The directories from the listed one to that of the current entry.
    levels: Vec<Level>,
    /// The path of the current entry.
    path: Vec<u8>,
    /// Lines that are not written yet.
    output: Vec<u8>,
    streams: &'a mut Streams,
}

/// A directory whose entries are being listed.
struct Level {
    directory: Dir,
    entries: vec::IntoIter<Entry>,
    /// The length of the path of the directory, with its `/`.
    prefix: usize,
}

struct Entry {
    name: CString,
    /// `None` if the file system doesn't report it.
    kind: Option<Type>,
}

impl Lister<'_> {
    /// Goes to the next entry.
    fn next(&mut self) -> Option<Entry> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(entry) = level.entries.next() {
                self.path.truncate(level.prefix);
                self.path.extend_from_slice(entry.name.to_bytes());
                return Some(entry);
            }
            self.levels.pop();
        }
        None
    }

    /// Lists the current entry, if `is_listed`. Returns its kind.
    fn visit(&mut self, entry: &Entry, is_listed: bool) -> io::Result<FileKind> {
        let Some(level) = self.levels.last() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let known = match entry.kind {
            _ if is_listed => None,
            Some(Type::Directory) => Some(FileKind::Directory),
            other => other.map(|_| FileKind::Other),
        };
        if let Some(kind) = known {
            return Ok(kind);
        }
        let metadata = describe_in(&level.directory, &entry.name)?;
        let kind = metadata.kind;
        if is_listed {
            let path = FilePath::from_bytes(self.path.as_slice());
            serde_json::to_writer(&mut self.output, &FileEntry::new(path, metadata))?;
            self.output.push(b'\n');
            if self.output.len() >= PIECE {
                self.streams.write_all(&self.output)?;
                self.output.clear();
            }
        }
        Ok(kind)
    }

    /// Continues with the entries of the current entry, a directory.
    fn enter(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let name = entry.name.as_c_str();
        match open_directory(&level.directory, name) {
            Ok(directory) => {
                self.path.push(b'/');
                let level = Level::read(directory, self.path.len(), self.streams)?;
                self.levels.push(level);
                Ok(())
            }
            Err(error) if is_no_directory(error) || error == Errno::EACCES => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Level {
    fn read(mut directory: Dir, prefix: usize, streams: &Streams) -> io::Result<Self> {
        streams.check()?;
        let mut entries = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            if is_real(entry.file_name()) {
                let name = entry.file_name().to_owned();
                let kind = entry.file_type();
                entries.push(Entry { name, kind });
            }
            if entries.len() % 4096 == 4095 {
                streams.check()?;
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            directory,
            entries: entries.into_iter(),
            prefix,
        })
    }
}

/// Whether the name of an entry is neither `.` nor `..`.
pub(super) fn is_real(name: &CStr) -> bool {
    !matches!(name.to_bytes(), b"." | b"..")
}

/// Whether opening an entry failed because code has replaced or removed the directory.
pub(super) fn is_no_directory(error: Errno) -> bool {
    // ENXIO is the error for a socket.
    matches!(
        error,
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO
    )
}

/// Describes an entry, or the link itself.
fn describe_in(directory: &Dir, name: &CStr) -> io::Result<FileMetadata> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mut metadata = describe(&stat);
    if metadata.kind == FileKind::Symlink {
        metadata.target = match readlinkat(directory, name) {
            Ok(target) => Some(FilePath::from_bytes(target.into_vec())),
            // Code has replaced the link.
            Err(Errno::EINVAL) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(metadata)
}

/// Whether a name matches a pattern. `*` matches any number of characters, `?` exactly one.
fn matches(mut pattern: &[u8], mut name: &[u8]) -> bool {
    // Where to continue if the part after the last `*` doesn't match.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([b'*', rest @ ..], _) => {
                retry = Some((rest, name));
                pattern = rest;
                continue;
            }
            ([], []) => return true,
            ([b'?', rest @ ..], [_, ..]) => {
                pattern = rest;
                name = after_character(name);
                continue;
            }
            ([expected, rest @ ..], [byte, others @ ..]) if expected == byte => {
                pattern = rest;
                name = others;
                continue;
            }
            _ => {}
        }
        match retry {
            Some((rest, from @ [_, ..])) => {
                pattern = rest;
                name = after_character(from);
                retry = Some((rest, name));
            }
            _ => return false,
        }
    }
}

/// A name without its first character. A byte that isn't part of valid UTF-8 counts as a character.
fn after_character(name: &[u8]) -> &[u8] {
    let length = match name.utf8_chunks().next() {
        Some(chunk) => chunk.valid().chars().next().map_or(1, char::len_utf8),
        None => 0,
    };
    name.get(length..).unwrap_or_default()
}

#[cfg(test)]
mod tests;
