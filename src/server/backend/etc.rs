//! The `/etc` files of a confined sandbox: `passwd`, `group`, `hosts` and `resolv.conf`. They give
//! its user a name and a home, and let host names resolve.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::confine::{HOME_INSIDE, USER_NAME, make_directory};

/// The directory of these files, in the directory of a sandbox or of the server.
pub(super) const ETC: &str = "etc";

const NAMES: [&str; 4] = ["passwd", "group", "hosts", "resolv.conf"];

/// A file, and its path in the sandbox.
pub(super) struct EtcFile {
    /// The name of the file in [`ETC`].
    pub(super) name: &'static str,
    /// The path in the sandbox. Differs from `/etc/NAME` if that is a symbolic link on this
    /// machine.
    pub(super) inside: PathBuf,
}

/// The files of [`write`] that replace those of the machine in a sandbox that can see the
/// directories in `readable`.
pub(super) fn files(readable: &[PathBuf]) -> Vec<EtcFile> {
    let is_shown = |path: &Path| {
        path.starts_with("/run") || readable.iter().any(|directory| path.starts_with(directory))
    };
    NAMES
        .into_iter()
        .filter_map(|name| {
            // Some distributions link `resolv.conf` to `/run`.
            let inside = fs::canonicalize(Path::new("/etc").join(name)).ok()?;
            is_shown(&inside).then_some(EtcFile { name, inside })
        })
        .collect()
}

/// Creates the directory [`ETC`] in `parent` with a copy of the machine's `/etc`, in which the files
/// of [`write`] replace those of the machine. Copies only what every user can read.
///
/// One mount of this directory makes a start of gVisor about 30 ms faster than a mount of each file.
pub(super) fn copy(parent: &Path, user: u32, network: bool) -> io::Result<PathBuf> {
    let directory = parent.join(ETC);
    copy_readable(Path::new("/etc"), &directory, 0o755)?;
    for name in NAMES {
        // A link would lead out of the copy.
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    write_files(&directory, user, network)?;
    Ok(directory)
}

/// Copies a directory, without the files and directories that other users can't read.
fn copy_readable(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    make_directory(to, mode)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let copied = entry.metadata().and_then(|meta| {
            let mode = meta.permissions().mode() & 0o755;
            if meta.is_symlink() {
                symlink(fs::read_link(&source)?, &target)
            } else if meta.is_dir() && mode & 0o005 == 0o005 {
                copy_readable(&source, &target, mode)
            } else if meta.is_file() && mode & 0o004 != 0 {
                fs::copy(&source, &target)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(mode))
            } else {
                Ok(())
            }
        });
        match copied {
            // Another program may have removed the entry.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => copied?,
        }
    }
    Ok(())
}

/// Writes the files of a sandbox. `user` is the user ID of its code inside. With a network, names
/// resolve as on this machine.
pub(super) fn write(sandbox: &Path, user: u32, network: bool) -> io::Result<()> {
    let directory = sandbox.join(ETC);
    make_directory(&directory, 0o755)?;
    write_files(&directory, user, network)
}

fn write_files(directory: &Path, user: u32, network: bool) -> io::Result<()> {
    // If the machine lacks one of these files, the sandbox gets no entries from it.
    let of_machine = |file| fs::read_to_string(file).unwrap_or_default();
    let (hosts, resolv_conf) = match network {
        true => (of_machine("/etc/hosts"), of_machine("/etc/resolv.conf")),
        false => (String::new(), "# This sandbox has no network.\n".to_owned()),
    };
    let texts = [
        passwd(user),
        group(user),
        format!("{HOSTS}{hosts}"),
        resolv_conf,
    ];
    for (name, text) in NAMES.into_iter().zip(texts) {
        let file = directory.join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\tsandbox\n";

/// The sandbox's user comes first: if its ID is also 0 or 65534, lookups by ID find that entry.
fn passwd(user: u32) -> String {
    format!(
        "{USER_NAME}:x:{user}:{user}:{USER_NAME}:{HOME_INSIDE}:/bin/bash\n\
         root:x:0:0:root:/root:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
}

fn group(user: u32) -> String {
    format!("{USER_NAME}:x:{user}:\nroot:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_only_what_every_user_can_read() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = |name: &str, mode| {
            let file = from.path().join(name);
            fs::write(&file, name).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in [("open", 0o755), ("closed", 0o750)] {
            make_directory(&from.path().join(name), mode).unwrap();
        }
        file("readable", 0o4664);
        file("secret", 0o640);
        file("open/program", 0o755);
        file("closed/readable", 0o644);
        symlink("../usr/lib/os-release", from.path().join("link")).unwrap();

        let copy = to.path().join("copy");
        copy_readable(from.path(), &copy, 0o755).unwrap();

        let mode = |name: &str| {
            let meta = fs::symlink_metadata(copy.join(name)).ok()?;
            Some(meta.permissions().mode() & 0o7777)
        };
        assert_eq!(mode("readable"), Some(0o644));
        assert_eq!(mode("open/program"), Some(0o755));
        assert_eq!((mode("secret"), mode("closed")), (None, None));
        let target = fs::read_link(copy.join("link")).unwrap();
        assert_eq!(target, Path::new("../usr/lib/os-release"));
    }

    #[test]
    fn a_copy_of_etc_has_the_files_of_the_sandbox() {
        let parent = tempfile::tempdir().unwrap();
        let copy = copy(parent.path(), 12_345, false).unwrap();
        let text = |name| fs::read_to_string(copy.join(name)).unwrap();
        assert!(text("passwd").starts_with("sandbox:x:12345:"));
        assert!(text("resolv.conf").starts_with("# This sandbox has no network."));
        for name in NAMES {
            assert!(fs::symlink_metadata(copy.join(name)).unwrap().is_file());
        }
    }
}
