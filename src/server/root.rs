//! The server's own directory: made at its start, and of servers that are gone, with what they have left, removed.
//!
//! A server holds the lock of a file in there for as long as it lives. Where that is free, neither the server nor its watchdog
//! came to tidy up: somebody killed both.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

const PREFIX: &str = "actix-sandbox-";

/// The file with the name of the server, by which its processes are marked.
const OWNER: &str = "owner";

/// How long that name is: 16 bytes in hexadecimal.
const NAME_LENGTH: usize = 32;

/// The directory of a server.
pub(super) struct Root {
    pub(super) path: PathBuf,
    /// Locked while this lives.
    pub(super) owner: fs::File,
}

impl Root {
    /// Makes the directory of this server, which no other user may enter.
    pub(super) fn make(parent: &Path, server: &str) -> io::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        // It has its name only once it is locked, or others would take it for one left behind.
        let mut file = tempfile::NamedTempFile::new_in(root.path())?;
        file.write_all(server.as_bytes())?;
        // Where the storage has no locks it stays when it is left behind.
        let _ = file.as_file().lock();
        let owner = file.persist(root.path().join(OWNER));
        Ok(Self {
            owner: owner.map_err(|error| error.error)?,
            path: root.keep(),
        })
    }
}

/// A directory that a server has left.
pub(super) struct Abandoned {
    pub(super) path: PathBuf,
    /// The name of that server.
    pub(super) server: String,
    /// Locked, so that no other server removes it as well.
    _owner: fs::File,
}

/// The directories that servers of this user have left in this one.
pub(super) fn abandoned(parent: &Path) -> io::Result<Vec<Abandoned>> {
    let me = nix::unistd::geteuid().as_raw();
    let is_own = |path: &Path| {
        let meta = fs::symlink_metadata(path);
        meta.is_ok_and(|it| it.is_dir() && it.uid() == me && it.mode() & 0o077 == 0)
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_own(&path) {
            found.extend(look_at(path));
        }
    }
    Ok(found)
}

fn look_at(path: PathBuf) -> Option<Abandoned> {
    let place = path.join(OWNER);
    let owner = fs::File::open(&place).ok()?;
    owner.try_lock().ok()?;
    let server = fs::read_to_string(place).ok()?;
    let is_name = server.len() == NAME_LENGTH && server.bytes().all(|it| it.is_ascii_hexdigit());
    is_name.then_some(Abandoned {
        path,
        server,
        _owner: owner,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_left_behind_when_its_server_is_gone_and_not_before() {
        let parent = tempfile::tempdir().unwrap();
        let name = "0123456789abcdef0123456789abcdef";
        let root = Root::make(parent.path(), name).unwrap();
        // Nobody's, and somebody else's.
        fs::create_dir(parent.path().join("actix-sandbox-other")).unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        drop(root.owner);
        let found = abandoned(parent.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].path, &*found[0].server), (&root.path, name));
        // One server alone removes it.
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        drop(found);
        fs::write(root.path.join(OWNER), "").unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
    }
}
