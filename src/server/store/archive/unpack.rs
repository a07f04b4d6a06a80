//! [`unpack`]: reads an archive that an attacker may have made.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::lchown,
    path::Path,
};

use tar::{Archive, Entry, EntryType, Unpacked};

use super::{
    codec::Decoder,
    layout::{Bounds, EXECS, MAX_EXECS_BYTES, MAX_RECORD_BYTES, MEMORY, RECORD, ROOT, Tree, Trees},
};
use crate::{
    archive::{
        entries,
        error::cause,
        reading::{self, Budget, Directory, MAX_HEADER_BYTES, Metered, Parents, damaged},
    },
    protocol::excerpt,
    server::{private, store::turns::Turn},
};

/// Each read calls [`Turn::check`], so it pauses and stops with the operation.
struct Checked<R> {
    inner: R,
    turn: Turn,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.turn.check()?;
        let length = self.inner.read(to)?;
        // Storage that hangs can delay the read until the operation is stopped.
        self.turn.check()?;
        Ok(length)
    }
}

fn archive<'a, R: Read>(
    archive: R,
    budget: &'a Budget,
    turn: &Turn,
) -> Archive<Metered<'a, Checked<Decoder<R>>>> {
    let checked = Checked {
        inner: Decoder::new(archive),
        turn: turn.clone(),
    };
    reading::open(checked, budget)
}

/// Reads the record of a checkpoint from its archive.
pub(crate) fn read_record(from: impl Read, turn: &Turn) -> io::Result<Vec<u8>> {
    let no_record = || damaged("the archive of a checkpoint must begin with `record.json`");
    let most = MAX_HEADER_BYTES + MAX_RECORD_BYTES;
    let budget = Budget::new(most, "the record of the checkpoint is too large");
    let mut archive = archive(from, &budget, turn);
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
    let most = 2 * MAX_HEADER_BYTES + MAX_RECORD_BYTES + MAX_EXECS_BYTES;
    let budget = Budget::new(
        most,
        "the record and the execs of the checkpoint are too large",
    );
    let mut archive = archive(from, &budget, turn);
    for entry in archive.entries()?.take(2) {
        let entry = entry?;
        if entry.path_bytes() == EXECS.as_bytes() {
            budget.limit_part(u64::MAX);
            let mut execs = Vec::new();
            entry.take(MAX_EXECS_BYTES).read_to_end(&mut execs)?;
            return Ok(Some(execs));
        }
        budget.limit_part(MAX_RECORD_BYTES + MAX_HEADER_BYTES);
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
    let budget = Budget::new(bounds.bytes, bounds.too_many_bytes().to_string());
    let mut archive = archive(from, &budget, turn);
    let mut unpacking = Unpacking {
        trees,
        seen: HashSet::new(),
        parents: Parents::default(),
    };
    let mut files = 0;
    let mut entries = archive.entries()?.enumerate();
    loop {
        budget.limit_part(MAX_HEADER_BYTES);
        let Some((number, entry)) = entries.next() else {
            break;
        };
        let mut entry = entry?;
        budget.limit_part(u64::MAX);
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
    unpacking.parents.close()?;
    // Read the rest of the archive: the decoder verifies the checksum at its end.
    budget.limit_part(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

struct Unpacking<'a> {
    trees: &'a Trees,
    /// Names of the trees whose top directory has been unpacked.
    seen: HashSet<&'static str>,
    parents: Parents,
}

impl Unpacking<'_> {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let name = reading::name(&entry.path()?)?;
        let mut parts = name.iter();
        let top = parts.next().unwrap_or_default();
        let tree = self.tree(top)?;
        let kind = entry.header().entry_type();
        let is_top = parts.next().is_none();
        if is_top && kind != EntryType::Directory {
            return Err(damaged(format!("expected a directory, found {kind:?}")));
        }
        reading::check_kind(entry)?;
        let is_other = matches!(kind, EntryType::Directory | EntryType::Symlink);
        if tree.files_only && is_other && !is_top {
            return Err(reading::not_allowed(kind));
        }
        self.parents.descend(&name)?;
        let path = self.trees.directory.join(&name);
        let modified = entries::modified(entry)?;
        if is_top {
            self.begin(tree.name, &path)?;
        } else if fs::symlink_metadata(&path).is_ok() {
            return Err(damaged("the archive contains this entry twice"));
        } else if kind == EntryType::Directory {
            private::create(&path)?;
        } else {
            match (entry.unpack(&path)?, modified) {
                (Unpacked::File(file), Some(modified)) => file.set_modified(modified)?,
                _ => reading::set_link_time(&path, modified.filter(|_| kind.is_symlink())),
            }
        }
        if kind == EntryType::Directory {
            self.parents.enter(Directory {
                name,
                mode: entry.header().mode()?,
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
            return Err(damaged("the archive contains this entry twice"));
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            _ => private::create(path),
        }
    }
}
