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

/// Whether a process has a thread besides its first one.
fn has_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}
