//! The server's own directory: [`Root`] creates it, and [`Abandoned`] removes those of dead
//! servers.
//!
//! A server holds a lock on a file in its directory while it lives. If the lock is free, the server
//! and its watchdog were both killed before they could clean up.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::utsname::uname;

use super::remove::remove_tree;
use crate::server::private;

const PREFIX: &str = "actix-sandbox-";

/// The locked file. It holds the name of the server, which marks its processes, and its machine.
const OWNER: &str = "owner";
/// Maximum size of that file, in bytes.
const OWNER_LENGTH: u64 = 512;

/// Length of the name of a server: 16 bytes in hexadecimal.
const NAME_LENGTH: usize = 32;

/// The directory of a server.
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    /// The locked file. `None` if the file system has no locks.
    pub(crate) owner: Option<fs::File>,
}

impl Root {
    /// Creates the directory of this server in `parent`. No other user may enter, replace or list
    /// it. As root, the backend `namespace` later lets other users pass through it.
    pub(crate) fn make(parent: &Path, server: &str) -> io::Result<Self> {
        // A path without symbolic links, as `/proc` shows it.
        let parent = private::shared(parent)?;
        let closed = fs::Permissions::from_mode(0o700);
        let root = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(closed.clone())
            .tempdir_in(parent)?;
        // The umask may have removed some of these permissions.
        fs::set_permissions(root.path(), closed)?;
        let mut file = private::unfinished(root.path(), ".unfinished-")?;
        write!(file, "{server}\n{}", Machine::this())?;
        // Lock the file before it gets its name. Otherwise another server could take the directory
        // for an abandoned one. If the file can't be locked, it gets no name, and no server removes
        // the directory.
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

/// Identifies a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    /// The ID of the current boot. Empty if the system has none.
    boot: String,
    /// The host name and the machine ID. Empty if the host name identifies no machine.
    name: String,
}

impl Machine {
    fn this() -> Self {
        let read = |file| {
            let said = fs::read_to_string(file).unwrap_or_default();
            said.trim().to_owned()
        };
        let name = uname().map(|it| it.nodename().to_string_lossy().replace('\n', " "));
        Self {
            boot: read("/proc/sys/kernel/random/boot_id"),
            name: match name {
                // Many machines are called `localhost`.
                Ok(name) if !["", "localhost"].contains(&&*name) => {
                    format!("{name} {}", read("/etc/machine-id"))
                }
                _ => String::new(),
            },
        }
    }

