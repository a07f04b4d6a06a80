//! [`Directory`]: a [`Storage`] in a directory, on a local disk or on one that several machines
//! share.
//!
//! A file is written under a temporary name and renamed, so it is whole or absent. An older file
//! with its name stays until the rename.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tempfile::NamedTempFile;

use super::{
    archive::{
        layout::Bounds,
        pack::{Packed, remove_if_left_behind},
    },
    lock::{LOCKS, WAITING},
    storage::{CHECKPOINTS, Fence, MAX_SMALL_BYTES, SNAPSHOTS, Stamp, Storage, UNFINISHED},
    turns::Turn,
};
use crate::server::private;

/// Age at which an unfinished file counts as left behind by a killed server.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

/// How often locks are polled. Reading a local file costs almost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens the storage in this directory, and creates the directory if it is missing. Fails if
    /// other users could read or replace the files in it.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let directory = &private::own(directory)?;
        for name in [SNAPSHOTS, CHECKPOINTS] {
            let directory = directory.join(name);
            private::ensure(&directory)?;
            remove_left_behind(&directory, remove_if_left_behind)?;
        }
        let locks = directory.join(LOCKS);
        private::ensure(&locks)?;
        private::ensure(&directory.join(WAITING))?;
        remove_left_behind(&locks, |_| None)?;
        Ok(Self(directory.to_owned()))
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a small file under a temporary name.
    fn written(&self, name: &str, data: &[u8]) -> io::Result<NamedTempFile> {
        let top = name.split('/').next().unwrap_or_default();
        let mut file = private::unfinished(&self.place(top), UNFINISHED)?;
        file.write_all(data)?;
        Ok(file)
    }
}

impl Storage for Directory {
    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.place(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // Ignores names that are not valid UTF-8: the server never creates them.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<(Vec<u8>, Stamp)> {
        let file = private::open(&self.place(name))?;
        let stamp = stamp(&file.metadata()?)?;
        let mut data = Vec::new();
        file.take(MAX_SMALL_BYTES).read_to_end(&mut data)?;
        Ok((data, stamp))
    }

    fn create(&self, name: &str, data: &[u8]) -> io::Result<bool> {
        let place = self.place(name);
        if let Some(directory) = place.parent() {
            private::ensure(directory)?;
        }
        match self.written(name, data)?.persist_noclobber(place) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    /// Always replaces the file, because file systems have no conditional rename.
    fn replace(&self, name: &str, data: &[u8], _old: &Stamp) -> io::Result<bool> {
        self.write(name, data).map(|()| true)
    }

    fn write(&self, name: &str, data: &[u8]) -> io::Result<()> {
        let written = self.written(name, data)?.persist(self.place(name));
        written.map(drop).map_err(|error| error.error)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        unless_gone(fs::remove_file(self.place(name)))
    }

    fn remove_all(&self, directory: &str) -> io::Result<()> {
        unless_gone(fs::remove_dir_all(self.place(directory)))
    }

    fn forget(&self, name: &str) {
        let _ = self.remove(name);
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        stamp(&fs::symlink_metadata(self.place(name))?)
    }

    /// The directory of the archive itself, because the finished archive is renamed.
    fn workplace(&self, name: &str) -> PathBuf {
        self.place(name)
            .parent()
            .map_or_else(|| self.0.clone(), Path::to_owned)
    }

    fn put(&self, archive: Packed, name: &str, fence: Fence<'_>) -> io::Result<()> {
        archive.put(&self.place(name), fence)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(private::open(&self.place(name))?))
    }

    fn fetch(&self, name: &str, _bounds: &Bounds, _turn: &Turn) -> io::Result<fs::File> {
        private::open(&self.place(name))
    }

    fn look_every(&self, _lease: Duration) -> Duration {
        LOOK_EVERY
    }
}

fn stamp(meta: &fs::Metadata) -> io::Result<Stamp> {
    Ok(Stamp {
        tag: Some(meta.ino().to_string()),
        version: None,
        modified: meta.modified()?,
    })
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the unfinished files of killed servers.
///
/// Another server may be writing to the directory now. `remove` removes a file if it can tell that
/// its server is gone. If it returns `None` because it can't tell, the file is removed by its age.
fn remove_left_behind(directory: &Path, remove: impl Fn(&Path) -> Option<bool>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let unfinished = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(UNFINISHED));
        if !unfinished || remove(&entry.path()).is_some() {
            continue;
        }
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        if age.is_ok_and(|age| age > LEFT_BEHIND) {
            // Another server may have removed it first.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::server::store::archive::pack::Packer;

    fn set_age(file: &Path, age: Duration) {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn unfinished_files_of_a_killed_server_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        Directory::open(directory.path()).unwrap();
        let snapshots = directory.path().join(SNAPSHOTS);
        // A killed process leaves the file, but not its lock.
        let left = snapshots.join(format!("{UNFINISHED}left"));
        fs::write(&left, "half").unwrap();
        let kept = snapshots.join("kept.tar.lz4");
        fs::write(&kept, "whole").unwrap();
        let file = snapshots.join("written.tar.lz4");
        let packer = Packer::create(
            &snapshots,
            UNFINISHED,
            None,
            Bounds {
                bytes: 1 << 20,
                files: 9,
            },
            &Turn::default(),
        )
        .unwrap();
        for entry in fs::read_dir(&snapshots).unwrap() {
            set_age(&entry.unwrap().path(), 2 * LEFT_BEHIND);
        }

        Directory::open(directory.path()).unwrap();
        assert!(!left.exists() && kept.exists());
        packer.finish().unwrap().put(&file, || Ok(())).unwrap();
        assert!(file.exists());
    }

    #[test]
    fn without_locks_only_old_unfinished_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let unfinished = |name: &str| directory.path().join(format!("{UNFINISHED}{name}"));
        let (old, young) = (unfinished("old"), unfinished("young"));
        for file in [&old, &young] {
            fs::write(file, "half").unwrap();
        }
        set_age(&old, 2 * LEFT_BEHIND);
        remove_left_behind(directory.path(), |_| None).unwrap();
        assert!(!old.exists() && young.exists());
    }

    #[test]
    fn other_users_cannot_enter_the_directories() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let directory = folder.path().join("made");
        Directory::open(&directory).unwrap();
        for name in ["", SNAPSHOTS, CHECKPOINTS, LOCKS, WAITING] {
            assert_eq!(mode(&directory.join(name)), 0o700);
        }
        fs::remove_dir(directory.join(SNAPSHOTS)).unwrap();
        symlink(folder.path(), directory.join(SNAPSHOTS)).unwrap();
        let error = Directory::open(&directory).err().unwrap().to_string();
        assert!(error.contains("found a link"), "{error}");
    }

    #[test]
    fn links_that_replace_archives_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let directory = folder.path().join("state");
        let storage = Directory::open(&directory).unwrap();
        let name = format!("{SNAPSHOTS}/a.tar.lz4");
        symlink(folder.path().join("secret"), directory.join(&name)).unwrap();
        let bounds = Bounds { bytes: 1, files: 1 };
        let fetched = storage.fetch(&name, &bounds, &Turn::default());
        for error in [
            storage.read(&name).err(),
            storage.open(&name).err(),
            fetched.err(),
        ] {
            let error = error.unwrap().to_string();
            assert!(error.contains("symbolic link"), "{error}");
        }
    }
}
