//! Pins the server to one core and the client to another. Otherwise the placement of threads by the
//! scheduler affects a round trip more than the code does, and differently for each side of a
//! ratio.
//!
//! New threads and processes inherit the cores of the thread that starts them.

#[cfg(target_os = "linux")]
mod linux {
    use nix::{
        sched::{CpuSet, sched_setaffinity},
        unistd::Pid,
    };

    fn number() -> usize {
        use nix::unistd::{SysconfVar, sysconf};
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        online.and_then(|it| usize::try_from(it).ok()).unwrap_or(1)
    }

    pub(super) fn run_on(chosen: impl Fn(usize, usize) -> bool) {
        let mut cores = CpuSet::new();
        let number = number().min(CpuSet::count());
        for core in (0..number).filter(|&core| chosen(core, number)) {
            cores.set(core).expect("a core");
        }
        // If the system doesn't allow this, the scheduler places both sides.
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    pub(super) fn run_on(_: impl Fn(usize, usize) -> bool) {}
}

/// Pins this thread to the client's core.
pub(crate) fn of_the_client() {
    linux::run_on(|core, _| core == 0);
}

/// Pins this thread to the server's core.
pub(crate) fn of_the_server() {
    linux::run_on(|core, number| core + 1 == number);
}

/// Lets this thread run on any core.
pub(crate) fn all() {
    linux::run_on(|_, _| true);
}
