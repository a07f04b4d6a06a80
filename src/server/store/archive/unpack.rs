//! [`unpack`]: reads an archive that an attacker may have made.
//!
//! The entries of an archive are in depth-first order: a directory comes before its entries, and
//! they come before its siblings. The reader refuses any other order, for two reasons:
//!
//! - All parents of an entry are directories that the reader has created or checked, so no parent
//!   is a link.
//! - The reader has to remember only the parents of the current entry.

use std::{
    cell::Cell,
    collections::HashSet,
    error::Error as _,
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::{PermissionsExt, lchown},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Archive, Entry, EntryType, Unpacked};

use super::{
    codec::Decoder,
    layout::{
        Bounds, EXECS, MAX_EXECS_BYTES, MAX_RECORD_BYTES, MEMORY, MTIME, RECORD, ROOT, Tree, Trees,
    },
};
use crate::{
    protocol::excerpt,
    server::{private, store::turns::Turn},
};

/// Maximum bytes of the headers of one entry: its name, the target of a link, the list of holes.
/// The reader keeps them in memory.
const MAX_HEADER_BYTES: u64 = 2 * 1024 * 1024;

/// Permission bits that are not restored: set-user-id, set-group-id, sticky.
const MASKED: u32 = 0o7000;

/// The number of bytes that may still be read from an archive.
struct Budget {
    /// Bytes left in the whole archive.
    left: Cell<u64>,
    /// Bytes left in the current part, for example the headers of an entry.
    now: Cell<u64>,
    bounds: Bounds,
}

impl Budget {
    fn new(bounds: Bounds) -> Self {
        Self {
            left: Cell::new(bounds.bytes),
            now: Cell::new(MAX_HEADER_BYTES),
            bounds,
        }
    }

    fn spend(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.left.set(self.left.get().saturating_sub(bytes));
        self.now.set(self.now.get().saturating_sub(bytes));
    }

    fn exceeded(&self) -> io::Error {
        match self.left.get() {
            0 => self.bounds.too_many_bytes(),
            _ => damaged(format!(
                "the headers of an entry take more than {MAX_HEADER_BYTES} bytes"
            )),
        }
    }
}

/// A reader with a budget. Each read calls [`Turn::check`], so it pauses and stops with the
/// operation.
struct Metered<'a, R> {
    inner: R,
    budget: &'a Budget,
    turn: Turn,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.turn.check()?;
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
        // Storage that hangs can delay the read until the operation is stopped.
        self.turn.check()?;
        Ok(length)
    }
}

fn archive<'a, R: Read>(
    archive: R,
    budget: &'a Budget,
    turn: &Turn,
) -> io::Result<Archive<Metered<'a, Decoder<R>>>> {
    let mut archive = Archive::new(Metered {
        inner: Decoder::new(archive),
        budget,
        turn: turn.clone(),
    });
    archive.set_preserve_permissions(true);
    archive.set_mask(MASKED);
    archive.set_overwrite(false);
    Ok(archive)
}

/// Reads the record of a checkpoint from its archive.
pub(crate) fn read_record(from: impl Read, turn: &Turn) -> io::Result<Vec<u8>> {
    let no_record =
        || damaged("the archive of a checkpoint must begin with `record.json`".to_owned());
    let budget = Budget::new(Bounds {
        bytes: MAX_HEADER_BYTES + MAX_RECORD_BYTES,
        files: 0,
    });
    let mut archive = archive(from, &budget, turn)?;
    let first = archive.entries()?.next().ok_or_else(no_record)??;
    if first.path_bytes() != RECORD.as_bytes() {
        return Err(no_record());
    }
    let mut record = Vec::new();
    first.take(MAX_RECORD_BYTES).read_to_end(&mut record)?;
    Ok(record)
}

