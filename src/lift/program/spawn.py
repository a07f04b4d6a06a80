"""`spawn`: starts a process from a clean state.

The program calls `fork` itself, without `subprocess`, which would take longer to load than the rest
of the program, and can't set limits or a terminal without `preexec_fn`, which is the same as a
fork. Other threads may hold locks at the fork, and no thread releases them in the child. So the
child only makes system calls through `os`, `signal`, `resource` and `fcntl`, which take no lock of
Python, and imports nothing.
"""

import errno
import fcntl
import os
import resource
import signal
import termios

from .foreground import leave_helper
from .programs import StartError

# The steps of the child that can fail.
PREPARE, CHANGE_DIRECTORY, EXECUTE = b"p", b"c", b"x"

WHAT = {
    PREPARE: "cannot prepare the process of",
    CHANGE_DIRECTORY: "cannot use the working directory",
    EXECUTE: "cannot run",
}

SHELL = b"/bin/sh"

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Command:
    """What to run, and where. `path` is the value of PATH by which the program is searched."""

    def __init__(self, argv, env, path, cwd, mark, has_terminal):
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.mark = mark
        """A `marks.Mark`."""
        self.has_terminal = has_terminal
        """Whether stdin is a terminal, which becomes the controlling terminal."""
        self.helper = None
        """The descriptor of a helper to leave in the session: see `foreground`."""
        self.candidates = candidates(argv[0], path or os.fsencode(os.defpath))


def candidates(name, path):
    """The paths at which a program may be."""
    if b"/" in name:
        return [name]
    return [os.path.join(directory, name) for directory in path.split(b":")]


def spawn(command, stdin, stdout, stderr, limits):
    """Starts a process with these descriptors. Returns its id.

    The process leads a new session. `limits` are the resource limits to set. Raises `StartError` if
    it can't run, in which case no process is left.
    """
    try:
        report, failures = os.pipe()
    except OSError as error:
        raise failure(PREPARE, error.errno, command) from None
    try:
        pid = os.fork()
    except OSError as error:
        os.close(report)
        os.close(failures)
        raise failure(PREPARE, error.errno, command) from None
    if pid == 0:
        become(command, (stdin, stdout, stderr), limits, failures)
    os.close(failures)
    # `execve` closes the other end, so this ends when the program runs.
    answer = os.read(report, 64)
    os.close(report)
    if answer:
        os.waitpid(pid, 0)
        raise failure(answer[:1], int(answer[1:]), command)
    return pid


def failure(step, number, command):
    """The error of a step. In the terms of the client, which knows the program and its `cwd`."""
    subject = command.cwd if step == CHANGE_DIRECTORY else command.argv[0]
    shown = subject[:1000].decode("utf-8", "replace")
    return StartError("%s '%s': %s" % (WHAT[step], shown, os.strerror(number)))


# In the child.


def become(command, descriptors, limits, failures):
    """Turns this process, the forked child, into the program. Doesn't return."""
    step = PREPARE
    try:
        prepare(command, descriptors, limits)
        step = CHANGE_DIRECTORY
        os.chdir(command.cwd)
        step = EXECUTE
        execute(command)
    except BaseException as error:
        number = getattr(error, "errno", None) or errno.EINVAL
        os.write(failures, b"%s%d" % (step, number))
    finally:
        os._exit(127)


def prepare(command, descriptors, limits):
    os.setsid()
    # `execve` closes all other descriptors.
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    if command.has_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    for limit, values in limits:
        resource.setrlimit(limit, values)
    command.mark.apply()
    if command.helper is not None:
        leave_helper(command.helper)


def execute(command):
    """Runs the first candidate that exists, as execvp(3) does."""
    denied = None
    for path in command.candidates:
        try:
            run(path, command)
        except OSError as error:
            if error.errno == errno.EACCES:
                denied = error
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    raise denied or FileNotFoundError(errno.ENOENT, "")


def run(path, command):
    try:
        os.execve(path, command.argv, command.env)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without a `#!` line.
    os.execve(SHELL, [SHELL, path] + command.argv[1:], command.env)
