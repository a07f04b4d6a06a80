//! Tests of the filter: its program, run as the kernel runs it, and the filter in a real thread.

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
        self, BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
        SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
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