/// Reads the stored execs of a checkpoint from its archive. `None` if an older version of this
/// crate wrote the archive.
pub(crate) fn read_execs(from: impl Read, turn: &Turn) -> io::Result<Option<Vec<u8>>> {
    let budget = Budget::new(Bounds {
        bytes: 2 * MAX_HEADER_BYTES + MAX_RECORD_BYTES + MAX_EXECS_BYTES,
        files: 0,
    });
    let mut archive = archive(from, &budget, turn)?;
    for entry in archive.entries()?.take(2) {
        let entry = entry?;
        if entry.path_bytes() == EXECS.as_bytes() {
            budget.now.set(u64::MAX);
            let mut execs = Vec::new();
            entry.take(MAX_EXECS_BYTES).read_to_end(&mut execs)?;
            return Ok(Some(execs));
        }
        budget.now.set(MAX_RECORD_BYTES + MAX_HEADER_BYTES);
    }
    Ok(None)
}

/// Unpacks everything but the head into these trees. The caller must not have run code in the
/// sandbox yet, because code could replace directories with links. After an error, entries that
/// were already unpacked stay on the disk.
pub(crate) fn unpack(
    from: impl Read,
    trees: &Trees,
    bounds: Bounds,
    turn: &Turn,
) -> io::Result<()> {
    let budget = Budget::new(bounds);
    let mut archive = archive(from, &budget, turn)?;
    let mut unpacking = Unpacking {
        trees,
        seen: HashSet::new(),
        open: Vec::new(),
    };
    let mut files = 0;
    let mut entries = archive.entries()?.enumerate();
    loop {
        budget.now.set(MAX_HEADER_BYTES);
        let Some((number, entry)) = entries.next() else {
            break;
        };
        let mut entry = entry?;
        budget.now.set(u64::MAX);
        let head = [RECORD, EXECS].get(number).copied().map(str::as_bytes);
        if head == Some(&entry.path_bytes()) {
            io::copy(&mut entry, &mut io::sink())?;
            continue;
        }
        files += 1;
        if files > bounds.files {
            return Err(bounds.too_many_files());
        }
        unpacking.add(&mut entry).map_err(|error| {
            let name = excerpt(&entry.path_bytes());
            io::Error::new(error.kind(), format!("'{name}': {}", cause(&error)))
        })?;
    }
    while unpacking
        .open
        .pop()
        .map(Directory::close)
        .transpose()?
        .is_some()
    {}
    // Read the rest of the archive: the decoder verifies the checksum at its end.
    budget.now.set(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

struct Unpacking<'a> {
    trees: &'a Trees,
    /// Names of the trees whose top directory has been unpacked.
    seen: HashSet<&'static str>,
    /// The parents of the next entry, from the top of its tree down.
    open: Vec<Directory>,
}

/// A directory that may get more entries.
struct Directory {
    /// Path in the archive.
    name: PathBuf,
    path: PathBuf,
    /// The mode to set after all entries of the directory are unpacked. Until then the server must
    /// be able to write to the directory.
    mode: u32,
    modified: Option<SystemTime>,
}

impl Directory {
    fn close(self) -> io::Result<()> {
        if let Some(modified) = self.modified {
            fs::File::open(&self.path)?.set_modified(modified)?;
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode))
    }
}

