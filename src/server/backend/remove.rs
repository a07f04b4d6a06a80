//! Removes directory trees that untrusted code has filled. They may hold directories without
//! permissions, very deep paths and symbolic links. Nothing outside of the tree is changed.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use crate::server::blocking::blocking;

/// Maximum length of a path below the tree, in bytes. The system accepts about 4096 bytes for the
/// whole path.
const MAX_PATH_BYTES: usize = 2_048;

/// Maximum depth of the tree. `remove_dir_all` needs stack and an open file for each level.
const MAX_LEVELS: usize = 64;

/// Removes `path` and everything in it. A path that does not exist is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    prepare(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the directory of a sandbox. The error is the reason to report to the client.
pub(super) async fn remove_sandbox(directory: &Path) -> Result<(), String> {
    let directory = directory.to_owned();
    blocking(move || remove_tree(&directory))
        .await
        .map_err(|error| format!("the files could not be removed: {error}"))
}

/// Gives the owner all permissions on every directory of the tree, and moves very deep directories
/// to the top.
fn prepare(tree: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    let mut todo = vec![(tree.to_owned(), 0)];
    while let Some((directory, level)) = todo.pop() {
        // Never follow a symbolic link: the link itself is removed.
        let Ok(meta) = fs::symlink_metadata(&directory) else {
            continue;
        };
        if !meta.is_dir() {
            continue;
        }
        if meta.permissions().mode() & 0o700 != 0o700 {
            // If this fails, the removal reports an error.
            let _ = fs::set_permissions(&directory, fs::Permissions::from_mode(0o700));
        }
        let length = directory.as_os_str().len() - tree.as_os_str().len();
        if level > MAX_LEVELS || length > MAX_PATH_BYTES {
            let place = loop {
                let place = tree.join(format!("moved-up-{moved}"));
                moved += 1;
                if fs::symlink_metadata(&place).is_err() {
                    break place;
                }
            };
            fs::rename(&directory, &place)?;
            todo.push((place, 1));
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push((entry.path(), level + 1));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_directories_are_removed_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let tree = tempfile::tempdir().unwrap().keep();
        let locked = tree.join("a/b");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.join("link")).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o000)).unwrap();

        // As root, the removal succeeds despite the permissions, so also test `prepare` alone.
        prepare(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.path().join("kept").exists());
        remove_tree(&tree).unwrap();
    }
}
