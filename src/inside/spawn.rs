//! [`command`]: starts every process of the server, code and helpers alike, from the same state.
//!
//! A process inherits more than its arguments from its parent: file descriptors, signal
//! dispositions, the terminal, limits, keys. Code must not depend on how the server was started, so
//! `clean` resets all of these between fork and exec. The table in [`server`](crate::server) lists
//! the result.
//!
//! `clean` runs in the forked child of a multi-threaded process, where threads that no longer exist
//! may hold locks. So it only makes system calls: no allocation, no lock, no panic.

#![expect(
    unsafe_code,
    reason = "only unsafe code can run between fork and exec; this is the one file that may"
)]

#[cfg(target_os = "linux")]
mod limits;

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use nix::libc;

/// A command whose process starts clean. By default it has no environment, the working directory
/// `/`, and `/dev/null` as stdin, stdout and stderr.
pub(crate) fn command(program: impl AsRef<OsStr>) -> tokio::process::Command {
    blocking_command(program).into()
}

/// [`command`] for callers without a runtime.
pub(crate) fn blocking_command(program: impl AsRef<OsStr>) -> Command {
    // The process inherits the keyring of this thread. A backend that depends on it calls
    // `own_keyring` and reports the error.
    #[cfg(target_os = "linux")]
    let _ = own_keyring();
    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: `clean` only makes system calls (see the top of this file).
    unsafe { command.pre_exec(clean) };
    command
}

/// Forks this process, which must have a single thread, and returns the PID of the child. The child
/// closes all descriptors except those in `keep`, calls `main` and exits. The argument of `main` is
/// the error if a descriptor could not be closed.
///
/// The start of a [`command`] blocks until the child has executed the program. A fork doesn't, so
/// code can't block the caller by stopping the child.
#[cfg(target_os = "linux")]
pub(super) fn fork(
    keep: &[std::os::fd::RawFd],
    main: impl FnOnce(io::Result<()>),
) -> io::Result<nix::unistd::Pid> {
    // SAFETY: this process has a single thread, so the child may call everything, not only
    // async-signal-safe functions.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let closed = close_all_except(keep);
            let main = std::panic::AssertUnwindSafe(|| main(closed));
            // A panic must not return to the code of the parent.
            match std::panic::catch_unwind(main) {
                // SAFETY: it ends this process at once, without the exit handlers of its parent.
                Ok(()) => unsafe { libc::_exit(0) },
                Err(_) => std::process::abort(),
            }
        }
    }
}

/// Sends a signal to a process, or with a negative `target` to the process group `-target`. Takes
/// every signal, while the type `Signal` of the crate nix lacks the real-time signals.
pub(crate) fn send_signal(target: i32, signal: i32) -> Result<(), nix::errno::Errno> {
    // SAFETY: the arguments are numbers.
    nix::errno::Errno::result(unsafe { libc::kill(target, signal) }).map(drop)
}

/// Greater than every descriptor. gVisor reads it as an `int`, so it must not be negative there.
#[cfg(target_os = "linux")]
const END_OF_DESCRIPTORS: u32 = i32::MAX.cast_unsigned();

/// Closes all descriptors except those in `keep`. Opens `/dev/null` as stdin, stdout and stderr.
#[cfg(target_os = "linux")]
fn close_all_except(keep: &[std::os::fd::RawFd]) -> io::Result<()> {
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    let mut keep: Vec<_> = keep.iter().map(|fd| fd.cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for kept in keep.into_iter().chain([END_OF_DESCRIPTORS]) {
        if kept > first {
            // SAFETY: the arguments are numbers. No object of this process uses these descriptors
            // from now on.
            let (first, last) = (first as usize, (kept - 1) as usize);
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_usize) };
            if closed == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        first = kept.saturating_add(1);
    }
    Ok(())
}

/// What a new process leads.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
pub(super) enum Leads {
    /// A new session without a terminal.
    Session,
    /// A new session, whose terminal is the stdin of the process. So Ctrl-C and job control work.
    SessionWithTerminal,
    /// A new process group, in the foreground of the terminal at its stdin. Its parent leads the
    /// session, and must block SIGTTOU.
    Foreground,
}

