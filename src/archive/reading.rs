//! Reads entries of archives that an attacker may have made: limits, names, and the directories
//! that may still get entries.

use std::{
    cell::Cell,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use tar::{Archive, Entry, EntryType};

/// Maximum bytes of the headers of one entry: its name, the target of a link, the list of holes.
/// The reader keeps them in memory.
pub(crate) const MAX_HEADER_BYTES: u64 = 2 * 1024 * 1024;

/// Permission bits that are not restored: set-user-id, set-group-id, sticky.
const MASKED: u32 = 0o7000;

/// The number of bytes that may still be read from an archive.
pub(crate) struct Budget {
    /// Bytes left in the whole archive.
    left: Cell<u64>,
    /// Bytes left in the current part of the archive, for example in the headers of an entry.
    now: Cell<u64>,
    /// The text of the error when no bytes are left in the whole archive.
    too_many: String,
}

impl Budget {
    pub(crate) fn new(bytes: u64, too_many: impl Into<String>) -> Self {
        Self {
            left: Cell::new(bytes),
            now: Cell::new(MAX_HEADER_BYTES),
            too_many: too_many.into(),
        }
    }

    /// Limits the next part of the archive.
    pub(crate) fn limit_part(&self, bytes: u64) {
        self.now.set(bytes);
    }

    fn spend(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.left.set(self.left.get().saturating_sub(bytes));
        self.now.set(self.now.get().saturating_sub(bytes));
    }

    fn exceeded(&self) -> io::Error {
        match self.left.get() {
            0 => io::Error::new(io::ErrorKind::FileTooLarge, self.too_many.as_str()),
            _ => damaged(format!(
                "the headers of an entry take more than {MAX_HEADER_BYTES} bytes"
            )),
        }
    }
}

/// A reader with a budget.
pub(crate) struct Metered<'a, R> {
    pub(crate) inner: R,
    pub(crate) budget: &'a Budget,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.left.get().min(self.budget.now.get());
        let length = usize::try_from(left).map_or(to.len(), |left| left.min(to.len()));
        if length == 0 && !to.is_empty() {
            // The archive may end exactly at the limit.
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(self.budget.exceeded()),
            };
        }
        let length = self.inner.read(&mut to[..length])?;
        self.budget.spend(length);
        Ok(length)
    }
}

/// Opens an archive. Unpacking an entry sets its permissions, and fails if the file exists.
pub(crate) fn open<R: Read>(inner: R, budget: &Budget) -> Archive<Metered<'_, R>> {
    let mut archive = Archive::new(Metered { inner, budget });
    archive.set_preserve_permissions(true);
    archive.set_mask(MASKED);
    archive.set_overwrite(false);
    archive
}

/// A directory that may get more entries.
pub(crate) struct Directory {
    /// Path in the archive.
    pub(crate) name: PathBuf,
    pub(crate) path: PathBuf,
    /// The mode to set after all entries of the directory are unpacked. Until then the process must
    /// be able to write to the directory.
    pub(crate) mode: u32,
    pub(crate) modified: Option<SystemTime>,
}

impl Directory {
    fn close(self) -> io::Result<()> {
        if let Some(modified) = self.modified {
            filetime::set_file_mtime(&self.path, modified.into())?;
        }
        set_mode(&self.path, self.mode & 0o777)
    }
}

/// Sets the permissions of a directory, on systems that have them.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = (path, mode);
        Ok(())
    }
}

/// Sets the time of a symbolic link, if the file system supports it.
pub(crate) fn set_link_time(path: &Path, modified: Option<SystemTime>) {
    if let Some(modified) = modified {
        let time = modified.into();
        let _ = filetime::set_symlink_file_times(path, time, time);
    }
}

/// The parents of the next entry, from the top down.
#[derive(Default)]
pub(crate) struct Parents(Vec<Directory>);

impl Parents {
    /// Closes the directories that get no more entries. Fails unless the parent of an entry is
    /// open.
    pub(crate) fn descend(&mut self, entry: &Path) -> io::Result<()> {
        let parent = entry.parent().unwrap_or(Path::new(""));
        while let Some(last) = self.0.pop_if(|last| last.name != parent) {
            last.close()?;
        }
        match self.0.is_empty() && !parent.as_os_str().is_empty() {
            true => Err(damaged("the entry must come after its directory")),
            false => Ok(()),
        }
    }

    /// Adds a directory that has just been created or checked, after [`descend`](Self::descend).
    pub(crate) fn enter(&mut self, directory: Directory) {
        self.0.push(directory);
    }

    /// Closes all directories.
    pub(crate) fn close(mut self) -> io::Result<()> {
        while let Some(last) = self.0.pop() {
            last.close()?;
        }
        Ok(())
    }
}

/// The name of an entry, as a path without `.`, `..` and a slash at its ends.
pub(crate) fn name(path: &Path) -> io::Result<PathBuf> {
    let is_normal = |part| matches!(part, Component::Normal(_));
    match path.components().all(is_normal) && !path.as_os_str().is_empty() {
        // Collecting the components removes a trailing slash.
        true => Ok(path.components().collect()),
        false => Err(damaged("its path must be relative, without `.` and `..`")),
    }
}

/// Checks that an entry is a file, a directory or a symbolic link, and that only a file holds data.
pub(crate) fn check_kind(entry: &Entry<'_, impl Read>) -> io::Result<EntryType> {
    let kind = entry.header().entry_type();
    match kind {
        EntryType::Regular | EntryType::GNUSparse if entry.path_bytes().ends_with(b"/") => {
            Err(damaged("the name of a file must not end with a slash"))
        }
        EntryType::Regular | EntryType::GNUSparse => Ok(kind),
        EntryType::Directory | EntryType::Symlink if entry.size() == 0 => Ok(kind),
        EntryType::Directory | EntryType::Symlink => Err(damaged(format!(
            "an entry of the kind {kind:?} must not hold data"
        ))),
        _ => Err(not_allowed(kind)),
    }
}

pub(crate) fn not_allowed(kind: EntryType) -> io::Error {
    damaged(format!("an entry of the kind {kind:?} is not allowed here"))
}

pub(crate) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