    fn read(said: &str) -> Option<Self> {
        let (boot, name) = said.split_once('\n')?;
        Some(Self {
            boot: boot.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Whether this is the current machine. Only then does a free lock mean that its server is
    /// gone, and only then are the remaining processes of that server on this machine: on shared
    /// storage (NFS), locks may be visible to one machine only. After a reboot, the name still
    /// matches.
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

/// The directory of a dead server.
pub(crate) struct Abandoned {
    pub(crate) path: PathBuf,
    /// The name of that server.
    pub(crate) server: String,
    /// Locked, so that no other server removes the directory at the same time.
    _owner: fs::File,
}

impl Abandoned {
    /// Checks the directory of a server. `None` if the server is alive or ran on another machine.
    pub(crate) fn find(path: PathBuf) -> Option<Self> {
        let mut options = fs::File::options();
        // Don't follow a link with this name, and don't block on a pipe. NFS locks only files that
        // are open for writing.
        let no_trap = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let open = options.read(true).write(true).custom_flags(no_trap);
        let owner = open.open(path.join(OWNER)).ok()?;
        let meta = owner.metadata().ok()?;
        if !meta.is_file() || meta.len() > OWNER_LENGTH {
            return None;
        }
        owner.try_lock().ok()?;
        let mut said = String::new();
        (&owner).take(OWNER_LENGTH).read_to_string(&mut said).ok()?;
        let (server, machine) = said.split_once('\n')?;
        let is_name =
            server.len() == NAME_LENGTH && server.bytes().all(|it| it.is_ascii_hexdigit());
        let is_known_here = Machine::read(machine)?.is_known_here();
        (is_name && is_known_here).then(|| Self {
            path,
            server: server.to_owned(),
            _owner: owner,
        })
    }

    /// Removes the directory. Removes the locked file last, so that another server finds the
    /// directory again if this removal is interrupted.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => remove_tree(&entry.path())?,
                false if entry.file_name() == OWNER => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        remove_tree(&self.path)
    }
}

/// The directories in `parent` that belong to servers of this user.
pub(crate) fn roots(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let me = nix::unistd::geteuid().as_raw();
    let is_own = |path: &Path| {
        let meta = fs::symlink_metadata(path);
        meta.is_ok_and(|it| it.is_dir() && it.uid() == me && it.mode() & 0o066 == 0)
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_own(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inside::spawn;

    fn abandoned(parent: &Path) -> io::Result<Vec<Abandoned>> {
        let found = roots(parent)?.into_iter();
        Ok(found.filter_map(Abandoned::find).collect())
    }

    /// The abandoned directories, of which there is at least one. A process that another test is
    /// starting holds the locks of this process, too, until it executes a program.
    fn abandoned_once_unlocked(parent: &Path) -> Vec<Abandoned> {
        let mut tries = (0..100_000).map(|_| abandoned(parent).unwrap());
        tries.find(|found| !found.is_empty()).unwrap()
    }

    const NAME: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_directory_is_abandoned_only_once_its_server_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let root = Root::make(parent.path(), NAME).unwrap();
        // A directory without an owner file, and one that belongs to no server.
        fs::create_dir(parent.path().join("actix-sandbox-other")).unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        drop(root.owner);
        let found = abandoned_once_unlocked(parent.path());
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].path, &*found[0].server), (&root.path, NAME));
        // The first server has locked it, so a second one doesn't remove it.
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
    }

    #[test]
    fn an_interrupted_removal_can_be_repeated() {
        let parent = tempfile::tempdir().unwrap();
        let root = Root::make(parent.path(), NAME).unwrap();
        drop(root.owner);
        fs::create_dir(root.path.join("sandbox")).unwrap();
        fs::write(root.path.join("sandbox/file"), "").unwrap();
        // A mount point can't be removed.
        let mounted = root.path.join("zz");
        fs::create_dir(&mounted).unwrap();
        let mount = |program: &str, arguments: &[&str]| {
            let mut command = spawn::blocking_command(program);
            let output = command.args(arguments).arg(&mounted).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !mount("mount", &["-t", "tmpfs", "of-a-test"]) {
            println!("not tried: this user may not mount anything");
            return;
        }
        let mut found = abandoned_once_unlocked(parent.path());
        let first = found.remove(0).remove();
        assert!(mount("umount", &[]));
        first.unwrap_err();
        assert!(root.path.join(OWNER).exists());
        let found = abandoned_once_unlocked(parent.path());
        found[0].remove().unwrap();
        assert!(!root.path.exists());
    }

    /// Whether the directory of a dead server is abandoned if its file has these contents.
    fn is_left_behind(owner: &str) -> bool {
        let parent = tempfile::tempdir().unwrap();
        // Not by `Root::make`: a process that another test is starting would hold its lock, too.
        let root = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join(OWNER), owner).unwrap();
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
    fn an_owner_file_that_is_a_link_or_a_pipe_is_ignored() {
        let parent = tempfile::tempdir().unwrap();
        let root = Root::make(parent.path(), NAME).unwrap();
        drop(root.owner);
        let owner = root.path.join(OWNER);
        let elsewhere = parent.path().join("elsewhere");
        fs::rename(&owner, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &owner).unwrap();
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        fs::remove_file(&owner).unwrap();
        let made = spawn::blocking_command("mkfifo").arg(&owner).status();
        assert!(made.unwrap().success());
        assert_eq!(abandoned(parent.path()).unwrap().len(), 0);
        fs::remove_file(&owner).unwrap();
        fs::rename(&elsewhere, &owner).unwrap();
        assert_eq!(abandoned_once_unlocked(parent.path()).len(), 1);
    }
}
