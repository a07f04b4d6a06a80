//! [`Processes`]: the processes of this sandbox, as `/proc` lists them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::event::{Timespec, poll};

use crate::inside::proc::{is_gone_or_foreign, parse_parent, parse_stat, parse_state, pids};

/// How often a pass lists the processes at most.
const LISTINGS: usize = 8;

/// What one pass over the processes has found.
pub(super) struct Pass<T> {
    pub(super) found: T,
    /// Whether no process was missed. A process that ended before it was read may have left a
    /// child that was not listed.
    pub(super) is_exact: bool,
}

/// Reads every process, and lists them again until a listing has no unknown process.
fn read_all(mut read: impl FnMut(i32) -> io::Result<()>) -> io::Result<Pass<()>> {
    let mut seen = HashSet::new();
    let mut pass = Pass {
        found: (),
        is_exact: true,
    };
    for _ in 0..LISTINGS {
        let unknown: Vec<_> = pids()?.into_iter().filter(|&it| seen.insert(it)).collect();
        if unknown.is_empty() {
            return Ok(pass);
        }
        for pid in unknown {
            match read(pid) {
                Ok(()) => {}
                Err(error) if is_gone_or_foreign(&error) => pass.is_exact = false,
                Err(error) => return Err(error),
            }
        }
    }
    pass.is_exact = false;
    Ok(pass)
}

/// The living processes by parent.
pub(super) struct Processes {
    children: HashMap<i32, Vec<i32>>,
}

impl Processes {
    /// Lists the processes, except those that have ended or belong to another user. Fails if any
    /// other process can't be read.
    pub(super) fn read() -> io::Result<Pass<Self>> {
        let mut children = HashMap::<_, Vec<_>>::new();
        let Pass { is_exact, .. } = read_all(|pid| {
            let stat = fs::read(format!("/proc/{pid}/stat"))?;
            // A process whose first thread has ended looks dead, but its other threads run.
            let is_alive = || parse_stat(&stat).is_some() || has_threads(pid);
            if let Some(parent) = parse_parent(&stat).filter(|_| is_alive()) {
                children.entry(parent).or_default().push(pid);
            }
            Ok(())
        })?;
        let found = Self { children };
        Ok(Pass { found, is_exact })
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

/// A process and its supplementary groups.
pub(super) type WithGroups = (Pid, Vec<u32>);

/// Lists the living processes of this sandbox except this one. Fails if a process can't be read.
pub(super) fn with_groups() -> io::Result<Pass<Vec<WithGroups>>> {
    let mut found = Vec::new();
    let this = std::process::id().cast_signed();
    let Pass { is_exact, .. } = read_all(|pid| {
        if pid != this {
            let status = fs::read(format!("/proc/{pid}/status"))?;
            found.extend(groups(&status).map(|groups| (Pid::from_raw(pid), groups)));
        }
        Ok(())
    })?;
    Ok(Pass { found, is_exact })
}

/// The processes that [`stop_all`] has stopped.
pub(super) struct Stopped(Vec<i32>);

impl Stopped {
    pub(super) fn go_on(self) {
        for pid in self.0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }
}

/// Stops every process besides this one, so that none can end or fork during a pass.
pub(super) fn stop_all() -> io::Result<Stopped> {
    const TRIES: usize = 100;
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    // Processes that were stopped before must stay stopped.
    let before: HashSet<i32> = States::read()?.found.stopped.into_iter().collect();
    let mut stopped = Vec::new();
    for _ in 0..TRIES {
        let _ = kill(Pid::from_raw(-1), Signal::SIGSTOP);
        let states = States::read()?;
        let are_all_stopped = states.is_exact && states.found.running.is_empty();
        stopped = states.found.stopped;
        if are_all_stopped {
            break;
        }
        stopped.extend(states.found.running);
        let _ = poll(&mut [], Some(&pause));
    }
    stopped.retain(|pid| !before.contains(pid));
    Ok(Stopped(stopped))
}

/// Continues a process if it is stopped. Returns whether it was.
///
/// In gVisor, `wait` can report a stop before it takes effect. A SIGCONT between the two is lost,
/// and no later SIGCONT ends that stop. `/proc` shows the stop once it has taken effect.
pub(super) fn continue_if_stopped(pid: Pid) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_stopped = parse_state(&stat) == Some("T");
    if is_stopped {
        let _ = kill(pid, Signal::SIGCONT);
    }
    is_stopped
}

/// The living processes besides this one.
#[derive(Default)]
struct States {
    running: Vec<i32>,
    stopped: Vec<i32>,
}

impl States {
    fn read() -> io::Result<Pass<Self>> {
        let mut found = Self::default();
        let this = std::process::id().cast_signed();
        let Pass { is_exact, .. } = read_all(|pid| {
            let stat = fs::read(format!("/proc/{pid}/stat"))?;
            match parse_state(&stat) {
                _ if pid == this => {}
                Some("T" | "t") => found.stopped.push(pid),
                Some("Z" | "X") if !has_threads(pid) => {}
                _ => found.running.push(pid),
            }
            Ok(())
        })?;
        Ok(Pass { found, is_exact })
    }
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
