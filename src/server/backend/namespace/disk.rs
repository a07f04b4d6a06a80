//! The disk limit of a sandbox: [`watch`] measures the sandbox's directory trees while its agent
//! runs, and ends the sandbox when they hold too much.
//!
//! The kernel has no limit for a directory that works on every file system, so this is a check and
//! no quota: between two measurements a sandbox can exceed its limit. A measurement doesn't see
//! files that were deleted but are still open, files that code moves out of its way, and, if the
//! server isn't root, directories that code made unreadable.
//!
//! The trees belong to code, which may change them at any moment. The walk never follows a link,
//! never opens a path with more than one component, and keeps few directories open and few names in
//! memory, however deep and wide the trees are.

use std::{
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
    vec,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RawDir, SeekFrom, Stat, fstat, openat, seek, statat,
    },
    io::Errno,
    path::Arg,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::server::{blocking::blocking, escaped::Escaped};

/// The pause before the first measurement, and the shortest pause between two.
const PAUSE: Duration = Duration::from_secs(1);

/// The pause is at least this many times as long as the last measurement. So the measurements of a
/// sandbox take at most 5 % of a processor.
const PAUSE_FACTOR: u32 = 20;

/// The least that each name counts. It bounds the number of files, and with it the time of a
/// measurement.
pub(super) const FILE_BYTES: u64 = 4_096;

/// How many directories a measurement keeps open. A directory above them is opened again, through
/// `..`, when everything below it has been counted.
const MAX_OPEN: usize = 32;

/// The bytes of names to read at once.
const NAMES_BYTES: usize = 8_192;

/// Measures the trees until they exceed `limit` bytes. Returns the reason to end the sandbox. Never
/// resolves otherwise. `turns` limits how many sandboxes are measured at once.
pub(super) async fn watch(trees: Vec<PathBuf>, limit: u64, turns: Arc<Semaphore>) -> String {
    let mut pause = PAUSE;
    loop {
        sleep(pause).await;
        let Ok(turn) = turns.acquire().await else {
            // The semaphore is never closed.
            return std::future::pending().await;
        };
        let begun = Instant::now();
        let of_this = trees.clone();
        let measured = blocking(move || measure(&of_this, limit)).await;
        drop(turn);
        pause = PAUSE.max(begun.elapsed() * PAUSE_FACTOR);
        match measured {
            Ok(bytes) if bytes > limit => return reason(limit),
            Ok(_) => {}
            // For example, this process has no descriptor left. Try again.
            Err(error) => {
                tracing::warn!(error = %Escaped(error), "a sandbox could not be measured");
            }
        }
    }
}

fn reason(limit: u64) -> String {
    format!(
        "the sandbox holds more than its disk limit of {} MiB (set by the server's option `disk` \
         or by its client), so its processes were killed; its files can still be stored in a \
         snapshot; kill it to free the disk, and write less in the next sandbox",
        limit >> 20
    )
}

/// The bytes that directory trees take on the disk: the blocks of each file and directory, and at
/// least [`FILE_BYTES`] for each name. A file with several names counts once. Stops when the result
/// exceeds `limit`.
fn measure(trees: &[PathBuf], limit: u64) -> io::Result<u64> {
    measure_checked(trees, limit, &mut || Ok(()))
}

/// Like [`measure`]. Calls `check` for each name, and stops if it fails.
pub(crate) fn measure_checked(
    trees: &[PathBuf],
    limit: u64,
    check: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<u64> {
    let mut walk = Walk {
        bytes: 0,
        limit,
        check,
        buffer: [MaybeUninit::uninit(); NAMES_BYTES],
    };
    for tree in trees {
        walk.add_tree(Level::open(CWD, tree)?)?;
    }
    Ok(walk.bytes)
}

struct Walk<'a> {
    bytes: u64,
    limit: u64,
    check: &'a mut dyn FnMut() -> io::Result<()>,
    buffer: [MaybeUninit<u8>; NAMES_BYTES],
}

