//! Passes over the processes of the sandbox: they kill those of the execs that are being killed,
//! and continue those of the execs that are starting. They continue reapers and builtins that code
//! has stopped.

use std::{io, time::Duration};

use nix::unistd::Pid;

use super::{
    Agent,
    exec::Exec,
    processes::{self, Pass, Processes, continue_if_stopped},
};
use crate::inside::proc::kill_all;

/// The pause before the first pass over the processes during a kill.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest pause before a pass. Each pause is twice as long as the one before.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// The time between passes while an exec is starting. A pass continues its processes, in case code
/// has stopped one. A start usually takes a millisecond, so most starts need no pass.
const STARTS_WITHIN: Duration = Duration::from_millis(200);

/// How many consecutive passes must find no process to kill before the agent reports that none is
/// left. In namespaces, this applies only to processes without a reaper.
const PASSES: u32 = 2;

/// How many passes to make before the processes are stopped during each further pass.
const MOVING_PASSES: u32 = 16;

/// The state of the passes for a kill.
pub(super) struct Sweep {
    /// The pause before the next pass.
    pause: Duration,
    /// How many consecutive passes have found no stray process: see [`PASSES`].
    passes_without_strays: u32,
    passes: u32,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            pause: PAUSE,
            passes_without_strays: 0,
            passes: 0,
        }
    }
}

impl Agent {
    /// Starts passes over the processes. If they run already, starts again with the shortest pause.
    pub(super) fn begin_sweep(&mut self) {
        self.sweep = Sweep::default();
        self.next_pass.start(self.sweep.pause);
    }

    /// Makes sure that a pass comes in time for an exec that is starting.
    pub(super) fn watch_start(&mut self) {
        self.next_pass.start_if_idle(STARTS_WITHIN);
    }

    /// Makes sure that a pass comes soon for a child that has stopped.
    pub(super) fn watch_stop(&mut self) {
        if self.execs.values().any(Exec::has_stopped) {
            self.next_pass.start_if_idle(PAUSE);
        }
    }

    /// Makes one pass over all processes. Kills the processes of the execs that are being killed,
    /// and continues stopped processes of the execs that are starting.
    ///
    /// [`PASSES`] consecutive passes must find no process. A pass can miss one if processes keep
    /// forking and ending meanwhile. Then it doesn't count, and after [`MOVING_PASSES`] passes all
    /// processes of the sandbox are stopped during each further pass.
    pub(super) fn sweep(&mut self) {
        self.next_pass.take();
        self.execs.values_mut().for_each(Exec::hurry_child);
        let is_killing = self.execs.values().any(Exec::is_being_killed);
        let is_starting = self.execs.values().any(Exec::is_starting);
        if is_killing {
            self.sweep.pause = MAX_PAUSE.min(2 * self.sweep.pause);
            self.next_pass.start(self.sweep.pause);
        } else if self.execs.values().any(Exec::has_stopped) {
            self.next_pass.start(MAX_PAUSE);
        } else if is_starting {
            self.next_pass.start(STARTS_WITHIN);
        }
        if !is_killing && !is_starting {
            return;
        }
        // A failure means, for example, that this process has no descriptor left. The next pass
        // tries again.
        if self.pass().is_err() {
            return;
        }
        let has_strays = self.sweep.passes_without_strays < PASSES;
        for exec in self
            .execs
            .values_mut()
            .filter(|exec| exec.is_being_killed())
        {
            exec.handle_pass(has_strays, &mut self.outgoing);
        }
    }

    fn pass(&mut self) -> io::Result<()> {
        self.sweep.passes = self.sweep.passes.saturating_add(1);
        let is_killing = self.execs.values().any(Exec::is_being_killed);
        let stopped = match is_killing && self.sweep.passes > MOVING_PASSES {
            true => Some(processes::stop_all()?),
            false => None,
        };
        let passed = match &self.user {
            None => self.pass_by_parents(),
            Some(_) => self.pass_by_groups(),
        };
        if let Some(stopped) = stopped {
            stopped.go_on();
        }
        passed
    }

    /// Kills the processes of the execs that are being killed. Finds them by their parents.
    ///
    /// A reaper ends by itself when it has no descendants left, so its end proves that no process
    /// of the exec is left. If code killed the reaper, its orphans became children of the agent.
    /// All other children of the agent are reapers. So a pass kills every child that is not a
    /// reaper, and the descendants of that child.
    fn pass_by_parents(&mut self) -> io::Result<()> {
        let is_killed = |exec: &&Exec| exec.is_being_killed();
        let Pass {
            found: processes,
            is_exact,
        } = Processes::read()?;
        let mut doomed = Vec::new();
        if self.execs.values().any(Exec::has_lost_reaper) {
            let reapers: Vec<Pid> = self.execs.values().filter_map(Exec::child).collect();
            doomed = processes.with_descendants(processes.children_of_this(&reapers));
            self.count_pass(doomed.is_empty(), is_exact);
        }
        for reaper in self
            .execs
            .values()
            .filter(is_killed)
            .filter_map(Exec::child)
        {
            let own = processes.with_descendants(vec![reaper]);
            doomed.extend(own.into_iter().skip(1));
            // Code may have stopped the reaper.
            continue_if_stopped(reaper);
        }
        // Code may have stopped a process between its fork and its exec.
        let starting = self.execs.values().filter(|exec| exec.is_starting());
        let starting = starting.filter_map(Exec::child).collect();
        for pid in processes.with_descendants(starting) {
            continue_if_stopped(pid);
        }
        kill_all(&doomed);
        Ok(())
    }

    /// Kills the processes of the execs that are being killed. Finds them by their groups.
    fn pass_by_groups(&mut self) -> io::Result<()> {
        let killed = self.execs.values().filter(|exec| exec.is_being_killed());
        let groups: Vec<u32> = killed.filter_map(Exec::group).collect();
        let Pass {
            found: mut doomed,
            is_exact,
        } = processes::with_groups()?;
        // Code may have stopped a process between its fork and its exec: the child of the agent,
        // or the child of a keeper.
        let starting = self.execs.values().filter(|exec| exec.is_starting());
        let (children, starting): (Vec<_>, Vec<_>) =
            starting.map(|exec| (exec.child(), exec.group())).unzip();
        let is_starting = |of: &[u32]| starting.iter().flatten().any(|group| of.contains(group));
        let started = doomed.iter().filter(|(_, of)| is_starting(of));
        let started = started.map(|&(pid, _)| pid);
        for pid in children.into_iter().flatten().chain(started) {
            continue_if_stopped(pid);
        }
        doomed.retain(|(_, of)| of.iter().any(|group| groups.contains(group)));
        self.count_pass(doomed.is_empty(), is_exact);
        let doomed: Vec<Pid> = doomed.into_iter().map(|(pid, _)| pid).collect();
        kill_all(&doomed);
        Ok(())
    }

    fn count_pass(&mut self, found_none: bool, is_exact: bool) {
        self.sweep.passes_without_strays = match found_none && is_exact {
            true => self.sweep.passes_without_strays + 1,
            false => 0,
        };
        if !found_none {
            // Others may be forked soon.
            self.sweep.pause = PAUSE;
        }
    }
}
