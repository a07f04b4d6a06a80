//! The server's own directory: made at its start, and of servers that are gone, with what they have left, removed.
//!
//! A server holds the lock of a file in there for as long as it lives. Where that is free, neither the server nor its watchdog
//! came to tidy up: somebody killed both.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::utsname::uname;

const PREFIX: &str = "actix-sandbox-";

/// The file with the name of the server, by which its processes are marked, and its machine.
const OWNER: &str = "owner";
/// Longest such file that is read, in bytes.
const OWNER_LENGTH: u64 = 512;

/// How long that name is: 16 bytes in hexadecimal.
const NAME_LENGTH: usize = 32;

/// The directory of a server.
pub(super) struct Root {
    pub(super) path: PathBuf,
    /// Locked while this lives; `None` where the storage has no locks.
    pub(super) owner: Option<fs::File>,
}

impl Root {
    /// Makes the directory of this server, which no other user may enter.
    pub(super) fn make(parent: &Path, server: &str) -> io::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        let mut file = tempfile::NamedTempFile::new_in(root.path())?;
        write!(file, "{server}\n{}", Machine::this())?;
        // It has its name only once it is locked, or others would take it for one left behind. One that cannot be locked is
        // nobody's to remove.
        let owner = match file.as_file().lock() {
            Ok(()) => Some(file.persist(root.path().join(OWNER))),
            Err(_) => None,
        };
        Ok(Self {
            owner: owner.transpose().map_err(|error| error.error)?,
            path: root.keep(),
        })
    }
}

/// A machine, as far as one can be told from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    /// Since it was started; empty where the system does not say.
    boot: String,
    /// Its name in the network.
    name: String,
}

impl Machine {
    fn this() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let name = uname().map(|it| it.nodename().to_string_lossy().into_owned());
        Self {
            boot: boot.trim().to_owned(),
            name: name.unwrap_or_default().replace('\n', " "),
        }
    }

    fn read(said: &str) -> Option<Self> {
        let (boot, name) = said.split_once('\n')?;
        Some(Self {
            boot: boot.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Whether a lock that is free here says that its server is gone, and whether the processes of that server, if there are any,
    /// are here: on shared storage (NFS) locks may be of one machine alone. Started anew, a machine has its name still.
    fn is_known_here(&self) -> bool {
        let here = Self::this();
        let is = |one: &str, other: &str| !one.is_empty() && one == other;
        is(&self.boot, &here.boot) || is(&self.name, &here.name)
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", self.boot, self.name)
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
    let mut options = fs::File::options();
    // Whatever else has that name, it is neither followed nor waited for.
    let no_trap = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let open = options.read(true).custom_flags(no_trap);
    let owner = open.open(path.join(OWNER)).ok()?;
    let meta = owner.metadata().ok()?;
    if !meta.is_file() || meta.len() > OWNER_LENGTH {
        return None;
    }
    owner.try_lock().ok()?;
    let mut said = String::new();
    (&owner).take(OWNER_LENGTH).read_to_string(&mut said).ok()?;
    let (server, machine) = said.split_once('\n')?;
    let is_name = server.len() == NAME_LENGTH && server.bytes().all(|it| it.is_ascii_hexdigit());
    let is_known_here = Machine::read(machine)?.is_known_here();
    (is_name && is_known_here).then(|| Abandoned {
        path,
        server: server.to_owned(),
        _owner: owner,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_directory_is_left_behind_when_its_server_is_gone_and_not_before() {
        let parent = tempfile::tempdir().unwrap();
        let root = Root::make(parent.path(), NAME).unwrap();
        // Nobody's, and somebody else's.
        fs::create_dir(parent.path().join("actix-sandbox-other")).unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        drop(root.owner);
        let found = abandoned(parent.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].path, &*found[0].server), (&root.path, NAME));
        // One server alone removes it.
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
    }

    /// What is left of a server that was locked and is not any more, with this in its file.
    fn is_left_behind(owner: &str) -> bool {
        let parent = tempfile::tempdir().unwrap();
        let root = Root::make(parent.path(), NAME).unwrap();
        drop(root.owner);
        fs::write(root.path.join(OWNER), owner).unwrap();
        !abandoned(parent.path()).unwrap().is_empty()
    }

    #[test]
    fn a_directory_of_another_machine_is_left_alone() {
        let Machine { boot, name } = Machine::this();
        assert!(is_left_behind(&format!("{NAME}\n{boot}\n{name}")));
        assert!(is_left_behind(&format!(
            "{NAME}\nbefore it was started anew\n{name}"
        )));
        assert!(!is_left_behind(&format!("{NAME}\nother\nother")));
        for garbled in ["", NAME, "\n\n", &format!("{NAME}\n\n")] {
            assert!(!is_left_behind(garbled), "{garbled:?}");
        }
        let long = "x".repeat(OWNER_LENGTH as usize);
        assert!(!is_left_behind(&format!("{NAME}\n{boot}\n{long}")));
    }

    #[test]
    fn whatever_is_in_the_place_of_the_file_is_neither_followed_nor_waited_for() {
        let parent = tempfile::tempdir().unwrap();
        let root = Root::make(parent.path(), NAME).unwrap();
        drop(root.owner);
        let owner = root.path.join(OWNER);
        let elsewhere = parent.path().join("elsewhere");
        fs::rename(&owner, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &owner).unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        fs::remove_file(&owner).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&owner).status();
        assert!(made.unwrap().success());
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        fs::remove_file(&owner).unwrap();
        fs::rename(&elsewhere, &owner).unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 1);
    }
}
