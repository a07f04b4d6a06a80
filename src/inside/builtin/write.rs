//! [`write()`] and [`copy`]: write the content of a file.

use std::{
    fs::{File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag},
};

use super::{
    Streams, Subject, kind,
    new_file::{NewDirectories, NewFile},
    place::{Place, is_kind},
    read::{CHUNK, MAX_UNSIZED, check_regular, each_chunk, open_file, refuse_more},
    reason,
};
use crate::{
    archive::sparse,
    protocol::{BuiltinError, BuiltinErrorKind, FilePath, Transferred, WriteMode},
};

/// Writes stdin to a file.
///
/// If the path is a symbolic link, `Replace` replaces the file that the link points to, and keeps
/// the link. If the operation fails, it removes the parent directories that it has created.
pub(super) fn write(
    home: &Path,
    path: &FilePath,
    mode: WriteMode,
    permissions: Option<u32>,
    streams: &mut Streams,
) -> Result<Transferred, BuiltinError> {
    let what = match mode {
        WriteMode::Append => "append to",
        _ => "write",
    };
    let subject = Subject::new(what, path)?;
    if let Some(permissions) = permissions {
        subject.check_permissions(permissions)?;
    }
    let path = subject.on_machine(home);
    let parents = create_parents(&path).map_err(|error| subject.fail(error))?;
    let bytes = match mode {
        WriteMode::Replace => write_new(subject, &path, false, permissions, streams)?,
        WriteMode::Create => write_new(subject, &path, true, permissions, streams)?,
        WriteMode::Append => write_in_place(subject, &path, None, permissions, streams)?,
        WriteMode::At(at) => write_in_place(subject, &path, Some(at), permissions, streams)?,
    };
    parents.keep();
    Ok(Transferred::new(bytes, 1))
}

/// Copies a file with its permissions.
pub(super) fn copy(
    home: &Path,
    path: &FilePath,
    to: &FilePath,
    streams: &mut Streams,
) -> Result<Transferred, BuiltinError> {
    let source = Subject::new("copy", path)?;
    let target = Subject::new("write", to)?;
    let (from, metadata) = open_file(source, &source.on_machine(home))?;
    let target_path = target.on_machine(home);
    let parents = create_parents(&target_path).map_err(|error| target.fail(error))?;
    let permissions = metadata.permissions().mode() & 0o7777;
    let file = prepare(target, &target_path, false, Some(permissions))?;
    let fail = |error: io::Error| {
        let message = format!("cannot copy '{path}' to '{to}': {}", reason(&error));
        BuiltinError::new(kind(&error), to.clone(), message)
    };
    let bytes = match metadata.len() {
        0 => {
            let bytes = copy_range(&from, 0..MAX_UNSIZED, &file.file, streams).map_err(fail)?;
            refuse_more(source, &from, bytes)?;
            bytes
        }
        size => copy_data(&from, size, &file.file, streams).map_err(fail)?,
    };
    file.commit(false, streams).map_err(fail)?;
    parents.keep();
    Ok(Transferred::new(bytes, 1))
}

fn create_parents(path: &Path) -> io::Result<NewDirectories> {
    let Some(parent) = path.parent() else {
        return Ok(NewDirectories::default());
    };
    NewDirectories::create(parent).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Errno::ENOTDIR.into(),
        _ => error,
    })
}

/// Writes stdin to a new file, which then replaces the old one.
fn write_new(
    subject: Subject<'_>,
    path: &Path,
    is_exclusive: bool,
    permissions: Option<u32>,
    streams: &mut Streams,
) -> Result<u64, BuiltinError> {
    let new = prepare(subject, path, is_exclusive, permissions)?;
    let mut bytes = 0;
    let mut file = &new.file;
    let written = each_input(streams, |chunk| {
        bytes += chunk.len() as u64;
        file.write_all(chunk)
    });
    written
        .and_then(|()| new.commit(is_exclusive, streams))
        .map_err(|error| subject.fail(error))?;
    Ok(bytes)
}

