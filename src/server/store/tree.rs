//! Opens the files of a sandbox safely while its code may change them.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

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
pub(super) use crate::archive::pack::open;

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