/// A directory that is being counted.
struct Level {
    /// `None` if too many others are open.
    directory: Option<OwnedFd>,
    device: u64,
    inode: u64,
    /// Names that were read but not counted, each with the position after it.
    names: vec::IntoIter<(CString, u64)>,
    /// The position after the last name that was counted.
    position: u64,
}

impl Level {
    fn open(parent: impl std::os::fd::AsFd, name: impl Arg) -> rustix::io::Result<Self> {
        // A directory can't block, but the name may be a pipe by now.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty())?;
        let stat = fstat(&directory)?;
        Ok(Self {
            directory: Some(directory),
            device: stat.st_dev,
            inode: stat.st_ino,
            names: Vec::new().into_iter(),
            position: 0,
        })
    }

    /// The next name, with the position after it. `None` at the end.
    fn next(&mut self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Option<CString>> {
        if self.names.len() == 0
            && let Some(directory) = &self.directory
        {
            let mut names = Vec::new();
            let mut entries = RawDir::new(directory, buffer);
            while let Some(entry) = entries.next() {
                let entry = match entry {
                    // The directory was removed.
                    Err(Errno::NOENT) => break,
                    entry => entry?,
                };
                let position = entry.next_entry_cookie();
                names.push((entry.file_name().to_owned(), position));
                if entries.is_buffer_empty() {
                    break;
                }
            }
            self.names = names.into_iter();
        }
        Ok(self.names.next().map(|(name, position)| {
            self.position = position;
            name
        }))
    }

    /// Closes the directory. [`reopen`](Self::reopen) continues after the last name.
    fn close(&mut self) {
        self.directory = None;
        self.names = Vec::new().into_iter();
    }

    /// Opens the directory again, as the parent of `child`. Returns false if code has moved `child`
    /// elsewhere.
    fn reopen(&mut self, child: &Self) -> io::Result<bool> {
        let Some(child) = &child.directory else {
            return Ok(false);
        };
        let parent = match Self::open(child, c"..") {
            Err(error) if is_gone(error) => return Ok(false),
            parent => parent?,
        };
        if (parent.device, parent.inode) != (self.device, self.inode) {
            return Ok(false);
        }
        if let Some(directory) = &parent.directory {
            seek(directory, SeekFrom::Start(self.position))?;
        }
        self.directory = parent.directory;
        Ok(true)
    }
}

impl Walk<'_> {
    fn add_tree(&mut self, top: Level) -> io::Result<()> {
        let device = top.device;
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut()
            && self.bytes <= self.limit
        {
            let Some(name) = level.next(&mut self.buffer)? else {
                let Some(child) = levels.pop() else { break };
                if let Some(parent) = levels.last_mut()
                    && parent.directory.is_none()
                    && !parent.reopen(&child)?
                {
                    // The rest of the tree counts in the next measurement.
                    break;
                }
                continue;
            };
            let Some(directory) = &level.directory else {
                break;
            };
            if [c".", c".."].contains(&&*name) {
                continue;
            }
            (self.check)()?;
            let Some(stat) = stat(directory, &name)? else {
                continue;
            };
            self.bytes = self.bytes.saturating_add(size(&stat));
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_directory || stat.st_dev != device {
                continue;
            }
            match Level::open(directory, &*name) {
                Ok(child) => levels.push(child),
                Err(error) if is_gone(error) => {}
                Err(error) => return Err(error.into()),
            }
            let above = levels.len().checked_sub(MAX_OPEN + 1);
            if let Some(above) = above.and_then(|above| levels.get_mut(above)) {
                above.close();
            }
        }
        Ok(())
    }
}

/// `None` if the name is gone.
fn stat(directory: &OwnedFd, name: &CStr) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if is_gone(error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The bytes that a name counts. All names of a file are in the trees, so each counts its share.
fn size(stat: &Stat) -> u64 {
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    let bytes = blocks.saturating_mul(512);
    // The links of a directory are its subdirectories.
    let names = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 1,
        _ => u64::from(stat.st_nlink as u32).max(1),
    };
    (bytes / names).max(FILE_BYTES)
}

