"""Tries each system call that a namespace sandbox blocks, and prints `name: error` for each.

Every argument is -1, which each of these calls refuses. So a call does nothing, even if it is not
blocked. The numbers are those of x86_64. The call `uprobe` is left out: filters don't apply to it.
"""

import ctypes
import errno
import os
import sys

CALLS = {
    "syslog": 103,
    "uselib": 134,
    "ustat": 136,
    "sysfs": 139,
    "vhangup": 153,
    "pivot_root": 155,
    "_sysctl": 156,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "create_module": 174,
    "init_module": 175,
    "delete_module": 176,
    "get_kernel_syms": 177,
    "query_module": 178,
    "quotactl": 179,
    "nfsservctl": 180,
    "getpmsg": 181,
    "putpmsg": 182,
    "afs_syscall": 183,
    "tuxcall": 184,
    "security": 185,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "vserver": 236,
    "mbind": 237,
    "set_mempolicy": 238,
    "get_mempolicy": 239,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "migrate_pages": 256,
    "unshare": 272,
    "move_pages": 279,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "open_by_handle_at": 304,
    "setns": 308,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "set_mempolicy_home_node": 450,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}

if os.uname().machine != "x86_64":
    sys.exit("the numbers in this program are those of x86_64")

# `vhangup` has no arguments. It hangs up the terminal of the session, so leave the session.
if os.fork() != 0:
    _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))
os.setsid()

syscall = ctypes.CDLL(None, use_errno=True).syscall
syscall.restype = ctypes.c_long
arguments = [ctypes.c_long(-1)] * 6
for name, number in CALLS.items():
    ctypes.set_errno(0)
    failed = syscall(ctypes.c_long(number), *arguments) == -1
    error = ctypes.get_errno()
    print(f"{name}: {errno.errorcode.get(error, error) if failed else 'allowed'}", flush=True)