impl Unpacking<'_> {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let name = name(entry)?;
        let mut parts = name.iter();
        let top = parts.next().unwrap_or_default();
        let tree = self.tree(top)?;
        let kind = entry.header().entry_type();
        let is_top = parts.next().is_none();
        match kind {
            EntryType::Directory if is_top || !tree.files_only => {}
            _ if is_top => return Err(damaged(format!("expected a directory, found {kind:?}"))),
            EntryType::Regular | EntryType::GNUSparse => {}
            EntryType::Symlink if !tree.files_only => {}
            _ => {
                let what = format!("an entry of the kind {kind:?} is not allowed here");
                return Err(damaged(what));
            }
        }
        let holds_data = matches!(kind, EntryType::Regular | EntryType::GNUSparse);
        if !holds_data && entry.size() > 0 {
            return Err(damaged(format!(
                "an entry of the kind {kind:?} must not hold data"
            )));
        }
        if holds_data && entry.path_bytes().ends_with(b"/") {
            return Err(damaged(
                "the name of a file must not end with a slash".to_owned(),
            ));
        }
        let parent = name.parent().unwrap_or(Path::new(""));
        while let Some(last) = self.open.pop_if(|last| last.name != parent) {
            last.close()?;
        }
        if !is_top && self.open.is_empty() {
            return Err(damaged(
                "the entry must come after its directory".to_owned(),
            ));
        }
        let path = self.trees.directory.join(&name);
        let modified = modified(entry)?;
        if is_top {
            self.begin(tree.name, &path)?;
        } else if fs::symlink_metadata(&path).is_ok() {
            return Err(damaged("the archive contains this entry twice".to_owned()));
        } else if kind == EntryType::Directory {
            private::create(&path)?;
        } else if let (Unpacked::File(file), Some(modified)) = (entry.unpack(&path)?, modified) {
            file.set_modified(modified)?;
        }
        if kind == EntryType::Directory {
            self.open.push(Directory {
                name,
                mode: entry.header().mode()? & 0o777,
                modified,
                path: path.clone(),
            });
        }
        match tree.owner {
            Some(owner) => lchown(&path, Some(owner), Some(owner)),
            None => Ok(()),
        }
    }

    /// Returns the tree with this name. If the backend has no such tree, the error names the
    /// backends that have it, or the trees that this backend has.
    fn tree(&self, name: &OsStr) -> io::Result<Tree> {
        let found = self.trees.trees.iter().find(|tree| tree.name == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = self.trees.trees.iter().map(|tree| tree.name).collect();
            damaged(match name.to_str() {
                Some(ROOT) => "it belongs to a root file system, which only the backends \
                     `namespace` and `gvisor` can restore"
                    .to_owned(),
                Some(MEMORY) => "it belongs to the memory of processes, which only the \
                     backend `gvisor` can restore"
                    .to_owned(),
                _ => format!(
                    "an archive for this backend may contain only {}",
                    names.join(", ")
                ),
            })
        })
    }

    /// Creates the top directory of a tree, unless the backend has already created it.
    fn begin(&mut self, tree: &'static str, path: &Path) -> io::Result<()> {
        if !self.seen.insert(tree) {
            return Err(damaged("the archive contains this entry twice".to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            _ => private::create(path),
        }
    }
}

/// The name of an entry, as a path relative to the directory of the sandbox.
fn name(entry: &Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let name = entry.path()?;
    let mut parts = name.components();
    match parts.all(|part| matches!(part, Component::Normal(_))) && !name.as_os_str().is_empty() {
        // Collecting the components removes a trailing slash.
        true => Ok(name.components().collect()),
        false => Err(damaged(
            "its path must be relative, without `.` and `..`".to_owned(),
        )),
    }
}

/// The modification time of an entry. `None` if this system can't represent it.
fn modified(entry: &mut Entry<'_, impl Read>) -> io::Result<Option<SystemTime>> {
    let mut exact = None;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if extension.key() == Ok(MTIME) {
            exact = extension.value().ok().and_then(parse_time);
        }
    }
    let whole = || entry.header().mtime().ok().map(Duration::from_secs);
    let since_epoch = exact.or_else(whole);
    Ok(since_epoch.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time)))
}

/// Parses seconds with a fraction of at most nine digits.
fn parse_time(text: &str) -> Option<Duration> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let nanoseconds = is_fraction.then(|| format!("{fraction:0<9}").parse().ok())??;
    Some(Duration::new(seconds.parse().ok()?, nanoseconds))
}

/// The root cause of an error. The messages of `tar` contain paths of the server's machine, but not
/// the cause.
fn cause(error: &io::Error) -> String {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        cause = error.to_string();
        source = error.source();
    }
    cause
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