/// Whether code has removed or replaced a directory, or made it unreadable.
fn is_gone(error: Errno) -> bool {
    [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::ACCESS,
        Errno::PERM,
    ]
    .contains(&error)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write,
        os::unix::fs::symlink,
        path::Path,
    };

    use super::*;

    const MIB: u64 = 1 << 20;

    fn measured(tree: &Path) -> u64 {
        measure(&[tree.to_owned()], u64::MAX).unwrap()
    }

    fn write(path: &Path, bytes: u64) {
        let mut file = File::create(path).unwrap();
        file.write_all(&vec![1; bytes as usize]).unwrap();
        file.sync_all().unwrap();
    }

    #[test]
    fn a_file_with_several_names_counts_once() {
        let tree = tempfile::tempdir().unwrap();
        let file = tree.path().join("file");
        write(&file, 3 * MIB);
        let one = measured(tree.path());
        assert!((3 * MIB..4 * MIB).contains(&one), "{one}");
        fs::create_dir(tree.path().join("below")).unwrap();
        for name in ["second", "below/third"] {
            fs::hard_link(&file, tree.path().join(name)).unwrap();
        }
        let three = measured(tree.path());
        assert!((3 * MIB..4 * MIB).contains(&three), "{three}");
    }

    #[test]
    fn links_are_not_followed_and_holes_take_no_space() {
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("large"), 2 * MIB);
        let tree = tempfile::tempdir().unwrap();
        symlink(outside.path(), tree.path().join("directory")).unwrap();
        symlink(outside.path().join("large"), tree.path().join("file")).unwrap();
        symlink("..", tree.path().join("parent")).unwrap();
        let sparse = File::create(tree.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let counted = measured(tree.path());
        assert!(counted <= 4 * 2 * FILE_BYTES, "{counted}");
        // The tree itself may be a link.
        measure(&[tree.path().join("directory")], MIB).unwrap_err();
    }

    #[test]
    fn each_name_counts_at_any_depth_and_the_count_stops_at_the_limit() {
        let tree = tempfile::tempdir().unwrap();
        let mut at = tree.path().to_owned();
        // More levels than are kept open, and more names than are read at once.
        for _ in 0..3 * MAX_OPEN {
            for name in ["before", "zz"] {
                write(&at.join(name), 1);
            }
            at.push("deep");
            fs::create_dir(&at).unwrap();
        }
        for number in 0..2_000 {
            File::create(at.join(format!("a-long-name-{number}"))).unwrap();
        }
        let names = 3 * 3 * MAX_OPEN as u64 + 2_000;
        let counted = measured(tree.path());
        let least = names * FILE_BYTES;
        // The directory of 2,000 files may take more blocks than one.
        assert!((least..least + MIB).contains(&counted), "{counted}");
        let stopped = measure(&[tree.path().to_owned()], MIB).unwrap();
        assert!((MIB..2 * MIB).contains(&stopped), "{stopped}");
    }

    #[test]
    fn a_directory_that_was_moved_ends_a_measurement_without_an_error() {
        let tree = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| tree.path().join(name));
        fs::create_dir_all(one.join("child")).unwrap();
        fs::create_dir(&two).unwrap();
        let mut parent = Level::open(CWD, &*one).unwrap();
        let child = Level::open(CWD, &*one.join("child")).unwrap();
        parent.close();
        assert!(parent.reopen(&child).unwrap());
        parent.close();
        fs::rename(one.join("child"), two.join("child")).unwrap();
        assert!(!parent.reopen(&child).unwrap());
        fs::remove_dir(two.join("child")).unwrap();
        assert!(!parent.reopen(&child).unwrap());
    }

    #[tokio::test]
    async fn the_reason_comes_once_the_limit_is_exceeded() {
        let tree = tempfile::tempdir().unwrap();
        let trees = vec![tree.path().to_owned()];
        let watched = tokio::spawn(watch(trees, MIB, Arc::new(Semaphore::new(1))));
        write(&tree.path().join("file"), 2 * MIB);
        let reason = watched.await.unwrap();
        assert!(reason.contains("disk limit of 1 MiB"), "{reason}");
    }
}
