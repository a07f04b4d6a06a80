//! [`confine`]: what the agent does to its sandbox and to itself before it starts any program.

use std::{ffi::CStr, fs, io};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    mount::{MountFlags, mount},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

use crate::inside::{filter, messages::Place, spawn};

/// The file systems that the agent mounts with limits. bubblewrap can't limit the number of files
/// or of terminals in them, and each of these takes memory of the kernel.
const MOUNTS: [(&str, &str, &CStr); 2] = [
    ("tmpfs", "/dev/shm", c"mode=1777,size=64m,nr_inodes=16k"),
    (
        "devpts",
        "/dev/pts",
        c"newinstance,ptmxmode=0666,mode=0620,max=256",
    ),
];

/// Confines this process and, in namespaces, every process that it will start. The error names the
/// step that failed.
pub(super) fn confine(place: &Place) -> Result<(), String> {
    // Each thread has its own capabilities and its own filter.
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count);
    if threads.is_ok_and(|threads| threads != 1) {
        return Err(
            "the program of the agent has started threads; call `actix_sandbox::server::agent()` \
             first in its `main`, before a runtime such as that of `#[tokio::main]`"
                .to_owned(),
        );
    }
    // From here on, code can't attach to this process or to its forks.
    step(
        "make the agent undumpable",
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    )?;
    if let Place::Gvisor { .. } = place {
        // `runsc` sets some limits of its own.
        step("reset the limits", spawn::reset_limits())?;
    }
    // The agent needs four descriptors for each exec. The programs get limits of their own.
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    step(
        "raise the limit on open files",
        setrlimit(Resource::Nofile, limit),
    )?;
    match place {
        Place::Namespace { denied_calls } => confine_in_namespaces(denied_calls),
        // gVisor confines the sandbox. Each program gives up the agent's privileges before it runs.
        Place::Gvisor { .. } => Ok(()),
    }
}

/// Mounts the file systems that only the agent can limit, gives up all privileges and installs the
/// filter.
fn confine_in_namespaces(denied_calls: &[String]) -> Result<(), String> {
    let filter = filter::program(denied_calls)?;
    // The user namespace of this process doesn't own its mount namespace, so this process can mount
    // only in a new one.
    step("create a mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    for (kind, place, options) in MOUNTS {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        let mounted = mount(kind, place, kind, flags, options);
        step(&format!("mount {place}"), mounted)?;
    }
    for capability in [CapabilitySet::SYS_ADMIN, CapabilitySet::SETPCAP] {
        let removed = remove_capability_from_bounding_set(capability);
        step("drop capabilities", removed)?;
    }
    step("drop capabilities", clear_ambient_capability_set())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop capabilities", set_capabilities(None, none))?;
    filter::apply(&filter)
}

fn step<T>(what: &str, done: Result<T, impl Into<io::Error>>) -> Result<T, String> {
    done.map_err(|error| format!("cannot {what}: {}", error.into()))
}
