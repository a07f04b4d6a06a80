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
mod tests {
    use std::{
        io::Write,
        net::UdpSocket,
        os::unix::net::UnixStream,
        process::{Command, Output},
        thread,
    };

    use nix::{
        errno::Errno,
        libc::{
            self, BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
            BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
        },
        sched::{CloneFlags, unshare},
    };
    use rustix::process::{Resource, getpid, getrlimit, prlimit, setrlimit};

    use super::*;

    /// What Docker blocks without capabilities: all system calls of x86_64 that are not in
    /// [`ALLOWED`]. Some only exist in old kernels.
    const BLOCKED: &str = "
        _sysctl acct add_key afs_syscall bpf chroot clock_settime clone3 create_module delete_module
        fanotify_init file_getattr file_setattr finit_module fsconfig fsmount fsopen fspick
        get_kernel_syms get_mempolicy getpmsg init_module io_uring_enter io_uring_register
        io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie
        lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages mount mount_setattr
        move_mount move_pages nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open
        pidfd_getfd pivot_root process_madvise putpmsg query_module quotactl quotactl_fd reboot
        request_key security set_mempolicy set_mempolicy_home_node setdomainname sethostname setns
        settimeofday swapoff swapon sysfs syslog tuxcall umount2 unshare uprobe uselib userfaultfd
        ustat vhangup vserver
    ";

    const DENY: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    /// The kernel's number of the architecture of this build.
    const HERE: u32 = if cfg!(target_arch = "x86_64") {
        0xc000_003e
    } else if cfg!(target_arch = "aarch64") {
        0xc000_00b7
    } else {
        0xc000_00f3
    };

