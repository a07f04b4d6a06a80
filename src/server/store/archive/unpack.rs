//! [`unpack`]: reads an archive that may have been made by an attacker.
//!
//! The entries of our archives are in the order of a walk: a directory comes before what is in it,
//! and all of that before what is beside it. The reader insists on that order. So it knows of every
//! entry that it made the directories above it itself, and that none of them is a link; and it
//! remembers the directories above one entry, not all.

use std::{
    cell::Cell,
    collections::HashSet,
    error::Error as _,
    ffi::OsStr,
    fs,
    io::{self, BufReader, Read},
    os::unix::fs::{PermissionsExt, lchown},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Archive, Entry, EntryType, Unpacked};
use zstd::Decoder;

use super::{
    super::turns::Turn, Bounds, EXECS, MAX_EXECS_BYTES, MAX_RECORD_BYTES, MEMORY, MTIME, RECORD,
    ROOT, Tree, Trees,
};
use crate::{protocol::excerpt, server::private};

/// Most bytes that the headers of one entry take: its name, the target of a link, the list of holes.
/// They are read into memory.
const MAX_HEADER_BYTES: u64 = 2 * 1024 * 1024;

/// Most memory that the decompression takes, as a power of two: 8 MiB. Our archives need less.
const WINDOW_LOG: u32 = 23;

/// Permission bits that are not given back: set-user-id, set-group-id, sticky.
const MASKED: u32 = 0o7000;

/// What may still be read of an archive.
struct Budget {
    /// In all.
    left: Cell<u64>,
    /// Before it is set again.
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

/// Reads within a budget. Pauses and stops with the operation.
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
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(self.budget.exceeded()),
            };
        }
        let length = self.inner.read(&mut to[..length])?;
        self.budget.spend(length);
        // The storage may have hung meanwhile.
        self.turn.check()?;
        Ok(length)
    }
}

fn archive<'a, R: Read>(
    archive: R,
    budget: &'a Budget,
    turn: &Turn,
) -> io::Result<Archive<Metered<'a, Decoder<'static, BufReader<R>>>>> {
    let mut decoder = Decoder::new(archive)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut archive = Archive::new(Metered {
        inner: decoder,
        budget,
        turn: turn.clone(),
    });
    archive.set_preserve_permissions(true);
    archive.set_mask(MASKED);
    archive.set_overwrite(false);
    Ok(archive)
}

/// Reads the record of an archive.
pub(in crate::server::store) fn read_record(from: impl Read, turn: &Turn) -> io::Result<Vec<u8>> {
    let no_record = || damaged("it does not begin with a record".to_owned());
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

/// Reads the execs of an archive. `None`: it is an older one, and has none.
pub(in crate::server::store) fn read_execs(
    from: impl Read,
    turn: &Turn,
) -> io::Result<Option<Vec<u8>>> {
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

/// Unpacks everything but the head into these trees of a sandbox in which nothing has run yet. After
/// an error some of it is there.
pub(in crate::server::store) fn unpack(
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
    // To the end, where the checksum is.
    budget.now.set(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

struct Unpacking<'a> {
    trees: &'a Trees,
    /// The trees that have begun.
    seen: HashSet<&'static str>,
    /// The directories above the next entry, from the tree on.
    open: Vec<Directory>,
}

/// A directory that may still get more entries.
struct Directory {
    /// Its name in the archive.
    name: PathBuf,
    path: PathBuf,
    /// What it gets once it is filled: until then the server must be able to write to it.
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
            return Err(damaged(format!("an entry of the kind {kind:?} with data")));
        }
        if holds_data && entry.path_bytes().ends_with(b"/") {
            return Err(damaged("a file with the name of a directory".to_owned()));
        }
        let parent = name.parent().unwrap_or(Path::new(""));
        while let Some(last) = self.open.pop_if(|last| last.name != parent) {
            last.close()?;
        }
        if !is_top && self.open.is_empty() {
            return Err(damaged("it does not come after its directory".to_owned()));
        }
        let path = self.trees.directory.join(&name);
        let modified = modified(entry)?;
        if is_top {
            self.begin(tree.name, &path)?;
        } else if fs::symlink_metadata(&path).is_ok() {
            return Err(damaged("it is there twice".to_owned()));
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

    /// The tree of this name, or why there is none.
    fn tree(&self, name: &OsStr) -> io::Result<Tree> {
        let found = self.trees.trees.iter().find(|tree| tree.name == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = self.trees.trees.iter().map(|tree| tree.name).collect();
            damaged(match name.to_str() {
                Some(ROOT) => "it belongs to a root file system, which only the backends `namespace` and `gvisor` have"
                    .to_owned(),
                Some(MEMORY) => "it belongs to the memory of processes, which only the backend `gvisor` can restore"
                    .to_owned(),
                _ => format!("an archive for this backend holds {} and nothing else", names.join(", ")),
            })
        })
    }

    /// Makes the directory of a tree, unless the backend has made it.
    fn begin(&mut self, tree: &'static str, path: &Path) -> io::Result<()> {
        if !self.seen.insert(tree) {
            return Err(damaged("it is there twice".to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            _ => private::create(path),
        }
    }
}

/// The name of an entry: a path that leads down from the directory of the sandbox.
fn name(entry: &Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let name = entry.path()?;
    let mut parts = name.components();
    match parts.all(|part| matches!(part, Component::Normal(_))) && !name.as_os_str().is_empty() {
        // Without a slash at its end.
        true => Ok(name.components().collect()),
        false => Err(damaged("it leads out of the sandbox".to_owned())),
    }
}

/// When an entry was modified; `None` if the archive holds no time that this system knows.
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

/// Seconds with a fraction of at most nine digits.
fn parse_time(text: &str) -> Option<Duration> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let nanoseconds = is_fraction.then(|| format!("{fraction:0<9}").parse().ok())??;
    Some(Duration::new(seconds.parse().ok()?, nanoseconds))
}

/// What is behind an error: those of `tar` name paths of this machine, and not what went wrong.
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
