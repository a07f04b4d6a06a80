//! Removing a directory tree whose owner did what it liked in it: directories without permissions,
//! symbolic links. Nothing outside the tree is touched.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Removes `path` and everything in it. A path that does not exist is no error.
pub(in crate::server) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives the owner every permission on each directory of the tree.
fn open_up(directory: &Path) -> io::Result<()> {
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        // Not through a symbolic link: it is removed, not followed.
        if !fs::symlink_metadata(&directory)?.is_dir() {
            continue;
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
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

        // As root the first attempt already succeeds: the way round is tried by itself as well.
        open_up(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.path().join("kept").exists());
        remove_tree(&tree).unwrap();
    }
}
