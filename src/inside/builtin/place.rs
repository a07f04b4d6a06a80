//! Paths: [`Subject`] checks a path and names it in errors. [`Place`] is the open parent directory
//! of a path, and the name in it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    NixPath,
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};

use super::failure;
use crate::protocol::{BuiltinError, BuiltinErrorKind, FilePath};

/// The longest name of a file, in bytes.
const MAX_NAME: usize = 255;
/// Maximum number of links to follow, the same as in Linux.
const MAX_LINKS: u32 = 40;

/// How to open a directory to use the files in it.
#[cfg(target_os = "linux")]
const SEARCH: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);
#[cfg(not(target_os = "linux"))]
const SEARCH: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// An operation and its path, which has been checked. Creates errors that name both.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a FilePath,
}

impl<'a> Subject<'a> {
    /// Fails if the path is empty, contains a zero byte or contains a name that is too long.
    pub(super) fn new(what: &'static str, path: &'a FilePath) -> Result<Self, BuiltinError> {
        let subject = Self { what, path };
        let bytes = path.as_bytes();
        let refuse = |reason: &str| Err(subject.refuse(BuiltinErrorKind::InvalidInput, reason));
        if bytes.is_empty() {
            return refuse("the path is empty; give the path of a file or directory");
        }
        if bytes.contains(&0) {
            return refuse("the path contains a zero byte; remove it");
        }
        if bytes
            .split(|byte| *byte == b'/')
            .any(|name| name.len() > MAX_NAME)
        {
            return refuse("a name in the path is longer than 255 bytes; use a shorter name");
        }
        Ok(subject)
    }

    /// Like `new`. An empty path stands for the home.
    pub(super) fn or_home(what: &'static str, path: &'a FilePath) -> Result<Self, BuiltinError> {
        match path.as_bytes().is_empty() {
            true => Ok(Self { what, path }),
            false => Self::new(what, path),
        }
    }

    /// The path on this machine.
    pub(super) fn on_machine(self, home: &Path) -> PathBuf {
        home.join(self.path.as_path())
    }

    /// Creates the error of an operation that failed.
    pub(super) fn fail(self, error: impl Into<io::Error>) -> BuiltinError {
        failure(self.what, self.path, &error.into())
    }

    /// Creates the error of an operation that is refused.
    pub(super) fn refuse(self, kind: BuiltinErrorKind, reason: &str) -> BuiltinError {
        let message = format!("cannot {} '{}': {reason}", self.what, self.path);
        BuiltinError::new(kind, self.path.clone(), message)
    }

    /// Creates the error for a path that is a pipe, a socket or a device.
    pub(super) fn not_a_file(self) -> BuiltinError {
        let reason = "it is a pipe, a socket or a device, not a regular file";
        self.refuse(BuiltinErrorKind::NotAFile, reason)
    }

    /// Fails if `permissions` contains other bits than those of 0o7777.
    pub(super) fn check_permissions(self, permissions: u32) -> Result<(), BuiltinError> {
        match permissions > 0o7777 {
            true => Err(self.refuse(
                BuiltinErrorKind::InvalidInput,
                "the permissions are greater than 0o7777; use only permission bits",
            )),
            false => Ok(()),
        }
    }
}

/// A name in an open directory. It refers to the same place even if the directory is renamed.
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
}

impl Place {
    /// Opens the directory of a path. Fails with EISDIR if the path ends with `/`, `.` or `..`.
    pub(super) fn open(path: &Path) -> nix::Result<Self> {
        Self::open_at(AT_FDCWD, path)
    }

    fn open_at(directory: impl AsFd, path: &Path) -> nix::Result<Self> {
        let (parent, name) = split(path).ok_or(Errno::EISDIR)?;
        let directory = openat(directory, parent, SEARCH, Mode::empty())?;
        let name = name.to_owned();
        Ok(Self { directory, name })
    }

    /// The place that a symbolic link here points to, with its file if one exists.
    pub(super) fn follow(mut self) -> nix::Result<(Self, Option<FileStat>)> {
        for _ in 0..MAX_LINKS {
            match self.stat()? {
                Some(stat) if is_kind(&stat, SFlag::S_IFLNK) => {}
                stat => return Ok((self, stat)),
            }
            let target = readlinkat(&self.directory, self.name.as_os_str())?;
            self = Self::open_at(&self.directory, Path::new(&target))?;
        }
        Err(Errno::ELOOP)
    }

    /// The file here, or the link itself.
    pub(super) fn stat(&self) -> nix::Result<Option<FileStat>> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        match fstatat(&self.directory, self.name.as_os_str(), flags) {
            Err(Errno::ENOENT) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Opens a directory to read its entries. Follows no link, and doesn't block.
///
/// Without `O_DIRECTORY`: if that is set, some versions of gVisor follow a link despite
/// `O_NOFOLLOW`.
pub(super) fn open_directory<P: ?Sized + NixPath>(parent: impl AsFd, name: &P) -> nix::Result<Dir> {
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    // `Dir` doesn't close the descriptor of another file.
    match is_kind(&fstat(&directory)?, SFlag::S_IFDIR) {
        true => Dir::from_fd(directory),
        false => Err(Errno::ENOTDIR),
    }
}

/// Whether a file is of a kind.
pub(super) fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// The directory and the name that a path consists of.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&b"/"[..], bytes.get(1..)?),
        Some(slash) => (bytes.get(..slash)?, bytes.get(slash + 1..)?),
        None => (&b"."[..], bytes),
    };
    match name {
        b"" | b"." | b".." => None,
        _ => Some((
            Path::new(OsStr::from_bytes(parent)),
            OsStr::from_bytes(name),
        )),
    }
}
