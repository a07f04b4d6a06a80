//! The files of `/etc` that a confined sandbox has of its own, so that its user has a name and a
//! home, and names resolve: `passwd`, `group`, `hosts` and `resolv.conf`.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::confine::{HOME_INSIDE, make_directory};

/// The directory of these files, in that of a sandbox.
pub(super) const ETC: &str = "etc";

/// The name of the user that code runs as.
pub(super) const USER_NAME: &str = "sandbox";

/// A file of a sandbox, and where the sandbox has it.
pub(super) struct EtcFile {
    /// The name of the file in [`ETC`].
    pub(super) name: &'static str,
    /// The path in the sandbox, which differs from `/etc/NAME` where this machine has a symbolic link.
    pub(super) inside: PathBuf,
}

impl EtcFile {
    /// `NAME=PLACE`.
    pub(super) fn to_argument(&self) -> OsString {
        let mut argument = OsString::from(self.name);
        argument.push("=");
        argument.push(&self.inside);
        argument
    }
}

/// The files that [`write`] makes, as far as a sandbox that sees these directories of this machine would
/// otherwise see this machine's own.
pub(super) fn files(readable: &[PathBuf]) -> Vec<EtcFile> {
    let is_shown = |path: &Path| {
        path.starts_with("/run") || readable.iter().any(|directory| path.starts_with(directory))
    };
    ["passwd", "group", "hosts", "resolv.conf"]
        .into_iter()
        .filter_map(|name| {
            // A link to `/run` in some distributions.
            let inside = fs::canonicalize(Path::new("/etc").join(name)).ok()?;
            is_shown(&inside).then_some(EtcFile { name, inside })
        })
        .collect()
}

/// Writes the files of a sandbox whose code has this user id inside. With a network, names resolve
/// as on this machine.
pub(super) fn write(sandbox: &Path, user: u32, network: bool) -> io::Result<()> {
    let directory = sandbox.join(ETC);
    make_directory(&directory, 0o755)?;
    // A machine without these files has no resolver to name, and no hosts.
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

/// The first entry of an id is the one that programs find by it.
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