/// A command for the agent, without an environment. Its process starts as clean as the process of a
/// [`command`], with limits lowered to `limits`.
///
/// The agent itself starts clean: bubblewrap inherits the state of a [`command`], and gVisor starts
/// a new kernel. So this resets only what the agent and its forks change: the signal mask, the
/// session, and SIGPIPE, which std ignores. `limits` must include the number of open files, because
/// the agent raises that limit.
#[cfg(target_os = "linux")]
pub(super) fn limited_command(
    program: impl AsRef<OsStr>,
    limits: [(rustix::process::Resource, u64); 4],
    leads: Leads,
) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    let reset = move || {
        match leads {
            Leads::Session => drop(nix::unistd::setsid()?),
            Leads::SessionWithTerminal => {
                nix::unistd::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            Leads::Foreground => {
                let this = rustix::process::getpid();
                rustix::process::setpgid(None, None)?;
                rustix::termios::tcsetpgrp(rustix::stdio::stdin(), this)?;
            }
        }
        reset_signals(libc::SIGPIPE..=libc::SIGPIPE);
        limits::lower(limits)
    };
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(reset) };
    command
}

/// Makes the terminal at the stdin of the process of a [`command`] its controlling terminal, so
/// that Ctrl-C and job control work.
pub(crate) fn control_terminal(command: &mut Command) {
    let control = || Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?);
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(control) };
}

/// Sets every limit of this process as for a [`command`].
#[cfg(target_os = "linux")]
pub(super) fn reset_limits() -> io::Result<()> {
    limits::reset()
}

/// Lowers limits of this process.
#[cfg(target_os = "linux")]
pub(super) fn lower_limits(limits: [(rustix::process::Resource, u64); 4]) -> io::Result<()> {
    limits::lower(limits)
}

/// Limits the size of each file that the process of a command may write. Only lowers the limit.
#[cfg(target_os = "linux")]
pub(crate) fn limit_files(command: &mut tokio::process::Command, bytes: u64) {
    let limit = move || limits::lower([(rustix::process::Resource::Fsize, bytes)]);
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(limit) };
}

/// Lets the process of a command run under another user and group, without supplementary groups.
/// Only root may do this. The process runs `clean` before that, with the privileges of root.
#[cfg(target_os = "linux")]
pub(crate) fn run_as(command: &mut tokio::process::Command, user: u32) {
    use rustix::{
        process::{Gid, Uid},
        thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
    };
    let change = move || {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    };
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(change) };
}

/// Resets inherited state. Runs in the child, after its stdin, stdout and stderr are in place.
fn clean() -> io::Result<()> {
    // Starts a new session: no terminal, and a process group whose ID is the PID of this process.
    nix::unistd::setsid()?;
    #[cfg(target_os = "linux")]
    reset_signals(1..=64);
    #[cfg(not(target_os = "linux"))]
    reset_signals();
    #[cfg(target_os = "linux")]
    linux::clean()?;
    #[cfg(not(target_os = "linux"))]
    other::clean();
    Ok(())
}

/// Resets the dispositions of these signals, and the signal mask.
#[cfg(target_os = "linux")]
fn reset_signals(signals: std::ops::RangeInclusive<libc::c_int>) {
    // glibc refuses the two signals that it uses itself, so call the kernel directly. Zeros mean
    // `SIG_DFL`, no flags and an empty mask in the layout of every architecture.
    let zeros = [0_u64; 8];
    let size = 8_usize;
    for signal in signals {
        let signal = signal as usize;
        // SAFETY: the kernel reads one `sigaction`, at most 32 bytes, from `zeros` and writes
        // nothing. It refuses SIGKILL and SIGSTOP, which always have their default disposition.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, zeros.as_ptr(), none, size);
        }
    }
    let how = libc::SIG_SETMASK as usize;
    // SAFETY: the kernel reads `size` bytes from `zeros` and writes nothing.
    unsafe {
        let none = std::ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, how, zeros.as_ptr(), none, size);
    }
}

