//! [`Processes`]: the processes of this sandbox, as `/proc` lists them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
};

use nix::unistd::Pid;

use crate::inside::proc::{is_gone_or_foreign, parse_parent, parse_stat, pids};

/// The living processes by parent.
pub(super) struct Processes {
    children: HashMap<i32, Vec<i32>>,
}

impl Processes {
    /// Lists the processes, except those that have ended or belong to another user. Fails if any
    /// other process can't be read.
    pub(super) fn read() -> io::Result<Self> {
        let mut children = HashMap::<_, Vec<_>>::new();
        for pid in pids()? {
            match fs::read(format!("/proc/{pid}/stat")) {
                Ok(stat) => {
                    // A process whose first thread has ended looks dead, but its other threads run.
                    let is_alive = || parse_stat(&stat).is_some() || has_threads(pid);
                    if let Some(parent) = parse_parent(&stat).filter(|_| is_alive()) {
                        children.entry(parent).or_default().push(pid);
                    }
                }
                Err(error) if is_gone_or_foreign(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { children })
    }

    /// The children of this process, except these.
    pub(super) fn children_of_this(&self, except: &[Pid]) -> Vec<Pid> {
        let children = self.children.get(&std::process::id().cast_signed());
        let children = children
            .into_iter()
            .flatten()
            .map(|&pid| Pid::from_raw(pid));
        children.filter(|pid| !except.contains(pid)).collect()
    }

    /// These processes and all their descendants, parents first.
    pub(super) fn with_descendants(&self, mut found: Vec<Pid>) -> Vec<Pid> {
        // `read` looks at one process after the other, so the parents may form a cycle.
        let mut seen: HashSet<_> = found.iter().copied().collect();
        let mut at = 0;
        while let Some(pid) = found.get(at) {
            let children = self.children.get(&pid.as_raw());
            let children = children
                .into_iter()
                .flatten()
                .map(|&pid| Pid::from_raw(pid));
            found.extend(children.filter(|&child| seen.insert(child)));
            at += 1;
        }
        found
    }
}

/// Lists the living processes of this sandbox except this one, with their supplementary groups.
/// Fails if a process can't be read.
pub(super) fn with_groups() -> io::Result<Vec<(Pid, Vec<u32>)>> {
    let mut found = Vec::new();
    let this = std::process::id().cast_signed();
    for pid in pids()?.into_iter().filter(|&pid| pid != this) {
        match fs::read(format!("/proc/{pid}/status")) {
            Ok(status) => found.extend(groups(&status).map(|groups| (Pid::from_raw(pid), groups))),
            Err(error) if is_gone_or_foreign(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The supplementary groups in a file `/proc/PID/status`. `None` if the process is dead.
fn groups(status: &[u8]) -> Option<Vec<u32>> {
    // Code chooses the value of the first line, `Name`. gVisor doesn't escape line breaks in it, so
    // code can forge lines. The real lines follow, so search from the end.
    let status = String::from_utf8_lossy(status);
    let value = |name: &str| {
        let mut lines = status.lines().rev();
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let is_dead = value("State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    // A process whose first thread has ended looks dead, but its other threads run.
    let has_threads = value("Threads:").is_some_and(|threads| threads != "0" && threads != "1");
    let groups = value("Groups:").unwrap_or_default();
    let groups = groups.split_whitespace().filter_map(|it| it.parse().ok());
    (!is_dead || has_threads).then(|| groups.collect())
}

/// Whether a process has a thread besides its first one.
fn has_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_whatever_the_program_name() {
        let status = |name: &str, state: &str, threads: &str| {
            let text = format!(
                "Name:\t{name}\nState:\t{state}\nThreads:\t{threads}\nGroups:\t 7 1610612737 \n"
            );
            groups(text.as_bytes())
        };
        let both = Some(vec![7, 1_610_612_737]);
        assert_eq!(status("Groups: 5", "S (sleeping)", "1"), both);
        assert_eq!(status("a\nState:\tZ", "S (sleeping)", "1"), both);
        assert_eq!(status("a\nGroups:\t1", "S (sleeping)", "1"), both);
        assert_eq!(status("sh", "Z (zombie)", "1"), None);
        assert_eq!(status("sh", "Z (zombie)", "2"), both);
        assert_eq!(groups(b"Name:\t\xff\nState:\tR\n"), Some(vec![]));
    }
}
