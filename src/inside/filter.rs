//! [`program`]: the seccomp filter of a sandbox in namespaces, which limits the system calls of all
//! code in it. No IO, except in [`apply`].
//!
//! The filter allows the system calls that Docker allows to a container without capabilities, with
//! the differences that [`program`] lists. Its purpose is to keep code away from parts of the
//! kernel that ordinary programs don't use: those parts have had many of the kernel's
//! vulnerabilities.

/// A compiled filter, for [`apply`].
pub(crate) type Program = machine::Program;

/// Compiles the filter. `denied` holds the names of further system calls to block.
///
/// The filter is Docker's default profile (`seccomp/default.json` in moby/profiles) for containers
/// without capabilities, with these differences:
///
/// - `socket` and `socketpair` only create Unix, IPv4, IPv6 and netlink sockets. Docker allows
///   every family but `AF_ALG` and `AF_VSOCK`.
/// - `ioctl` can't put input into a terminal (`TIOCSTI`, `TIOCLINUX`).
/// - `prlimit64` can set limits only if its process ID is 0, which means the calling process. It
///   can read the limits of every process. The kernel lets a process change the limits of every
///   process of its user, so code could otherwise change the limits of the agent.
/// - The calls that set a priority, a scheduling policy or an affinity can't name the agent, nor
///   all processes of the user.
/// - A call through another system call interface of the machine kills the process. On x86_64, this
///   means that 32-bit programs can't run. The x32 calls fail like blocked calls.
///
/// As in Docker, `clone` can't create namespaces, `personality` only accepts values that don't
/// weaken the process, and `ptrace` is allowed: since Linux 4.8, a tracer can't bypass the filter.
///
/// A blocked call fails with `ENOSYS`, as on a kernel that was built without it. Docker uses
/// `EPERM`, and makes an exception for `clone3`. `ENOSYS` is what libraries and runtimes expect of
/// a call that may be missing: they fall back to an older call. For example, glibc falls back from
/// `clone3` to `clone`, whose flags the filter can read, and libuv from io_uring to epoll. They
/// don't fall back after `EPERM`, and fail.
///
/// Fails if a name in `denied` is not a system call, or if this machine has an architecture that
/// the filter doesn't support. It doesn't check whether programs can work without the denied calls.
pub(crate) fn program(denied: &[String]) -> Result<Program, String> {
    match denied.iter().find(|name| !is_call(name)) {
        None => machine::compile(denied),
        Some(name) => Err(format!(
            "`{name}` is not a system call of this machine; use the names that strace prints"
        )),
    }
}

/// Applies the filter to the calling thread and to all processes that it will start. Also sets
/// `no_new_privs`, without which the kernel would require `CAP_SYS_ADMIN`.
/// The filter of code in gVisor. It only keeps a process in the supplementary group of its exec: in
/// a user namespace of its own, a process would have the privilege to leave the group.
pub(crate) fn keep_groups() -> Result<Program, String> {
    machine::compile_keep_groups()
}

pub(crate) fn apply(program: &Program) -> Result<(), String> {
    machine::apply(program)
}

/// Whether this is the name of a system call that [`program`] can deny.
pub(crate) fn is_call(name: &str) -> bool {
    allowed().any(|it| it == name) || machine::number(name).is_some()
}

fn allowed() -> impl Iterator<Item = &'static str> {
    ALLOWED.split_ascii_whitespace()
}

/// The allowed system calls of all architectures. `conditions` limits the arguments of some.
///
/// These are the calls that Docker's default profile allows without capabilities. The list leaves
/// out calls that only 32-bit machines have.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod
    chown clock_adjtime clock_getres clock_gettime clock_nanosleep clone close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat
    fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr
    fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid
    getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
    mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
    nanosleep newfstatat open openat openat2 pause personality pidfd_open pidfd_send_signal pipe
    pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
    process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid
    setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl
    shmdt shmget shutdown sigaltstack signalfd signalfd4 socket socketpair splice stat statfs
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime
    utimensat utimes vfork vmsplice wait4 waitid write writev
";

/// The part that depends on the crates `seccompiler` and `syscalls`, which don't support every
/// architecture of Linux.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
mod machine {
    use std::{collections::BTreeMap, env::consts::ARCH, str::FromStr};

    use nix::libc;
    use seccompiler::{
        BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule,
    };
    use syscalls::Sysno;

    pub(super) type Program = seccompiler::BpfProgram;

    /// The flags of `clone` that create namespaces. `CLONE_NEWTIME` is missing, because `clone`
    /// reads that bit as part of the exit signal.
    const NEW_NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;

