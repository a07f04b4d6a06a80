//! [`NewFile`]: writes a file atomically, by way of a temporary file. [`NewDirectories`]:
//! directories that are removed again if the operation fails.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, renameat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, mkdir, unlinkat},
};

use super::{Streams, place::Place};
use crate::archive::unfinished_name;

/// The most bytes of a path, with the zero byte at its end.
const MAX_PATH: usize = nix::libc::PATH_MAX as usize;

/// A temporary file beside the place of the new file. It is removed unless it is committed.
pub(super) struct NewFile {
    place: Place,
    temporary: OsString,
    pub(super) file: File,
    permissions: Option<u32>,
}

impl NewFile {
    /// Without `permissions`, the file gets 0644 minus the umask.
    pub(super) fn create(place: Place, permissions: Option<u32>) -> io::Result<Self> {
        // Other users may not read the file before it has its permissions.
        let mode = match permissions {
            Some(_) => Mode::from_bits_truncate(0o600),
            None => Mode::from_bits_truncate(0o644),
        };
        let temporary = unfinished_name()?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&place.directory, temporary.as_os_str(), flags, mode)?.into();
        Ok(Self {
            place,
            temporary,
            file,
            permissions,
        })
    }

    /// Renames the file to its place. With `is_exclusive`, fails if a file exists there. If the
    /// operation was stopped, fails without renaming.
    pub(super) fn commit(mut self, is_exclusive: bool, streams: &Streams) -> io::Result<()> {
        if let Some(permissions) = self.permissions {
            let permissions = Permissions::from_mode(permissions);
            self.file.set_permissions(permissions)?;
        }
        streams.check()?;
        match is_exclusive {
            true => rename_exclusive(&self.place, &self.temporary)?,
            false => {
                let directory = &self.place.directory;
                let name = self.place.name.as_os_str();
                renameat(directory, self.temporary.as_os_str(), directory, name)?;
            }
        }
        self.temporary.clear();
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.temporary.is_empty() {
            // Ignore an error: the caller reports the one that came before.
            let name = self.temporary.as_os_str();
            let _ = unlinkat(&self.place.directory, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(target_os = "linux")]
fn rename_exclusive(place: &Place, temporary: &OsString) -> io::Result<()> {
    use rustix::fs::{RenameFlags, renameat_with};

    let directory = &place.directory;
    let flags = RenameFlags::NOREPLACE;
    match renameat_with(directory, temporary, directory, &place.name, flags) {
        // The file system doesn't support the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => link(place, temporary),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_exclusive(place: &Place, temporary: &OsString) -> io::Result<()> {
    link(place, temporary)
}

/// Renames by creating a hard link and removing the old name: a hard link never replaces a file.
fn link(place: &Place, temporary: &OsString) -> io::Result<()> {
    let (directory, from) = (&place.directory, temporary.as_os_str());
    let flags = nix::fcntl::AtFlags::empty();
    nix::unistd::linkat(directory, from, directory, place.name.as_os_str(), flags)?;
    // The file is at its place, so the operation has succeeded even if this fails.
    let _ = unlinkat(directory, from, UnlinkatFlags::NoRemoveDir);
    Ok(())
}

/// Directories that an operation created. They are removed, if they are empty, unless `keep` is
/// called.
#[derive(Default)]
pub(super) struct NewDirectories(Vec<PathBuf>);

impl NewDirectories {
    /// Creates a directory and its missing parents. Succeeds if it exists.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        // Otherwise, thousands of directories would be created and removed before the failure.
        if path.as_os_str().len() >= MAX_PATH {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let mut created = Self::default();
        let mut missing = Vec::new();
        for directory in path.ancestors() {
            if is_directory(directory) || directory.as_os_str().is_empty() {
                break;
            }
            missing.push(directory);
        }
        for directory in missing.into_iter().rev() {
            match mkdir(directory, Mode::from_bits_truncate(0o755)) {
                Ok(()) => created.0.push(directory.to_owned()),
                // Another process created it.
                Err(Errno::EEXIST) if is_directory(directory) => {}
                Err(Errno::EEXIST) if directory != path => return Err(Errno::ENOTDIR.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(created)
    }

    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewDirectories {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            // Fails if another process has put a file there.
            let _ = fs::remove_dir(directory);
        }
    }
}

fn is_directory(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}
