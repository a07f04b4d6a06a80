//! Limits on a whole sandbox by cgroup v2: [`Cgroups`] finds out whether this process may use one,
//! and creates a [`Group`] for each sandbox.
//!
//! A cgroup with processes can't have limited children ("no internal processes"), so the groups of
//! the sandboxes are beside the cgroup of this process, not in it. The cgroup above both must be
//! delegated to this process, and systemd marks such a cgroup with an extended attribute. Without
//! the mark, that cgroup belongs to systemd or another manager, even if this process may write to
//! it: root always may.
//!
//! A group that remains after a crash of the server holds no process. systemd removes it with the
//! service.
//!
//! The tests use an ordinary directory in place of a cgroup with controllers: no test applies a
//! limit. One test moves a process into a real cgroup and removes that, on machines with cgroup v2.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    protocol::SandboxLimits,
    server::{blocking::blocking, escaped::Escaped},
};

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The marks of a delegated cgroup. Only a privileged process can read the first.
const MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// What to do if no cgroup can be used.
pub(super) const ADVICE: &str = "start the server as a systemd service with `Delegate=yes` and \
                                 `DelegateSubgroup=server`";

/// The period of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;

/// bubblewrap and the agent are in the group of their sandbox, too.
const OWN_PROCESSES: u64 = 2;

/// How often and at which interval to try to remove a group. The kernel empties it soon after the
/// end of its processes.
const TRIES: u32 = 100;
const INTERVAL: Duration = Duration::from_millis(20);

/// The limits of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) memory_bytes: u64,
    pub(super) processes: u64,
    /// In thousandths of a processor.
    pub(super) cpus: Option<u64>,
}

/// A cgroup in which this process may create groups for sandboxes.
#[derive(Debug)]
pub(super) struct Cgroups {
    pub(super) parent: PathBuf,
    /// The limits of a sandbox whose client has lowered none.
    limits: Limits,
    /// The maximum memory of a process, unless the client has lowered it.
    process_memory_bytes: u64,
}

impl Cgroups {
    /// Finds the cgroup above this process and enables the controllers in it. The error is the
    /// reason why there is none to use. Blocks.
    pub(super) fn find(limits: Limits, process_memory_bytes: u64) -> Result<Self, String> {
        let read = |file: &str| {
            let text = fs::read_to_string(file);
            text.map_err(|error| format!("cannot read {file}: {error}"))
        };
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let parent = parent(&mounts, &own)?;
        if !is_delegated(&parent) {
            return Err(format!(
                "the cgroup {} is not delegated to this server",
                parent.display()
            ));
        }
        enable(&parent)?;
        Ok(Self {
            parent,
            limits,
            process_memory_bytes,
        })
    }

    /// The limits of the group of a sandbox whose client has lowered none.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The limits of the group of a sandbox. `sandbox` are the limits that apply to it: those of
    /// the server, or lower ones. If the client has lowered the memory of a process, the memory of
    /// the sandbox is at most twice that.
    pub(super) fn limits_of(&self, sandbox: &SandboxLimits) -> Limits {
        let own = self.limits;
        let lowered = sandbox.memory.filter(|it| *it < self.process_memory_bytes);
        let memory = lowered.map_or(u64::MAX, |it| it.saturating_mul(2));
        Limits {
            memory_bytes: own.memory_bytes.min(memory),
            processes: own.processes.min(sandbox.processes.unwrap_or(u64::MAX)),
            cpus: own.cpus,
        }
    }

    /// Creates the group of a sandbox with its limits. `name` must differ from that of every other
    /// group.
    pub(super) async fn create(
        &self,
        name: &str,
        sandbox: &SandboxLimits,
    ) -> Result<Group, String> {
        let path = self.parent.join(name);
        let (made, limits) = (path.clone(), self.limits_of(sandbox));
        let created = blocking(move || {
            fs::create_dir(&made)?;
            limit(&made, limits).inspect_err(|_| drop(fs::remove_dir(&made)))
        });
        created
            .await
            .map_err(|error| format!("cannot create a cgroup for the sandbox: {error}"))?;
        Ok(Group { path })
    }

