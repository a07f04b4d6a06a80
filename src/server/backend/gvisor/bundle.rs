//! The configuration of a container for `runsc`, in the format of the [OCI runtime
//! specification](https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::server::{
    agent,
    backend::confine::{AGENT, CODE_INSIDE, HOME_INSIDE, TEMPORARY_INSIDE},
    choice::Confines,
    store::archive::layout::{HOME, ROOT, TEMPORARY},
};

/// The user ID that code runs as in the sandbox, and that owns its files on this machine. No user
/// of the machine has this ID. It is the same in every sandbox, so that a restored sandbox owns its
/// files.
pub(super) const USER: u32 = 0x7000_0000;

/// The name of the directory with the server's files in the directory of a sandbox, and its path in
/// the sandbox. It holds the program of the agent and a Python module. The code of an exec is in
/// [`CODE_INSIDE`].
pub(super) const SOURCE: &str = "source";
pub(super) const SOURCE_INSIDE: &str = "/run/source";

/// The mount points of every sandbox. The readable directories come in addition.
pub(super) const MOUNT_POINTS: [&str; 8] = [
    "/proc",
    "/dev",
    "/sys",
    TEMPORARY_INSIDE,
    HOME_INSIDE,
    SOURCE_INSIDE,
    CODE_INSIDE,
    "/var/tmp",
];

/// The configuration of the container for the sandbox in `directory`. `etc` is mounted instead of
/// the machine's `/etc`, if that is readable. An empty file system is mounted over each path in
/// `hidden`.
pub(super) fn config(
    directory: &Path,
    confines: &Confines,
    etc: &Path,
    hidden: &[PathBuf],
) -> Value {
    let bind = |from: &Path, to: &Path, access: &str| {
        json!({
            "type": "bind", "source": from, "destination": to,
            "options": ["rbind", access, "nosuid", "nodev"],
        })
    };
    let own = |name: &str, to: &str, access: &str| bind(&directory.join(name), to.as_ref(), access);
    let mut mounts = vec![
        json!({ "type": "proc", "source": "proc", "destination": "/proc" }),
        json!({ "type": "tmpfs", "source": "tmpfs", "destination": "/dev" }),
        json!({
            "type": "tmpfs", "source": "shm", "destination": "/dev/shm",
            "options": ["nosuid", "nodev", "mode=1777", "size=64m"],
        }),
        json!({ "type": "sysfs", "source": "sysfs", "destination": "/sys", "options": ["ro"] }),
        json!({
            "type": "tmpfs", "source": "tmpfs", "destination": CODE_INSIDE,
            "options": ["nosuid", "nodev", "mode=0755", "size=1g"],
        }),
    ];
    mounts.extend(readable(confines).filter_map(|path| {
        Some(match path == Path::new("/etc") {
            true => bind(etc, path, "ro"),
            false => bind(&path.canonicalize().ok()?, path, "ro"),
        })
    }));
    mounts.extend(hidden.iter().map(|path| {
        json!({
            "type": "tmpfs", "source": "tmpfs", "destination": path,
            "options": ["ro", "nosuid", "nodev", "mode=0555"],
        })
    }));
    mounts.extend([
        own(HOME, HOME_INSIDE, "rw"),
        own(TEMPORARY, TEMPORARY_INSIDE, "rw"),
        own(SOURCE, SOURCE_INSIDE, "ro"),
    ]);
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if !confines.network {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces.iter().map(|it| json!({ "type": it })).collect();
    json!({
        "ociVersion": "1.0.2",
        "annotations": cached(&mounts),
        "process": first_process(confines),
        "root": { "path": directory.join(ROOT), "readonly": false },
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": { "namespaces": namespaces },
    })
}

/// Lets gVisor cache the directories of the mounts that are read-only, which makes an exec about 15%
/// faster. By default, it asks the machine at each lookup whether a file has changed. See "mount
/// hints" in gVisor's `runsc/boot/vfs.go`.
fn cached(mounts: &[Value]) -> Map<String, Value> {
    let read_only = mounts
        .iter()
        .filter(|mount| mount["type"] == "bind" && mount["options"][1] == "ro");
    let hints = read_only.enumerate().flat_map(|(number, mount)| {
        let hint = |key, value| (format!("dev.gvisor.spec.mount.m{number}.{key}"), value);
        [
            hint("source", mount["source"].clone()),
            hint("type", json!("bind")),
            hint("share", json!("container")),
        ]
    });
    hints.collect()
}

/// The agent. It has three capabilities: to signal every process, and to change its user and
/// groups.
fn first_process(confines: &Confines) -> Value {
    let capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
    let program = format!("{SOURCE_INSIDE}/{AGENT}");
    let args: Vec<_> = [&*program].into_iter().chain(agent::ARGUMENTS).collect();
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": [],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "noNewPrivileges": true,
        // No process in gVisor can change this limit, so set it here. It applies to each user, so
        // the agent, as root, can start a process even if code has reached the limit. The agent
        // sets the other limits.
        "rlimits": [{
            "type": "RLIMIT_NPROC", "soft": confines.processes, "hard": confines.processes,
        }],
    })
}

/// The readable directories that exist on this machine.
pub(super) fn readable(confines: &Confines) -> impl Iterator<Item = &Path> {
    confines
        .readable
        .iter()
        .map(|path| path.as_path())
        .filter(|path| path.is_dir())
}
