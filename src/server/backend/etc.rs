//! The `/etc` files of a confined sandbox: `passwd`, `group`, `hosts` and `resolv.conf`. They give
//! its user a name and a home, and let host names resolve.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::confine::{HOME_INSIDE, USER_NAME, make_directory};

/// The directory of these files, in the directory of a sandbox.
pub(super) const ETC: &str = "etc";

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
    ["passwd", "group", "hosts", "resolv.conf"]
        .into_iter()
        .filter_map(|name| {
            // Some distributions link `resolv.conf` to `/run`.
            let inside = fs::canonicalize(Path::new("/etc").join(name)).ok()?;
            is_shown(&inside).then_some(EtcFile { name, inside })
        })
        .collect()
}

/// Writes the files of a sandbox. `user` is the user ID of its code inside. With a network, names
/// resolve as on this machine.
pub(super) fn write(sandbox: &Path, user: u32, network: bool) -> io::Result<()> {
    let directory = sandbox.join(ETC);
    make_directory(&directory, 0o755)?;
    // If the machine lacks one of these files, the sandbox gets no entries from it.
    let of_machine = |file| fs::read_to_string(file).unwrap_or_default();
    let (hosts, resolv_conf) = match network {
        true => (of_machine("/etc/hosts"), of_machine("/etc/resolv.conf")),
        false => (String::new(), "# This sandbox has no network.\n".to_owned()),
    };
    for (name, text) in [
        ("passwd", passwd(user)),
        ("group", group(user)),
        ("hosts", format!("{HOSTS}{hosts}")),
        ("resolv.conf", resolv_conf),
    ] {
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
