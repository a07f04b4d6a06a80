//! [`metadata`]: describes a file.

use std::path::Path;

use nix::{
    fcntl::readlink,
    sys::stat::{FileStat, SFlag, lstat, stat},
};

use super::{Subject, place::is_kind};
use crate::protocol::{BuiltinError, FileKind, FileMetadata, FilePath};

/// An empty path stands for the home.
pub(super) fn metadata(
    home: &Path,
    path: &FilePath,
    follow: bool,
) -> Result<FileMetadata, BuiltinError> {
    let subject = Subject::or_home("describe", path)?;
    let path = subject.on_machine(home);
    let described = match follow {
        true => stat(&path),
        false => lstat(&path),
    };
    let mut described = described
        .map(|stat| describe(&stat))
        .map_err(|error| subject.fail(error))?;
    if described.kind == FileKind::Symlink {
        let target = readlink(&path).map_err(|error| subject.fail(error))?;
        described.target = Some(Path::new(&target).into());
    }
    Ok(described)
}

/// The properties, without the target of a link.
#[allow(
    clippy::useless_conversion,
    reason = "other machines have other widths"
)]
pub(super) fn describe(stat: &FileStat) -> FileMetadata {
    let kind = match () {
        () if is_kind(stat, SFlag::S_IFREG) => FileKind::File,
        () if is_kind(stat, SFlag::S_IFDIR) => FileKind::Directory,
        () if is_kind(stat, SFlag::S_IFLNK) => FileKind::Symlink,
        () => FileKind::Other,
    };
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let permissions = u32::from(stat.st_mode) & 0o7777;
    let modified = i64::from(stat.st_mtime).saturating_mul(1_000_000_000);
    let modified = modified.saturating_add(i64::from(stat.st_mtime_nsec));
    FileMetadata::new(kind, size, permissions, modified)
}
