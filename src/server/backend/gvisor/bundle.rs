//! The descriptions of containers and processes for `runsc`, in the format of the [OCI runtime
//! specification](https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::scripts::{INIT, SOURCE_INSIDE};
use crate::server::{
    backend::{
        confine::{CODE_INSIDE, ENVIRONMENT, HOME_INSIDE, TEMPORARY_INSIDE},
        etc,
    },
    choice::Confines,
    store::archive::layout::{HOME, ROOT, TEMPORARY},
};

/// The user ID that code runs as in the sandbox, and that owns its files on this machine. No user
/// of the machine has this ID. It is the same in every sandbox, so that a restored sandbox owns its
/// files.
pub(super) const USER: u32 = 0x7000_0000;

/// Names in the directory of a sandbox.
pub(super) const SOURCE: &str = "source";
pub(super) const EXIT: &str = "exit";

pub(super) const EXIT_INSIDE: &str = "/run/exit";

/// The mount points of every sandbox. The readable directories come in addition.
pub(super) const MOUNT_POINTS: [&str; 9] = [
    "/proc",
    "/dev",
    "/sys",
    TEMPORARY_INSIDE,
    HOME_INSIDE,
    SOURCE_INSIDE,
    CODE_INSIDE,
    EXIT_INSIDE,
    "/var/tmp",
];

/// The configuration of the container for the sandbox in `directory`. An empty file system is
/// mounted over each path in `hidden`.
pub(super) fn config(directory: &Path, confines: &Confines, hidden: &[PathBuf]) -> Value {
    let bind = |from: &Path, to: &Path, access: &str| {
        json!({
            "type": "bind", "source": from, "destination": to,
            "options": ["rbind", access, "nosuid", "nodev"],
        })
    };
    let own = |name: &str, to: &str, access: &str| bind(&directory.join(name), to.as_ref(), access);
    let user = format!("uid={USER}");
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
            "options": ["nosuid", "nodev", "mode=0755", "size=64m", user],
        }),
    ];
    mounts.extend(
        readable(confines).filter_map(|path| Some(bind(&path.canonicalize().ok()?, path, "ro"))),
    );
    mounts.extend(etc::files(&confines.readable).iter().map(|file| {
        bind(
            &directory.join(etc::ETC).join(file.name),
            &file.inside,
            "ro",
        )
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
        own(EXIT, EXIT_INSIDE, "rw"),
    ]);
    let limit = |name, most: u64| json!({ "type": name, "soft": most, "hard": most });
    let mut init = process(&["perl", &INIT.inside()], &[], "/");
    init["rlimits"] = json!([
        // gVisor enforces no other limit on memory.
        limit("RLIMIT_AS", confines.memory_bytes),
        limit("RLIMIT_NPROC", confines.processes),
        limit("RLIMIT_FSIZE", confines.file_bytes),
        limit("RLIMIT_NOFILE", confines.open_files),
        limit("RLIMIT_CORE", 0),
    ]);
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if !confines.network {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces.iter().map(|it| json!({ "type": it })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": init,
        "root": { "path": directory.join(ROOT), "readonly": false },
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": { "namespaces": namespaces },
    })
}

/// The description of a process without privileges.
pub(super) fn process(args: &[&str], env: &[(&str, &str)], cwd: &str) -> Value {
    // If a name occurs twice, the last value counts.
    let is_replaced = |name: &str| env.iter().any(|(it, _)| *it == name);
    let mut variables: Vec<(&str, &str)> = ENVIRONMENT
        .into_iter()
        .filter(|(name, _)| !is_replaced(name))
        .collect();
    for &(name, value) in env {
        variables.retain(|(it, _)| *it != name);
        variables.push((name, value));
    }
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    json!({
        "terminal": false,
        "user": { "uid": USER, "gid": USER },
        "args": args,
        "env": variables,
        "cwd": cwd,
        "capabilities": {},
        "noNewPrivileges": true,
    })
}

/// The description of a process that may inspect and kill all others, and has no other privileges.
/// The limit on the number of processes counts per user, so it doesn't apply to this process.
pub(super) fn overseer(args: &[&str]) -> Value {
    let mut process = process(args, &[], "/");
    let capabilities = ["CAP_KILL", "CAP_SYS_PTRACE"];
    process["user"] = json!({ "uid": 0, "gid": 0 });
    process["capabilities"] = json!({
        "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
    });
    process
}

/// The readable directories that exist on this machine.
pub(super) fn readable(confines: &Confines) -> impl Iterator<Item = &Path> {
    confines
        .readable
        .iter()
        .map(|path| path.as_path())
        .filter(|path| path.is_dir())
}