    /// The limits, for the log.
    pub(super) fn describe(&self) -> String {
        let Limits {
            memory_bytes,
            processes,
            cpus,
        } = self.limits;
        let cpus = match cpus {
            Some(cpus) => format!("{} CPUs", cpus as f64 / 1_000.0),
            None => "any number of CPUs".to_owned(),
        };
        format!(
            "{} MiB of memory, {processes} processes, {cpus}",
            memory_bytes >> 20
        )
    }
}

/// The cgroup of a sandbox.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// Moves processes into the group. Their later children start in it.
    pub(super) async fn add(&self, pids: Vec<u32>) -> Result<(), String> {
        let procs = self.path.join("cgroup.procs");
        let added = blocking(move || {
            let mut pids = pids.into_iter();
            pids.try_for_each(|pid| write(&procs, &pid.to_string()))
        });
        added
            .await
            .map_err(|error| format!("cannot move the sandbox into its cgroup: {error}"))
    }

    /// Kills what is left in the group and removes it. Call it after the end of the first process.
    pub(super) async fn remove(self) {
        for _ in 0..TRIES {
            let path = self.path.clone();
            let removed = blocking(move || match fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => {
                    // Linux before 5.14 doesn't have this file.
                    let _ = write(&path.join("cgroup.kill"), "1");
                    Err(error)
                }
                removed => removed,
            });
            match removed.await {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(INTERVAL).await,
                Err(error) => return self.remains(&error),
            }
        }
        self.remains(&io::ErrorKind::ResourceBusy.into());
    }

    fn remains(&self, error: &io::Error) {
        let (error, group) = (Escaped(error), self.path.display());
        tracing::warn!(%error, %group, "cannot remove the cgroup of a sandbox");
    }
}

/// The directory of the cgroup above the one of a process with these files in `/proc`.
fn parent(mounts: &str, cgroups: &str) -> Result<PathBuf, String> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("this machine has no cgroup v2")?;
    // See proc_pid_mountinfo(5): the root and the mount point are the fields 4 and 5, and the type
    // of the file system follows a field `-`.
    let mounted = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let own = Path::new(own).strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ")
            .then(|| (Path::new(point), own))
    });
    let (point, own) = mounted.ok_or("no cgroup v2 that holds this process is mounted")?;
    let above = own.parent().ok_or("this process is in the root cgroup")?;
    Ok(point.join(above))
}