/// Creates the file that will replace the file at `path`. Fails if that is not a regular file, or
/// if it exists and `is_exclusive`.
fn prepare(
    subject: Subject<'_>,
    path: &Path,
    is_exclusive: bool,
    permissions: Option<u32>,
) -> Result<NewFile, BuiltinError> {
    let fail = |error: Errno| subject.fail(error);
    let place = Place::open(path).map_err(fail)?;
    let (place, earlier) = match is_exclusive {
        true => place.stat().map(|earlier| (place, earlier)),
        false => place.follow(),
    }
    .map_err(fail)?;
    let earlier_permissions = match earlier {
        None => None,
        Some(stat) if is_kind(&stat, SFlag::S_IFDIR) => return Err(fail(Errno::EISDIR)),
        Some(_) if is_exclusive => return Err(fail(Errno::EEXIST)),
        Some(stat) if is_kind(&stat, SFlag::S_IFREG) => {
            Some(super::metadata::describe(&stat).permissions)
        }
        Some(_) => return Err(subject.not_a_file()),
    };
    NewFile::create(place, permissions.or(earlier_permissions)).map_err(|error| subject.fail(error))
}

/// Fails if the file is the kernel's view of a process or of the system. For example,
/// `/proc/self/mem` is the memory of this process.
#[cfg(target_os = "linux")]
fn check_writable(subject: Subject<'_>, file: &File) -> Result<(), BuiltinError> {
    use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
    let of = fstatfs(file).map_err(|error| subject.fail(error))?;
    match of.filesystem_type() {
        PROC_SUPER_MAGIC => Err(subject.not_a_file()),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn check_writable(_: Subject<'_>, _: &File) -> Result<(), BuiltinError> {
    Ok(())
}

/// Appends stdin to a file, or writes it at an offset. An error says how many bytes were written.
fn write_in_place(
    subject: Subject<'_>,
    path: &Path,
    offset: Option<u64>,
    permissions: Option<u32>,
    streams: &mut Streams,
) -> Result<u64, BuiltinError> {
    if offset.is_some_and(|offset| i64::try_from(offset).is_err()) {
        let reason = "the offset is greater than the largest size of a file";
        return Err(subject.refuse(BuiltinErrorKind::InvalidInput, reason));
    }
    let file = open_in_place(path, offset.is_none()).map_err(|error| subject.fail(error))?;
    let metadata = file.metadata().map_err(|error| subject.fail(error))?;
    check_regular(subject, &metadata)?;
    check_writable(subject, &file)?;
    if let Some(permissions) = permissions {
        file.set_permissions(Permissions::from_mode(permissions))
            .map_err(|error| subject.fail(error))?;
    }
    let mut done = 0;
    let written = each_input(streams, |mut chunk| {
        while !chunk.is_empty() {
            let written = match offset {
                None => (&file).write(chunk),
                Some(offset) => file.write_at(chunk, offset.saturating_add(done)),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    done += written as u64;
                    chunk = &chunk[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    written.map_err(|error| {
        let reason = format!("{}; {done} bytes were written", reason(&error));
        subject.refuse(kind(&error), &reason)
    })?;
    Ok(done)
}

fn open_in_place(path: &Path, is_append: bool) -> nix::Result<File> {
    let mut flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    if is_append {
        flags |= OFlag::O_APPEND;
    }
    Ok(open(path, flags, Mode::from_bits_truncate(0o644))?.into())
}

/// Passes stdin to `take`, until it ends.
fn each_input(
    streams: &mut Streams,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match streams.read(&mut buffer)? {
            0 => return Ok(()),
            length => take(&buffer[..length])?,
        }
    }
}

/// Copies up to `size` bytes and preserves holes. Returns the size of the copy.
fn copy_data(from: &File, size: u64, to: &File, streams: &Streams) -> io::Result<u64> {
    let mut at = 0;
    while let Some(data) = next_data(from, at, size)? {
        at = data.start + copy_range(from, data.clone(), to, streams)?;
        if at < data.end {
            // The file has become shorter.
            to.set_len(at)?;
            return Ok(at);
        }
    }
    to.set_len(size)?;
    Ok(size)
}

fn copy_range(
    from: &File,
    range: std::ops::Range<u64>,
    to: &File,
    streams: &Streams,
) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let length = range.end - range.start;
    each_chunk(from, range.start, length, &mut buffer, |at, chunk| {
        streams.check()?;
        to.write_all_at(chunk, at)
    })
}

/// Like [`sparse::next_data`]. Everything up to `end` is data if the file system doesn't report holes, or if
/// the file has become shorter.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<std::ops::Range<u64>>> {
    match sparse::next_data(file, at, end) {
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENXIO) => Ok(Some(at..end)),
        found => Ok(found?),
    }
}

#[cfg(test)]
mod tests;
