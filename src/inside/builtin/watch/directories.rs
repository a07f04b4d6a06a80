//! The watches of the directories below the root.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::PathBuf};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag},
    sys::{inotify::AddWatchFlags, stat::Mode},
};

use super::{
    super::{
        list::{is_no_directory, is_real},
        place::open_directory,
    },
    CHANGES, Watcher, join,
};
use crate::protocol::{FileEvent, FilePath};

/// Maximum number of directories to watch. The kernel has a limit as well.
const MAX_WATCHES: usize = 65_536;
/// Maximum number of names in new directories to remember.
const MAX_SEEN: usize = 65_536;

impl Watcher<'_> {
    /// Watches a directory below the root. If it was not yet watched at this path, also watches the
    /// directories in it, and reports its entries as created if `is_new`.
    pub(super) fn add_directory(&mut self, path: Vec<u8>, is_new: bool) -> io::Result<()> {
        if self.add_watch(&path)? {
            self.add_entries(path, is_new)?;
        }
        Ok(())
    }

    /// Watches the directories in a directory that is watched.
    pub(super) fn add_entries(&mut self, path: Vec<u8>, is_new: bool) -> io::Result<()> {
        if !self.is_recursive {
            return Ok(());
        }
        let mut directories = vec![path];
        while let Some(directory) = directories.pop() {
            self.streams.check()?;
            for (name, kind) in self.entries(&directory)? {
                let path = join(&directory, &name);
                if is_new && self.seen.len() < MAX_SEEN {
                    self.report(&FileEvent::Created {
                        path: FilePath::from_bytes(path.as_slice()),
                    })?;
                    self.seen.insert(path.clone());
                } else if is_new {
                    self.report(&FileEvent::Overflow)?;
                }
                // If the kind is unknown, `add_watch` succeeds only for a directory.
                let is_directory = kind.is_none_or(|kind| kind == Type::Directory);
                if is_directory && self.add_watch(&path)? {
                    directories.push(path);
                }
            }
        }
        Ok(())
    }

    /// The entries of a directory. Empty if code has removed or replaced the directory.
    fn entries(&self, directory: &[u8]) -> io::Result<Vec<(Vec<u8>, Option<Type>)>> {
        let path = self.on_machine(directory);
        let opened = match directory.is_empty() {
            // The root can be a link.
            true => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                Dir::open(&path, flags, Mode::empty())
            }
            false => open_directory(AT_FDCWD, &path),
        };
        let mut directory = match opened {
            Err(error) if is_no_directory(error) || error == Errno::EACCES => return Ok(vec![]),
            result => result?,
        };
        let mut entries = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            if is_real(entry.file_name()) {
                let name = entry.file_name().to_bytes().to_owned();
                entries.push((name, entry.file_type()));
            }
        }
        Ok(entries)
    }

    /// Watches a directory below the root. Returns `true` if it was not yet watched at this path.
    fn add_watch(&mut self, path: &[u8]) -> io::Result<bool> {
        if self.watches.len() >= MAX_WATCHES {
            self.report(&FileEvent::Overflow)?;
            return Ok(false);
        }
        let flags = CHANGES | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        let directory = self.on_machine(path);
        match self.queue.add_watch(&directory, flags) {
            Ok(watch) if Some(watch) == self.root_watch => Ok(false),
            Ok(watch) => {
                let earlier = self.watches.insert(watch, path.to_owned());
                Ok(earlier.as_deref() != Some(path))
            }
            Err(error) if is_no_directory(error) || error == Errno::EACCES => Ok(false),
            Err(Errno::ENOSPC | Errno::ENOMEM | Errno::ENAMETOOLONG) => {
                self.report(&FileEvent::Overflow)?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn on_machine(&self, path: &[u8]) -> PathBuf {
        match path.is_empty() {
            true => self.root.clone(),
            false => self.root.join(OsStr::from_bytes(path)),
        }
    }
}
