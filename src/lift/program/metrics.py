"""`metrics`: measures the processes and the files of the sandbox.

In a PID namespace of its own, the sandbox consists of all processes that this program sees. In the
initial PID namespace of a machine, these would be the processes of the machine. There, only this
program and its descendants count, and background processes whose parents have ended are missing.
"""

import errno
import os
import resource

from .builtins import BuiltinError

# Maximum number of file names that are counted. Bounds the time of a walk.
MAX_NAMES = 1000000
# Minimum size counted for a file name, in bytes.
NAME_BYTES = 4096
# How many names to count before looking whether the client killed the operation.
NAMES_PER_CHECK = 256

# The errors for a file that code has removed, replaced or locked.
CHANGED = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
)

# The number of the initial PID namespace, a constant of Linux.
INITIAL_PID_NAMESPACE = "pid:[4026531836]"


def metrics(request, io):
    """Returns what the sandbox uses, and its limits as far as the kernel enforces them here."""
    try:
        stats = read_stats()
        is_confined = not is_on_the_machine()
        members = stats if is_confined else descendants(stats, os.getpid())
        result = usage(members)
        result["disk_bytes"] = disk_bytes(trees(io.home), io.check, MAX_NAMES)
        result["uptime_ms"] = uptime_ms(stats, is_confined)
    except OSError as error:
        raise failed(error.strerror)
    result["limits"] = limits()
    return result


def failed(reason):
    return BuiltinError("other", "cannot measure the sandbox: %s" % reason)


def is_on_the_machine():
    """Whether this program sees the processes of the machine."""
    try:
        return os.readlink("/proc/self/ns/pid") == INITIAL_PID_NAMESPACE
    except OSError:
        return False


# Processes


class Stat:
    """A process, as /proc/PID/stat describes it."""

    def __init__(self, pid, line):
        # The name of the program is in parentheses, and may hold any bytes.
        fields = line[line.rindex(b")") + 1 :].split()
        self.pid = pid
        # The process has ended, and its parent has not waited for it.
        self.is_dead = fields[0] in (b"Z", b"X")
        self.parent = int(fields[1])
        # The fields `utime`, `stime`, `cutime` and `cstime`: also of the children that the process
        # has waited for.
        self.ticks = sum(max(int(field), 0) for field in fields[11:15])
        self.start_ticks = int(fields[19])
        self.pages = max(int(fields[21]), 0)


def read_stats():
    """Returns the `Stat` of each process by its number. Leaves out those that have ended."""
    stats = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        line = read_process_file(name, "stat")
        try:
            stats[int(name)] = Stat(int(name), line)
        except (ValueError, IndexError):
            # It ended, or belongs to another user who hides it.
            continue
    return stats


def read_process_file(pid, name):
    """Returns b"" if the process has ended or belongs to another user."""
    try:
        with open("/proc/%s/%s" % (pid, name), "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def descendants(stats, root):
    """The processes of `stats` that are `root` or descend from it."""
    children = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat)
    found, parents = {}, [root]
    if root in stats:
        found[root] = stats[root]
    while parents:
        for stat in children.get(parents.pop(), ()):
            found[stat.pid] = stat
            parents.append(stat.pid)
    return found


def usage(stats):
    """Adds up what processes use."""
    ticks, pages, processes, peak = 0, 0, 0, 0
    for stat in stats.values():
        ticks += stat.ticks
        # A dead process has no memory.
        if stat.is_dead:
            continue
        processes += 1
        pages += stat.pages
        peak_of_one = peak_bytes(stat.pid)
        peak = None if peak is None or peak_of_one is None else peak + peak_of_one
    used = {
        "cpu_ms": milliseconds(ticks),
        "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "processes": processes,
    }
    if peak is not None:
        used["peak_memory_bytes"] = peak
    return used


def milliseconds(ticks):
    return ticks * 1000 // max(os.sysconf("SC_CLK_TCK"), 1)


def peak_bytes(pid):
    """The largest resident memory that a process has had. None if the kernel doesn't report it, as
    in gVisor. 0 if the process has ended."""
    status = read_process_file(pid, "status")
    if not status:
        return 0
    for line in status.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == b"VmHWM:" and fields[2] == b"kB":
            return int(fields[1]) * 1024
    return None


def uptime_ms(stats, is_confined):
    """For how long the sandbox has run: since its process 1 started. On a machine, or if there is
    no process 1, for how long this program has run."""
    first = stats[1 if is_confined and 1 in stats else os.getpid()]
    with open("/proc/uptime") as file:
        up_ms = int(float(file.read().split()[0]) * 1000)
    return max(up_ms - milliseconds(first.start_ticks), 0)


def limits():
    """The limits of this process, which its children inherit."""
    found = {}
    memory = [finite(resource.RLIMIT_AS), finite(resource.RLIMIT_DATA)]
    memory = [limit for limit in memory if limit is not None]
    if memory:
        found["process_memory_bytes"] = min(memory)
    processes = finite(resource.RLIMIT_NPROC)
    # The kernel doesn't enforce this limit for root.
    if processes is not None and os.geteuid() != 0:
        found["processes"] = processes
    return found


def finite(limit):
    """The soft limit. None if there is none."""
    soft = resource.getrlimit(limit)[0]
    return None if soft == resource.RLIM_INFINITY else soft


# Files


def trees(home):
    """The directories that hold the files of the sandbox, none of them inside another: the default
    directory, and the one for temporary files."""
    temporary = os.fsencode(os.environ.get("TMPDIR") or "/tmp")
    found = []
    for tree in sorted({os.path.realpath(home), os.path.realpath(temporary)}):
        if not any(is_inside(tree, other) for other in found):
            found.append(tree)
    return found


def is_inside(path, directory):
    return (path + b"/").startswith(directory.rstrip(b"/") + b"/")


def disk_bytes(directories, check, most):
    """The bytes that files take on the disk. Doesn't follow links and stays on the file system of
    each tree. Leaves out what is removed meanwhile, and directories that this user can't read."""
    total, names = 0, 0
    for tree in directories:
        try:
            device = os.lstat(tree).st_dev
        except FileNotFoundError:
            continue
        pending = [tree]
        while pending:
            for path, stat in entries(pending.pop()):
                if names % NAMES_PER_CHECK == 0:
                    check()
                names += 1
                if names > most:
                    raise failed(
                        "it has more than %d files, which would take too long; remove files" % most
                    )
                is_directory = stat.st_mode & 0o170000 == 0o040000
                total += size(stat, is_directory)
                if is_directory and stat.st_dev == device:
                    pending.append(path)
    return total


def entries(directory):
    """Yields the entries of a directory, each with its status. There are none if code has removed
    or replaced the directory, and if its path is too long for the kernel."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return raise_unless_changed(error)
    try:
        for name in map(os.fsencode, os.listdir(descriptor)):
            try:
                stat = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError as error:
                raise_unless_changed(error)
                continue
            yield os.path.join(directory, name), stat
    except NotADirectoryError:
        pass
    finally:
        os.close(descriptor)


def raise_unless_changed(error):
    """Raises an error, unless it may come from code that removed, replaced or locked the files."""
    if error.errno not in CHANGED:
        raise error


def size(stat, is_directory):
    """The bytes that a name counts. Each name of a file counts its share."""
    # The links of a directory are its subdirectories.
    names = 1 if is_directory else max(stat.st_nlink, 1)
    return max(stat.st_blocks * 512 // names, NAME_BYTES)


CHECKS = {}
OPERATIONS = {"metrics": metrics}
