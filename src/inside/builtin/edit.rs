//! [`create_dir`], [`rename`], [`set_permissions`] and [`link`]: change names and permissions.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::linkat,
};

use super::{Done, Subject, kind, new_file::NewDirectories, reason};
use crate::protocol::{BuiltinError, FilePath};

/// Creates a directory and its missing parents. Succeeds if the directory already exists. On
/// failure, removes the parents that it has created.
pub(super) fn create_dir(home: &Path, path: &FilePath) -> Result<Done, BuiltinError> {
    let subject = Subject::new("create the directory", path)?;
    NewDirectories::create(&subject.on_machine(home))
        .map_err(|error| subject.fail(error))?
        .keep();
    Ok(Done {})
}

/// Renames a file or directory. Replaces a file at the new path.
pub(super) fn rename(home: &Path, path: &FilePath, to: &FilePath) -> Result<Done, BuiltinError> {
    let from = Subject::new("rename", path)?;
    let target = Subject::new("rename to", to)?;
    let (from, target) = (from.on_machine(home), target.on_machine(home));
    fs::rename(&from, target).map_err(|error| {
        // The old path exists, so the failure is about the new one.
        let is_about_target = from.symlink_metadata().is_ok();
        about_both("rename", path, to, is_about_target, &error)
    })?;
    Ok(Done {})
}

/// Sets the permission bits of a file. Follows links.
pub(super) fn set_permissions(
    home: &Path,
    path: &FilePath,
    permissions: u32,
) -> Result<Done, BuiltinError> {
    let subject = Subject::new("set the permissions of", path)?;
    subject.check_permissions(permissions)?;
    let permissions = Permissions::from_mode(permissions);
    fs::set_permissions(subject.on_machine(home), permissions)
        .map_err(|error| subject.fail(error))?;
    Ok(Done {})
}

/// Creates a link to `target`. A relative target of a symbolic link is relative to the directory of
/// the link, a relative target of a hard link to the home.
pub(super) fn link(
    home: &Path,
    path: &FilePath,
    target: &FilePath,
    is_symbolic: bool,
) -> Result<Done, BuiltinError> {
    let subject = Subject::new("create the link", path)?;
    let target_subject = Subject::new("link to", target)?;
    let place = subject.on_machine(home);
    if is_symbolic {
        symlink(target.as_path(), place).map_err(|error| subject.fail(error))?;
        return Ok(Done {});
    }
    let file = target_subject.on_machine(home);
    linkat(AT_FDCWD, &file, AT_FDCWD, &place, AtFlags::empty()).map_err(|error| {
        // A directory can have no hard link.
        let is_about_target = file
            .symlink_metadata()
            .map_or(true, |target| target.is_dir());
        about_both("link", path, target, is_about_target, &error.into())
    })?;
    Ok(Done {})
}

/// The error of an operation on two paths.
fn about_both(
    what: &str,
    path: &FilePath,
    to: &FilePath,
    is_about_target: bool,
    error: &io::Error,
) -> BuiltinError {
    let about = if is_about_target { to } else { path };
    let message = format!("cannot {what} '{path}' to '{to}': {}", reason(error));
    BuiltinError::new(kind(error), about.clone(), message)
}

#[cfg(test)]
mod tests;
