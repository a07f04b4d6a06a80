//! How the files of a sandbox are opened while its code changes them.

use std::{
    ffi::OsString,
    fs,
    io::{self, Seek},
    path::{Path, PathBuf},
};

/// Opens a file or directory to be read. A path that leads through a symbolic link is an error: its owner may have put
/// one there a moment ago, to have something read to which it has no access. Nor is a pipe waited for.
#[cfg(target_os = "linux")]
pub(super) fn open(path: &Path) -> io::Result<fs::File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(file) => Ok(file.into()),
        // Something that is no file any more: a link, or a socket.
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

/// What a symbolic link is and says. As with [`open`], a path that leads through another one is an error.
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
        // It is no link any more.
        Err(Errno::NOENT | Errno::INVAL) => return Err(io::ErrorKind::NotFound.into()),
        read => OsString::from_vec(read?.into_bytes()),
    };
    Ok((link.metadata()?, target.into()))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read_link(path: &Path) -> io::Result<(fs::Metadata, PathBuf)> {
    Ok((fs::symlink_metadata(path)?, fs::read_link(path)?))
}

/// The names in a directory that is open.
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

/// Whether the data of a file of this size is in at most so many pieces between holes. False where
/// the file system does not say.
pub(super) fn has_few_pieces(file: &fs::File, size: u64, most: usize) -> bool {
    use rustix::fs::{SeekFrom, seek};

    let mut at = 0;
    for _ in 0..=most {
        match seek(file, SeekFrom::Data(at)) {
            // There is no data after this place.
            Err(rustix::io::Errno::NXIO) => return rewind(file),
            Err(_) => return false,
            Ok(data) => match seek(file, SeekFrom::Hole(data)) {
                Ok(hole) if hole >= size => return rewind(file),
                Ok(hole) => at = hole,
                Err(_) => return false,
            },
        }
    }
    // The caller reads it from its beginning.
    rewind(file);
    false
}

fn rewind(mut file: &fs::File) -> bool {
    file.rewind().is_ok()
}