#[cfg(not(target_os = "linux"))]
fn reset_signals() {
    for signal in 1..32 {
        // SAFETY: async-signal-safe; an invalid number is an error that changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::own_keyring;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io,
        mem::MaybeUninit,
        num::NonZeroU64,
        os::fd::{AsRawFd, BorrowedFd},
    };

    use nix::libc;
    use rustix::{
        fs::{Mode, OFlags, RawDir, open},
        io::{Errno, FdFlags, fcntl_setfd, read, write},
        process::{getpriority_process, setpriority_process, umask},
        thread::{
            CapabilitySet, capabilities, clear_ambient_capability_set, set_capabilities,
            set_current_timer_slack, set_thread_groups,
        },
    };

    use super::limits;

    /// The kernel's default timer slack, in nanoseconds.
    const TIMER_SLACK: u64 = 50_000;

    pub(super) fn clean() -> io::Result<()> {
        umask(Mode::from_raw_mode(0o022));
        close_on_exec()?;
        reset_privileges()?;
        reset_scheduling()?;
        reset_personality()?;
        reset_oom_score()?;
        // Last, because the descriptors of the server are still open, and may be more than the new
        // limit allows.
        limits::reset()
    }

    /// Sets close-on-exec on every file descriptor above 2. They must stay open until exec, because
    /// std reports a failed exec through one of them.
    fn close_on_exec() -> io::Result<()> {
        let (first, last) = (3_usize, super::END_OF_DESCRIPTORS as usize);
        let flags = libc::CLOSE_RANGE_CLOEXEC as usize;
        // SAFETY: the arguments are numbers. With this flag the call closes nothing.
        match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
            0 => Ok(()),
            // Linux before 5.11 lacks this flag, and older seccomp filters refuse the call.
            _ => close_on_exec_one_by_one(),
        }
    }

    pub(super) fn close_on_exec_one_by_one() -> io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(c"/proc/self/fd", flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_str().ok().map(str::parse::<i32>);
            let Some(Ok(number)) = name else { continue };
            if number > 2 && number != directory.as_raw_fd() {
                // SAFETY: `/proc` has just listed it, and no other thread of this process can close
                // it.
                let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
                fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
            }
        }
        Ok(())
    }

    /// Drops supplementary groups, if this process may, and the capabilities that exec would pass
    /// on.
    fn reset_privileges() -> io::Result<()> {
        match set_thread_groups(&[]) {
            // Only root may drop groups. A process of another user keeps that user's groups.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        match clear_ambient_capability_set() {
            // Linux before 4.3 has no such set.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let mut sets = capabilities(None)?;
        sets.inheritable = CapabilitySet::empty();
        Ok(set_capabilities(None, sets)?)
    }

    /// Resets a priority above normal. Keeps a lower one, which may limit the server on purpose.
    fn reset_scheduling() -> io::Result<()> {
        let this = 0_usize;
        // SAFETY: the argument is a number.
        let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, this) };
        let policy = policy & !libc::c_long::from(libc::SCHED_RESET_ON_FORK);
        let real_time = [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE];
        if real_time.map(libc::c_long::from).contains(&policy) {
            let (normal, priority) = (libc::SCHED_OTHER as usize, 0 as libc::c_int);
            // SAFETY: the kernel reads one `sched_param`, which is an int.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_sched_setscheduler,
                    this,
                    normal,
                    &raw const priority,
                )
            };
            succeeded(set)?;
        }
        if getpriority_process(None)? < 0 {
            setpriority_process(None, 0)?;
        }
        match set_current_timer_slack(NonZeroU64::new(TIMER_SLACK)) {
            // gVisor has no timer slack.
            Ok(()) | Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        reset_io_priority()
    }

    fn reset_io_priority() -> io::Result<()> {
        const WHO_PROCESS: usize = 1;
        const REAL_TIME: libc::c_long = 1;
        const BEST_EFFORT: libc::c_long = 2;
        const NORMAL_LEVEL: libc::c_long = 4;
        // SAFETY: the arguments are numbers.
        let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0_usize) };
        // If the call is not available, it returns -1, which matches no class.
        let (class, level) = (priority >> 13, priority & 7);
        if class == REAL_TIME || class == BEST_EFFORT && level < NORMAL_LEVEL {
            // SAFETY: the arguments are numbers.
            let set = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0_usize, 0_usize) };
            succeeded(set)?;
        }
        Ok(())
    }

    /// Resets the personality. Otherwise `setarch -R` on the server would turn off address space
    /// layout randomisation (ASLR) for code.
    fn reset_personality() -> io::Result<()> {
        const QUERY: usize = 0xffff_ffff;
        // SAFETY: the argument is a number.
        let current = unsafe { libc::syscall(libc::SYS_personality, QUERY) };
        if current > 0 {
            // SAFETY: the argument is a number.
            succeeded(unsafe { libc::syscall(libc::SYS_personality, 0_usize) })?;
        }
        Ok(())
    }

    /// Raises a negative out-of-memory score to 0. Otherwise code would inherit the protection of a
    /// server that runs with `OOMScoreAdjust=-900`.
    fn reset_oom_score() -> io::Result<()> {
        let file = match open(
            c"/proc/self/oom_score_adj",
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => file,
            // `/proc` is missing or read-only.
            Err(Errno::NOENT | Errno::ACCESS | Errno::ROFS) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut score = [0; 16];
        let length = read(&file, &mut score)?;
        // Write the score even if it doesn't change: if root writes it, code can't lower it again.
        let score = match score.get(..length) {
            Some([b'-', ..]) | None => b"0",
            Some(score) => score,
        };
        write(&file, score)?;
        Ok(())
    }

    fn succeeded(result: libc::c_long) -> io::Result<()> {
        match result {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Gives the current thread its own session keyring, once. The processes that the thread starts
    /// share it, and can't reach the keys in the session keyring of the user who started the
    /// server. Processes share one keyring because a user may have only 200 keys by default. The
    /// error says why the user's keys would be exposed.
    pub(crate) fn own_keyring() -> Result<(), String> {
        std::thread_local! {
            static JOINED: Result<(), String> = join_keyring();
        }
        JOINED.with(Clone::clone)
    }

    fn join_keyring() -> Result<(), String> {
        let keyctl = |operation: u32, argument: i64| {
            let (operation, argument) = (operation as usize, argument as isize);
            // SAFETY: neither operation writes to memory. A null pointer means a keyring without a
            // name.
            succeeded(unsafe { libc::syscall(libc::SYS_keyctl, operation, argument, 0_usize) })
        };
        let Err(error) = keyctl(libc::KEYCTL_JOIN_SESSION_KEYRING, 0) else {
            return Ok(());
        };
        let session = i64::from(libc::KEY_SPEC_SESSION_KEYRING);
        let is_refused =
            |error: io::Error| matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
        // The kernel has no keys, or a container's seccomp filter refuses the calls. Code inherits
        // that filter.
        if keyctl(libc::KEYCTL_GET_KEYRING_ID, session).is_err_and(is_refused) {
            return Ok(());
        }
        // gVisor of 2022 has no keys, and refuses every operation with EACCES. A kernel with keys
        // answers EOPNOTSUPP to an operation that doesn't exist.
        const NO_OPERATION: u32 = u32::MAX;
        let is_denied = |error: io::Error| error.raw_os_error() == Some(libc::EACCES);
        if keyctl(NO_OPERATION, 0).is_err_and(is_denied) {
            return Ok(());
        }
        Err(match error.raw_os_error() {
            Some(libc::EDQUOT) => "cannot create a session keyring, so code could reach \
                 the keys of this user: this user has reached the kernel's limit on keys \
                 (`kernel.keys.maxkeys`); `/proc/keys` lists them"
                .to_owned(),
            _ => format!(
                "cannot create a session keyring, so code could reach the keys of this user: \
                 {error}"
            ),
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use nix::{libc, sys::resource};

    /// Maximum number of file descriptors to check if the limit is higher.
    const MAX_DESCRIPTORS: u64 = 65_536;

    pub(super) fn clean() {
        // SAFETY: the argument is a number.
        unsafe { libc::umask(0o022) };
        let _ = resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0);
        let limit = resource::getrlimit(resource::Resource::RLIMIT_NOFILE);
        let limit = limit.map_or(MAX_DESCRIPTORS, |(soft, _)| soft.min(MAX_DESCRIPTORS));
        for descriptor in 3..limit as libc::c_int {
            // SAFETY: the arguments are numbers. A descriptor that is not open causes a harmless
            // error.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::{
        io::FdFlags,
        process::{Resource, Rlimit},
    };

    use super::*;

    #[test]
    fn descriptors_close_on_exec_without_close_range() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        rustix::io::fcntl_setfd(&one, FdFlags::empty()).unwrap();
        let has_it = |mut command: Command| {
            let test = format!("test -e /proc/self/fd/{}", one.as_raw_fd());
            command.args(["-c", &test]).status().unwrap().success()
        };
        assert!(has_it(Command::new("/bin/sh")));
        let mut command = Command::new("/bin/sh");
        // SAFETY: it only makes system calls. The forked child has no other thread.
        unsafe { command.pre_exec(linux::close_on_exec_one_by_one) };
        assert!(!has_it(command));
    }

    #[test]
    fn a_server_with_many_open_files_starts_processes() {
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        let more = Rlimit {
            current: hard,
            maximum: hard,
        };
        rustix::process::setrlimit(Resource::Nofile, more).unwrap();
        let open = || fs::File::open("/dev/null");
        // More than the soft limit of the new process.
        let files: Result<Vec<_>, _> = (0..1_100).map(|_| open()).collect();
        if files.is_err() {
            println!("not tried: the hard limit on open files is too low");
            return;
        }
        assert!(blocking_command("/bin/true").status().unwrap().success());
    }

    #[test]
    fn a_program_that_is_missing_is_an_error() {
        let error = blocking_command("/no/program").spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
