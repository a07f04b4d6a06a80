//! Which cores the two sides run on. The server has one for itself and the client another: where the scheduler puts threads that
//! wake each other decides more of a round trip than what they do, and differently for each side of a ratio.
//!
//! Threads and processes that are begun run where the thread does that begins them.

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
        // Where this is not allowed, the scheduler decides for both sides.
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    pub(super) fn run_on(_: impl Fn(usize, usize) -> bool) {}
}

/// From now on this thread is one of the client's.
pub(crate) fn of_the_client() {
    linux::run_on(|core, _| core == 0);
}

/// From now on this thread is one of the server's.
pub(crate) fn of_the_server() {
    linux::run_on(|core, number| core + 1 == number);
}

/// From now on this thread runs anywhere.
pub(crate) fn all() {
    linux::run_on(|_, _| true);
}
