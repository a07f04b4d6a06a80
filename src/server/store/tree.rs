//! Opens the files of a sandbox safely while its code may change them.

use std::{
    ffi::OsString,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Size of a block of a tar archive, in bytes.
const TAR_BLOCK: u64 = 512;

/// Opens a file or directory for reading.
///
/// Fails if any component of the path is a symbolic link: code may just have created it, to make
/// the server read a file that code can't access. Doesn't block on a pipe.
#[cfg(target_os = "linux")]
pub(super) fn open(path: &Path) -> io::Result<fs::File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(file) => Ok(file.into()),
        // The file has been replaced by a link or a socket.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
            Err(io::ErrorKind::NotFound.into())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;

    let no_trap = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(no_trap)
        .open(path)
}

/// The metadata and the target of a symbolic link. Like [`open`], fails if a parent in the path is
/// a symbolic link.
#[cfg(target_os = "linux")]
pub(super) fn read_link(path: &Path) -> io::Result<(fs::Metadata, PathBuf)> {
    use std::os::{fd::AsFd, unix::ffi::OsStringExt};

    use rustix::{
        fs::{CWD, Mode, OFlags, ResolveFlags, openat2, readlinkat},
        io::Errno,
    };

    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::LOOP) => return Err(io::ErrorKind::NotFound.into()),
        opened => fs::File::from(opened?),
    };
    let target = match readlinkat(link.as_fd(), "", Vec::new()) {
        // The link has been replaced.
        Err(Errno::NOENT | Errno::INVAL) => return Err(io::ErrorKind::NotFound.into()),
        read => OsString::from_vec(read?.into_bytes()),
    };
    Ok((link.metadata()?, target.into()))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read_link(path: &Path) -> io::Result<(fs::Metadata, PathBuf)> {
    Ok((fs::symlink_metadata(path)?, fs::read_link(path)?))
}

/// The names in an open directory.
pub(super) fn names(
    directory: &fs::File,
    path: &Path,
) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
    #[cfg(target_os = "linux")]
    let place = {
        use std::os::fd::AsRawFd;
        let _ = path;
        format!("/proc/self/fd/{}", directory.as_raw_fd())
    };
    #[cfg(not(target_os = "linux"))]
    let place = {
        let _ = directory;
        path
    };
    Ok(fs::read_dir(place)?.map(|entry| Ok(entry?.file_name())))
}

/// The pieces of data between the holes of a file of this size, in order. `None` if there are more
/// than `most`, if the file system doesn't report holes, or if a tar archive can't hold the pieces.
pub(super) fn pieces(file: &fs::File, size: u64, most: usize) -> Option<Vec<Range<u64>>> {
    use rustix::{
        fs::{SeekFrom, seek},
        io::Errno,
    };

    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < size => data,
            // There is no data after `at`.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let hole = seek(file, SeekFrom::Hole(data)).ok()?.min(size);
        // Each piece but the last fills whole blocks of the archive.
        let is_whole = hole == size || hole.saturating_sub(data).is_multiple_of(TAR_BLOCK);
        if pieces.len() == most || hole <= data || !is_whole {
            return None;
        }
        pieces.push(data..hole);
        at = hole;
    }
    Some(pieces)
}