fn is_delegated(cgroup: &Path) -> bool {
    MARKS.iter().any(|mark| {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(cgroup, *mark, &mut value);
        length.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// Enables the controllers for the children of a cgroup.
fn enable(cgroup: &Path) -> Result<(), String> {
    let place = cgroup.display();
    let named = |file: &str| {
        let text = fs::read_to_string(cgroup.join(file));
        text.map_err(|error| format!("cannot read {place}/{file}: {error}"))
    };
    let has = |names: &str, name: &str| names.split_whitespace().any(|it| it == name);
    let available = named("cgroup.controllers")?;
    if let Some(missing) = CONTROLLERS.iter().find(|it| !has(&available, it)) {
        return Err(format!("the cgroup {place} has no controller `{missing}`"));
    }
    let enabled = named("cgroup.subtree_control")?;
    for controller in CONTROLLERS.iter().filter(|it| !has(&enabled, it)) {
        write(
            &cgroup.join("cgroup.subtree_control"),
            &format!("+{controller}"),
        )
        .map_err(|error| {
            format!("cannot enable the controller `{controller}` in the cgroup {place}: {error}")
        })?;
    }
    Ok(())
}

fn limit(group: &Path, limits: Limits) -> io::Result<()> {
    let Limits {
        memory_bytes,
        processes,
        cpus,
    } = limits;
    let set = |file: &str, value: String| write(&group.join(file), &value);
    set("memory.max", memory_bytes.to_string())?;
    // A machine without swap may not have this file.
    match set("memory.swap.max", 0.to_string()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `memory.oom.group` stays 0: the kernel kills the process with the most memory, and the agent
    // reports its end. With 1 it would also kill the agent and every other exec.
    set(
        "pids.max",
        processes.saturating_add(OWN_PROCESSES).to_string(),
    )?;
    match cpus {
        Some(cpus) => {
            let quota = cpus.saturating_mul(PERIOD / 1_000);
            set("cpu.max", format!("{quota} {PERIOD}"))
        }
        None => Ok(()),
    }
}

/// Writes to a file of a cgroup, which must exist. The kernel takes each value in one write.
fn write(file: &Path, value: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(file)?
        .write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memory_bytes: 1 << 30,
        processes: 64,
        cpus: Some(1_500),
    };

    const MOUNTS: &str = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 31 0:37 / /sys/fs/cgroup/x rw - cgroup cgroup rw,name=systemd";

    #[test]
    fn the_cgroup_above_this_process_is_found() {
        let found = |own| parent(MOUNTS, own).map(|path| path.display().to_string());
        assert_eq!(
            found("4:memory:/other\n0::/system.slice/sandboxes.service/server\n").unwrap(),
            "/sys/fs/cgroup/system.slice/sandboxes.service"
        );
        assert_eq!(found("0::/server").unwrap(), "/sys/fs/cgroup/");
        for (own, says) in [
            ("4:memory:/other", "has no cgroup v2"),
            ("", "has no cgroup v2"),
            ("0::/", "in the root cgroup"),
        ] {
            assert!(found(own).unwrap_err().contains(says), "{own}");
        }
        let below = MOUNTS.replace("0:28 / ", "0:28 /docker/1 ");
        let found = |own| parent(&below, own);
        let path = found("0::/docker/1/app/server").unwrap();
        assert_eq!(path, Path::new("/sys/fs/cgroup/app"));
        found("0::/docker/2/app/server").unwrap_err();
        parent("", "0::/a/b").unwrap_err();
        parent("garbled - cgroup2 ", "0::/a/b").unwrap_err();
    }

    /// A directory with the files that the kernel creates in a cgroup.
    fn make(cgroup: &Path, controllers: &str, enabled: &str) {
        fs::write(cgroup.join("cgroup.controllers"), controllers).unwrap();
        fs::write(cgroup.join("cgroup.subtree_control"), enabled).unwrap();
    }

    fn read(directory: &Path, file: &str) -> String {
        fs::read_to_string(directory.join(file)).unwrap()
    }

    #[test]
    fn missing_controllers_are_enabled_or_named() {
        let cgroup = tempfile::tempdir().unwrap();
        let cgroup = cgroup.path();
        assert!(enable(cgroup).unwrap_err().contains("cgroup.controllers"));
        make(cgroup, "cpuset cpu memory pids", "memory pids");
        enable(cgroup).unwrap();
        // The kernel would add the name; a file holds what was written.
        assert!(read(cgroup, "cgroup.subtree_control").starts_with("+cpu"));
        make(cgroup, "cpuset cpu memory", "");
        let error = enable(cgroup).unwrap_err();
        assert!(error.contains("no controller `pids`"), "{error}");
        assert_eq!(read(cgroup, "cgroup.subtree_control"), "");
    }

    #[test]
    fn a_cgroup_without_a_mark_is_not_delegated() {
        let cgroup = tempfile::tempdir().unwrap();
        assert!(!is_delegated(cgroup.path()));
        let set = |value: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(cgroup.path(), MARKS[1], value, flags)
        };
        if let Err(error) = set(b"1") {
            println!("not tried: {error}");
            return;
        }
        assert!(is_delegated(cgroup.path()));
        for other in [&b"0"[..], b"", b"11", b"much too long"] {
            set(other).unwrap();
            assert!(!is_delegated(cgroup.path()), "{other:?}");
        }
    }

    #[test]
    fn each_limit_is_written_to_its_file() {
        let group = tempfile::tempdir().unwrap();
        let group = group.path();
        // The kernel creates the files, so a missing one is an error, except for the swap.
        limit(group, LIMITS).unwrap_err();
        for file in ["memory.max", "pids.max", "cpu.max"] {
            fs::write(group.join(file), "").unwrap();
        }
        limit(group, LIMITS).unwrap();
        let files = ["memory.max", "pids.max", "cpu.max"].map(|file| read(group, file));
        assert_eq!(files, ["1073741824", "66", "150000 100000"]);
        fs::write(group.join("memory.swap.max"), "max").unwrap();
        limit(group, LIMITS).unwrap();
        assert!(read(group, "memory.swap.max").starts_with('0'));
    }

    #[test]
    fn only_a_client_lowers_the_limits_of_the_server() {
        let cgroups = |process_memory_bytes| Cgroups {
            parent: PathBuf::new(),
            limits: LIMITS,
            process_memory_bytes,
        };
        let limits = |memory, processes| SandboxLimits {
            memory: Some(memory),
            processes: Some(processes),
            disk: None,
        };
        // The server's own limits: a sandbox may have more than twice the memory of a process.
        let large = cgroups(256 << 20);
        assert_eq!(large.limits_of(&limits(256 << 20, 64)), LIMITS);
        assert_eq!(large.limits_of(&SandboxLimits::default()), LIMITS);
        let lower = large.limits_of(&limits(32 << 20, 8));
        assert_eq!((lower.memory_bytes, lower.processes), (64 << 20, 8));
        // Twice the memory of a process may still be more than the memory of a sandbox.
        let small = cgroups(2 << 30);
        let lower = small.limits_of(&limits(1 << 30, 64));
        assert_eq!(lower, LIMITS);
    }

    #[tokio::test]
    async fn a_group_is_created_filled_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let cgroups = Cgroups {
            parent: parent.path().to_owned(),
            limits: LIMITS,
            process_memory_bytes: 512 << 20,
        };
        // An ordinary directory doesn't have the files of a cgroup.
        let error = cgroups
            .create("sandbox", &SandboxLimits::default())
            .await
            .unwrap_err();
        assert!(error.contains("cannot create a cgroup"), "{error}");
        let path = parent.path().join("sandbox");
        assert!(!path.exists());

        fs::create_dir(&path).unwrap();
        let group = Group { path: path.clone() };
        let error = group.add(vec![1]).await.unwrap_err();
        assert!(error.contains("cgroup"), "{error}");
        fs::write(path.join("cgroup.procs"), "").unwrap();
        group.add(vec![17]).await.unwrap();
        assert_eq!(read(&path, "cgroup.procs"), "17");
        // The kernel removes the files together with the directory.
        fs::remove_file(path.join("cgroup.procs")).unwrap();
        group.remove().await;
        assert!(!path.exists());
        Group { path }.remove().await;
    }

    #[tokio::test]
    async fn what_is_left_in_a_real_group_is_killed() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let place = mount.and_then(|line| line.split(' ').nth(4));
        let name = format!("actix-sandbox-test-{}", std::process::id());
        let path = Path::new(place.unwrap_or("/no/cgroup")).join(name);
        if let Err(error) = fs::create_dir(&path) {
            println!("not tried: {error}");
            return;
        }
        let group = Group { path: path.clone() };
        let mut sleep = crate::inside::spawn::blocking_command("sleep");
        let mut sleep = sleep.arg("1000").spawn().unwrap();
        let added = group.add(vec![sleep.id()]).await;
        let seen = fs::read_to_string(format!("/proc/{}/cgroup", sleep.id())).unwrap();
        // The group is busy until its process is killed.
        let can_kill = path.join("cgroup.kill").exists();
        if !can_kill {
            sleep.kill().unwrap();
        }
        group.remove().await;
        let is_gone = !path.exists();
        sleep.kill().unwrap();
        let status = sleep.wait().unwrap();
        added.unwrap();
        assert!(seen.contains("/actix-sandbox-test-"), "{seen}");
        assert!(is_gone);
        assert!(!status.success());
    }
}
