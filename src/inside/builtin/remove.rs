//! [`remove`]: removes a file, or a directory with everything in it.

use std::{
    ffi::{CString, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, renameat},
    sys::stat::{SFlag, fstatat, stat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{
    Done, Streams, Subject,
    list::{is_no_directory, is_real},
    place::{Place, is_kind, open_directory},
};
use crate::{
    archive::unfinished_name,
    protocol::{BuiltinError, BuiltinErrorKind, FilePath},
};

/// Maximum number of directories that are open at once.
const MAX_LEVELS: usize = 128;
/// How many names of a directory are held in memory.
const BATCH: usize = 1024;

/// Removes a file, a link or an empty directory, or with `recursive` a directory with everything in
/// it. Never follows a link. If the operation is stopped, the entries that it has not removed stay.
pub(super) fn remove(
    home: &Path,
    path: &FilePath,
    recursive: bool,
    streams: &Streams,
) -> Result<Done, BuiltinError> {
    let subject = Subject::new("remove", path)?;
    let place = subject.on_machine(home);
    let place = match Place::open(without_slashes(&place)) {
        Err(Errno::EISDIR) => {
            let reason = "the path ends with '.', '..' or '/'; use the name of the directory";
            return Err(subject.refuse(BuiltinErrorKind::InvalidInput, reason));
        }
        result => result.map_err(|error| subject.fail(error))?,
    };
    let found = place.stat().map_err(|error| subject.fail(error))?;
    let found = found.ok_or_else(|| subject.fail(Errno::ENOENT))?;
    let is_home =
        |home: nix::sys::stat::FileStat| (home.st_dev, home.st_ino) == (found.st_dev, found.st_ino);
    if stat(home).is_ok_and(is_home) {
        let reason = "it is the home of the sandbox";
        return Err(subject.refuse(BuiltinErrorKind::InvalidInput, reason));
    }
    let is_directory = is_kind(&found, SFlag::S_IFDIR);
    if is_directory && recursive {
        return remove_tree(subject, place, streams);
    }
    let flags = match is_directory {
        true => UnlinkatFlags::RemoveDir,
        false => UnlinkatFlags::NoRemoveDir,
    };
    unlinkat(&place.directory, place.name.as_os_str(), flags)
        .map_err(|error| subject.fail(error))?;
    Ok(Done {})
}

fn without_slashes(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/');
    let bytes = end.and_then(|end| bytes.get(..=end)).unwrap_or(b"/");
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A directory whose entries are being removed.
struct Level {
    directory: Dir,
    name: OsString,
    /// The next entries to remove, with their kind if the file system reports it.
    batch: Vec<(CString, Option<Type>)>,
}

/// Removes a directory with its entries.
///
/// At most `MAX_LEVELS` directories are open at once. A directory below that depth is moved to the
/// top of the tree first. So the depth of the tree is limited neither by descriptors nor by the
/// stack.
fn remove_tree(
    subject: Subject<'_>,
    place: Place,
    streams: &Streams,
) -> Result<Done, BuiltinError> {
    let top = open_directory(&place.directory, place.name.as_os_str())
        .map_err(|error| subject.fail(error))?;
    let mut levels = vec![Level::new(top, place.name.clone())];
    while let Some(level) = levels.last_mut() {
        if level.batch.is_empty() {
            streams.check().map_err(|error| subject.fail(error))?;
            level
                .fill()
                .map_err(|error| failed_below(subject, &levels, None, error))?;
        }
        let Some(level) = levels.last_mut() else {
            break;
        };
        match level.batch.pop() {
            Some((name, kind)) => {
                let name = OsString::from_vec(name.into_bytes());
                remove_entry(&mut levels, &name, kind)
                    .map_err(|error| failed_below(subject, &levels, Some(&name), error))?;
            }
            None => {
                let parent = match levels.len().checked_sub(2).and_then(|it| levels.get(it)) {
                    Some(parent) => remove_dir(&parent.directory, &levels),
                    None => remove_dir(&place.directory, &levels),
                };
                parent.map_err(|error| failed_below(subject, &levels, None, error))?;
                levels.pop();
            }
        }
    }
    Ok(Done {})
}

impl Level {
    fn new(directory: Dir, name: OsString) -> Self {
        Self {
            directory,
            name,
            batch: Vec::new(),
        }
    }

    /// Reads the first entries of the directory, which has no other entries left to remove.
    fn fill(&mut self) -> nix::Result<()> {
        for entry in self.directory.iter() {
            let entry = entry?;
            if is_real(entry.file_name()) {
                let entry = (entry.file_name().to_owned(), entry.file_type());
                self.batch.push(entry);
            }
            if self.batch.len() == BATCH {
                break;
            }
        }
        Ok(())
    }
}

/// Removes the directory of the last level, which is empty, from its parent.
fn remove_dir(parent: impl std::os::fd::AsFd, levels: &[Level]) -> nix::Result<()> {
    let Some(level) = levels.last() else {
        return Ok(());
    };
    let removed = unlinkat(parent, level.name.as_os_str(), UnlinkatFlags::RemoveDir);
    ignore_missing(removed)
}

/// Removes a file or link of the last level, or adds a level for a directory.
fn remove_entry(levels: &mut Vec<Level>, name: &OsString, kind: Option<Type>) -> nix::Result<()> {
    let (Some(top), Some(level)) = (levels.first(), levels.last()) else {
        return Ok(());
    };
    let directory = &level.directory;
    let name = name.as_os_str();
    let unlink = || ignore_missing(unlinkat(directory, name, UnlinkatFlags::NoRemoveDir));
    let is_directory = match kind {
        Some(kind) => kind == Type::Directory,
        None => match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => is_kind(&stat, SFlag::S_IFDIR),
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        },
    };
    if !is_directory {
        return unlink();
    }
    if levels.len() == MAX_LEVELS {
        let new_name = unfinished_name().map_err(|_| Errno::EIO)?;
        let moved = renameat(directory, name, &top.directory, new_name.as_os_str());
        return ignore_missing(moved);
    }
    match open_directory(directory, name) {
        Ok(entry) => levels.push(Level::new(entry, name.to_owned())),
        // Code has replaced the directory.
        Err(error) if is_no_directory(error) => unlink()?,
        // The user may not read the directory, but can remove it if it is empty.
        Err(Errno::EACCES) => {
            let removed = unlinkat(directory, name, UnlinkatFlags::RemoveDir);
            ignore_missing(removed).map_err(|_| Errno::EACCES)?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Ignores that an entry is missing: code may remove entries at the same time.
fn ignore_missing(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// An error that names the entry below the path of the operation.
fn failed_below(
    subject: Subject<'_>,
    levels: &[Level],
    name: Option<&OsString>,
    error: Errno,
) -> BuiltinError {
    let below = levels.iter().skip(1).map(|level| &level.name).chain(name);
    let mut path = subject.path.as_path().to_owned();
    path.extend(below);
    let path = FilePath::from(path);
    let what = subject.what;
    Subject { what, path: &path }.fail(error)
}

#[cfg(test)]
mod tests;