    const SOCKET_FAMILIES: [i32; 4] = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];

    /// The allowed arguments of `personality`: Linux and 32-bit Linux, each with and without the
    /// version number 2.6 (`UNAME26`), and the value that only returns the current personality.
    const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

    /// The requests of `ioctl` that put input into a terminal: TIOCSTI, and TIOCLINUX, which can
    /// paste. They have the same numbers on all supported architectures.
    const TERMINAL_INPUT: [u64; 2] = [0x5412, 0x541c];

    /// The PID of the agent. The processes that it starts inherit its priority, its scheduling
    /// policy and its affinity.
    const AGENT: u64 = 1;

    /// The number of a system call, if this architecture has it.
    pub(super) fn number(name: &str) -> Option<i64> {
        // The crate has its own name for this call on aarch64.
        let name = match name {
            "newfstatat" if ARCH == "aarch64" => "fstatat",
            name => name,
        };
        Some(Sysno::from_str(name).ok()?.id().into())
    }

    pub(super) fn compile(denied: &[String]) -> Result<Program, String> {
        try_compile(denied)
            .map_err(|error| format!("the seccomp filter can't be compiled: {error}"))
    }

    fn try_compile(denied: &[String]) -> Result<Program, BackendError> {
        let mut rules = BTreeMap::new();
        for name in super::allowed() {
            if let Some(number) = number(name) {
                rules.insert(number, conditions(name)?);
            }
        }
        for number in denied.iter().filter_map(|name| number(name)) {
            rules.remove(&number);
        }
        let blocked = SeccompAction::Errno(libc::ENOSYS as u32);
        SeccompFilter::new(rules, blocked, SeccompAction::Allow, ARCH.try_into()?)?.try_into()
    }

    pub(super) fn compile_keep_groups() -> Result<Program, String> {
        let try_compile = || {
            let rules = number("setgroups").map(|number| (number, Vec::new()));
            let refused = SeccompAction::Errno(libc::EPERM as u32);
            let rules = rules.into_iter().collect();
            SeccompFilter::new(rules, SeccompAction::Allow, refused, ARCH.try_into()?)?.try_into()
        };
        try_compile()
            .map_err(|error: BackendError| format!("the seccomp filter can't be compiled: {error}"))
    }

    pub(super) fn apply(program: &Program) -> Result<(), String> {
        seccompiler::apply_filter(program)
            .map_err(|error| format!("the kernel refuses the seccomp filter: {error}"))
    }

    /// The rules for the arguments of a call. The call is allowed if one rule matches. Without a
    /// rule, it is always allowed.
    ///
    /// A filter can't read memory, so a rule can't look at what a pointer points to.
    fn conditions(name: &str) -> Result<Vec<SeccompRule>, BackendError> {
        use SeccompCmpOp::{Eq, MaskedEq, Ne};
        match name {
            "clone" => {
                let mask = NEW_NAMESPACES as u64;
                Ok(vec![rule([int(0, MaskedEq(mask), 0)])?])
            }
            // The first argument is the scope: a process, a process group or a user.
            "ioprio_set" | "setpriority" => {
                let user = if name == "setpriority" { 2 } else { 3 };
                Ok(vec![rule([int(0, Ne, user), int(1, Ne, AGENT)])?])
            }
            "sched_setaffinity" | "sched_setattr" | "sched_setparam" | "sched_setscheduler" => {
                Ok(vec![rule([int(0, Ne, AGENT)])?])
            }
            "ioctl" => Ok(vec![rule(
                TERMINAL_INPUT.map(|request| int(1, Ne, request)),
            )?]),
            "personality" => PERSONALITIES
                .into_iter()
                .map(|value| rule([int(0, Eq, value)]))
                .collect(),
            "prlimit64" => {
                let own_process = int(0, Eq, 0);
                let no_new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, Eq, 0);
                Ok(vec![rule([own_process])?, rule([no_new_limit])?])
            }
            "socket" | "socketpair" => SOCKET_FAMILIES
                .into_iter()
                .map(|family| rule([int(0, Eq, family as u64)]))
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    /// A rule that matches if all conditions hold.
    fn rule<const N: usize>(
        conditions: [Result<SeccompCondition, BackendError>; N],
    ) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
    }

    /// A condition on an argument of which the kernel reads only the lower 32 bits.
    fn int(
        argument: u8,
        operator: SeccompCmpOp,
        value: u64,
    ) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    }
}

/// Other architectures have no filter.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
mod machine {
    use std::{convert::Infallible, env::consts::ARCH};

    pub(super) type Program = Infallible;

    pub(super) fn number(_name: &str) -> Option<i64> {
        None
    }

    pub(super) fn compile(_denied: &[String]) -> Result<Program, String> {
        Err(format!(
            "there is no seccomp filter for {ARCH}, only for x86_64, aarch64 and riscv64"
        ))
    }

    pub(super) fn compile_keep_groups() -> Result<Program, String> {
        compile(&[])
    }

    pub(super) fn apply(program: &Program) -> Result<(), String> {
        match *program {}
    }
}

#[cfg(test)]
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
mod tests;