    /// Runs a program as the kernel does, and returns its verdict.
    fn run(program: &Program, architecture: u32, number: u32, arguments: &[u64]) -> u32 {
        let load = |offset: u32| match offset {
            0 => number,
            4 => architecture,
            16..64 => {
                let all = arguments.get((offset as usize - 16) / 8).unwrap_or(&0);
                (all >> (offset % 8 * 8)) as u32
            }
            offset => panic!("offset {offset}"),
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let it = &program[at];
            at += 1;
            match u32::from(it.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = load(it.k),
                code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= it.k,
                code if code == BPF_JMP | BPF_JA => at += it.k as usize,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    at += usize::from(if accumulator == it.k { it.jt } else { it.jf });
                }
                code if code == BPF_RET | BPF_K => return it.k,
                code => panic!("step {code}"),
            }
        }
    }

    /// The verdict on a call of this architecture. `None` if it has no such call.
    fn verdict(program: &Program, name: &str, arguments: &[u64]) -> Option<u32> {
        let number = u32::try_from(machine::number(name)?).unwrap();
        Some(run(program, HERE, number, arguments))
    }

    fn standard() -> Program {
        program(&[]).unwrap()
    }

    fn allows(name: &str, arguments: &[u64]) -> bool {
        match verdict(&standard(), name, arguments).expect(name) {
            SECCOMP_RET_ALLOW => true,
            DENY => false,
            verdict => panic!("{name}: {verdict:x}"),
        }
    }

    #[test]
    fn what_docker_blocks_is_blocked() {
        let program = standard();
        let mut checked = 0;
        for name in BLOCKED.split_ascii_whitespace() {
            if let Some(verdict) = verdict(&program, name, &[]) {
                assert_eq!(verdict, DENY, "{name}");
                checked += 1;
            }
        }
        assert!(checked > 50, "{checked}");
    }

    #[test]
    fn the_scheduling_of_the_agent_cannot_be_changed() {
        for call in [
            "sched_setaffinity",
            "sched_setattr",
            "sched_setparam",
            "sched_setscheduler",
        ] {
            assert!(allows(call, &[0]) && allows(call, &[7]), "{call}");
            assert!(
                !allows(call, &[1]) && !allows(call, &[1 << 32 | 1]),
                "{call}"
            );
        }
        for (call, process, user) in [("setpriority", 0, 2), ("ioprio_set", 1, 3)] {
            for scope in [process, process + 1] {
                assert!(
                    allows(call, &[scope, 0, 1]) && allows(call, &[scope, 7, 1]),
                    "{call}"
                );
                assert!(!allows(call, &[scope, 1, 1]), "{call}");
            }
            assert!(
                !allows(call, &[user, 0, 1]) && !allows(call, &[user, 1000, 1]),
                "{call}"
            );
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_call_is_either_allowed_or_blocked() {
        let program = standard();
        for number in 0..1_000 {
            let call = syscalls::Sysno::new(number as usize);
            let name = call.map_or("", |call| call.name());
            let listed = allowed().any(|it| it == name);
            let blocked = BLOCKED.split_ascii_whitespace().any(|it| it == name);
            assert!(call.is_none() || listed != blocked, "{name}");
            // The first argument of `socket` and `socketpair` is `AF_UNIX`, which is allowed.
            let arguments = [u64::from(name.starts_with("socket"))];
            let verdict = run(&program, HERE, number, &arguments);
            assert_eq!(verdict == SECCOMP_RET_ALLOW, listed, "{name}: {verdict:x}");
        }
    }

    #[test]
    fn what_programs_need_is_allowed() {
        let program = standard();
        let needed = "
            access arch_prctl brk capget capset chdir chmod clock_getres clock_gettime
            clock_nanosleep clone close close_range connect accept4 bind listen copy_file_range dup
            dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve execveat exit
            exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fcntl
            fdatasync flock fork fstat fstatfs fsync ftruncate futex futex_waitv getcpu getcwd
            getdents64 getegid geteuid getgid getgroups getpeername getpgid getpgrp getpid getppid
            getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname
            getsockopt gettid gettimeofday getuid inotify_add_watch inotify_init1 ioctl kill link
            linkat lseek lstat madvise membarrier memfd_create mincore mkdir mkdirat mlock mmap
            mprotect mremap msync munmap nanosleep newfstatat open openat openat2 pidfd_open
            pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64
            preadv prlimit64 pselect6 ptrace pwrite64 pwritev read readlink readlinkat readv
            recvfrom recvmmsg recvmsg rename renameat2 restart_syscall rmdir rseq rt_sigaction
            rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
            sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam
            sched_getscheduler sched_setaffinity sched_setparam sched_setscheduler sched_yield
            select semctl semget semop sendfile sendmmsg sendmsg sendto set_robust_list
            set_tid_address setgid setgroups setitimer setpgid setpriority setresgid setresuid
            setrlimit setsid setsockopt setuid shmat shmctl shmdt shmget shutdown sigaltstack
            signalfd4 splice stat statfs statx symlink symlinkat sysinfo tgkill timer_create
            timer_settime timerfd_create timerfd_settime times tkill truncate umask uname unlink
            unlinkat utimensat vfork wait4 waitid write writev
        ";
        for name in needed.split_ascii_whitespace() {
            assert!(is_call(name), "{name}");
            let verdict = verdict(&program, name, &[]);
            assert!(matches!(verdict, None | Some(SECCOMP_RET_ALLOW)), "{name}");
        }
        // These calls exist on every architecture.
        for name in ["openat", "newfstatat", "mmap", "execve", "clone", "wait4"] {
            assert!(allows(name, &[]), "{name}");
        }
    }

    #[test]
    fn clone_creates_processes_and_threads_but_no_namespaces() {
        let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_THREAD | libc::CLONE_SETTLS;
        for flags in [libc::SIGCHLD, libc::CLONE_VFORK | libc::CLONE_VM, thread] {
            assert!(allows("clone", &[flags as u64]), "{flags:x}");
        }
        for new in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
        ] {
            for flags in [new, new | libc::SIGCHLD] {
                assert!(!allows("clone", &[flags as u64]), "{flags:x}");
            }
            assert!(!allows("clone", &[u64::MAX << 32 | new as u64]), "{new:x}");
        }
    }

    #[test]
    fn personality_takes_only_the_values_that_docker_allows() {
        for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff, u64::MAX] {
            assert!(allows("personality", &[value]), "{value:x}");
        }
        // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO.
        for value in [0x004_0000, 0x040_0000, 0x010_0000, 0x006_0000, 1] {
            assert!(!allows("personality", &[value]), "{value:x}");
        }
    }

    #[test]
    fn sockets_are_unix_ip_or_netlink() {
        let allowed = [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
        ];
        for family in 0..64 {
            for call in ["socket", "socketpair"] {
                let verdict = allows(call, &[family as u64, 1, 0]);
                assert_eq!(verdict, allowed.contains(&family), "{call} {family}");
            }
        }
        assert!(!allows("socket", &[libc::AF_VSOCK as u64]));
        assert!(!allows("socket", &[1 << 32 | libc::AF_PACKET as u64]));
    }

    #[test]
    fn terminals_accept_no_input_by_ioctl() {
        // TCGETS, TIOCGWINSZ, TIOCSPGRP, FIONREAD, FICLONE.
        for request in [0x5401, 0x5413, 0x5410, 0x541b, 0x4004_9409] {
            assert!(allows("ioctl", &[0, request, 1]), "{request:x}");
        }
        assert_eq!((libc::TIOCSTI, libc::TIOCLINUX), (0x5412, 0x541c));
        for request in [0x5412, 0x541c] {
            assert!(!allows("ioctl", &[0, request, 1]), "{request:x}");
            assert!(!allows("ioctl", &[0, 1 << 32 | request, 1]));
        }
    }

    #[test]
    fn limits_of_other_processes_can_only_be_read() {
        let limit = 7; // RLIMIT_NOFILE
        for new in [0, 0x7fff_0000_1000] {
            assert!(allows("prlimit64", &[0, limit, new, 1]), "own, {new:x}");
            assert!(allows("prlimit64", &[1 << 32, limit, new, 1]), "{new:x}");
        }
        assert!(allows("prlimit64", &[1, limit, 0, 0x1000]));
        for new in [1, 0x7fff_0000_1000, 0x7fff_0000_0000] {
            assert!(!allows("prlimit64", &[1, limit, new, 0]), "{new:x}");
        }
    }

    #[test]
    fn calls_of_another_interface_are_never_allowed() {
        let program = standard();
        // i386, arm, riscv32 and an unknown one. A number means another call there than here.
        for architecture in [0x4000_0003, 0x4000_0028, 0x4000_00f3, 0] {
            for number in [0, 1, 3, 63, 64] {
                let verdict = run(&program, architecture, number, &[]);
                assert_eq!(
                    verdict, SECCOMP_RET_KILL_PROCESS,
                    "{architecture:x} {number}"
                );
            }
        }
        // The x32 calls of x86_64.
        for number in 0..1_000 {
            assert_eq!(run(&program, HERE, 0x4000_0000 | number, &[]), DENY);
        }
        for number in [1_000, 0x7fff_ffff, u32::MAX] {
            assert_eq!(run(&program, HERE, number, &[]), DENY, "{number:x}");
        }
    }

    #[test]
    fn a_denied_call_is_blocked_and_no_other() {
        let names = ["ptrace", "newfstatat", "socket", "mount"].map(String::from);
        let program = program(&names).unwrap();
        for name in &names {
            assert_eq!(verdict(&program, name, &[1]), Some(DENY), "{name}");
        }
        for name in allowed().filter(|it| !names.iter().any(|name| name == it)) {
            let arguments = [u64::from(name == "socketpair")];
            let verdict = verdict(&program, name, &arguments);
            assert!(matches!(verdict, None | Some(SECCOMP_RET_ALLOW)), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused() {
        for name in ["ptrac", "", "PTRACE", "read write", "socket\n"] {
            assert!(!is_call(name), "{name}");
            let error = program(&["ptrace".to_owned(), name.to_owned()]).unwrap_err();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        // Some of these exist only on some architectures. Others are blocked anyway.
        for name in [
            "open",
            "riscv_hwprobe",
            "modify_ldt",
            "mount",
            "io_uring_setup",
        ] {
            assert!(is_call(name), "{name}");
            program(&[name.to_owned()]).expect(name);
        }
    }

    /// Calls `test` in a thread to which the filter applies.
    fn filtered<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(|| {
            apply(&standard()).unwrap();
            test()
        });
        thread.join().unwrap()
    }

    #[track_caller]
    fn stdout(output: Output) -> String {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_kernel_refuses_what_the_filter_blocks() {
        // Without the filter, these calls succeed: they change nothing.
        let limit = getrlimit(Resource::Core);
        unshare(CloneFlags::empty()).unwrap();
        prlimit(Some(getpid()), Resource::Core, limit).unwrap();
        filtered(move || {
            assert_eq!(unshare(CloneFlags::empty()), Err(Errno::ENOSYS));
            let refused = prlimit(Some(getpid()), Resource::Core, limit).unwrap_err();
            assert_eq!(refused, rustix::io::Errno::NOSYS);
            setrlimit(Resource::Core, limit).unwrap();
        });
    }

    #[test]
    fn programs_run_under_the_filter() {
        filtered(|| {
            stdout(Command::new("/bin/true").output().unwrap());
            let bash = "cat <(echo a) | tr a b; (exit 3) || echo $?; ulimit -c 0; sleep 0 & wait";
            let bash = Command::new("bash").args(["-c", bash]).output();
            assert_eq!(stdout(bash.unwrap()), "b\n3\n");
            let python = "
import asyncio, multiprocessing, subprocess, tempfile, threading
thread = threading.Thread(target=print, args=('thread',), kwargs={'flush': True})
thread.start()
thread.join()
print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout, end='')
with tempfile.NamedTemporaryFile() as file:
    file.write(b'x')
asyncio.run(asyncio.sleep(0))
with multiprocessing.get_context('fork').Pool(1) as pool:
    print(pool.apply(len, ('abc',)))
";
            let python = Command::new("python3").args(["-c", python]).output();
            assert_eq!(stdout(python.unwrap()), "thread\nchild\n3\n");

            thread::spawn(|| UdpSocket::bind("127.0.0.1:0").unwrap())
                .join()
                .unwrap();
            UnixStream::pair().unwrap().0.write_all(b"x").unwrap();
        });
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn each_blocked_call_fails_as_if_the_kernel_lacked_it() {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/confined/blocked_calls.py"
        );
        let lines = filtered(move || stdout(Command::new("python3").arg(script).output().unwrap()));
        let mut names: Vec<_> = lines
            .lines()
            .map(|line| line.strip_suffix(": ENOSYS").expect(line))
            .collect();
        names.sort_unstable();
        // Filters don't apply to `uprobe`. The kernel itself refuses that call from ordinary code.
        let blocked = BLOCKED.split_ascii_whitespace();
        let blocked: Vec<_> = blocked.filter(|name| *name != "uprobe").collect();
        assert_eq!(names, blocked);
    }
}
