"""`Mark`: tells the processes of an exec from all others.

A process can leave its session, clear its environment and lose its parent. Its children inherit
its resource limits all the same, and without privileges no process can raise them again. So each
exec gets a value of its own for a limit without an effect: the resident memory (RLIMIT_RSS), which
Linux ignores since version 2.4.30. Its value is more than any machine has. Where that is refused, a
variable of the environment is the only mark.
"""

import os
import resource

VARIABLE = b"ACTIX_SANDBOX_LIFT_EXEC"

LIMIT = resource.RLIMIT_RSS

BASE = 1 << 62
"""The values of marks begin here, in bytes. The bits below are random, so that another program of
this kind on the machine has other marks."""

INHERITED = resource.getrlimit(LIMIT)[1]
"""The limit of this program. In an exec of another program of this kind, it is the mark of that
exec, and all execs of this program carry it."""

MAX_ENVIRONMENT = 64 * 1024


class Mark:
    """The mark of one exec."""

    def __init__(self):
        self.value = BASE + int.from_bytes(os.urandom(7), "little")
        self.is_limit = False
        """Whether this system takes a limit as a mark. Set by `check`."""

    def variable(self):
        """The environment variable of the mark."""
        return VARIABLE, b"%x" % self.value

    def apply(self):
        """Marks this process, the forked child, and all that it starts."""
        try:
            resource.setrlimit(LIMIT, (self.value, self.value))
        except (OSError, ValueError):
            # The limit is refused here, or is lower than this already.
            pass

    def check(self, pid):
        """Looks whether the limit of a process that was just started has become the mark."""
        self.is_limit = limit_of(pid) == self.value


def mark_of(pid):
    """The value of the mark of a process, or `None`."""
    limit = limit_of(pid)
    return limit if limit >= BASE and limit != INHERITED else mark_in_environment(pid)


def limit_of(pid):
    try:
        return resource.prlimit(pid, LIMIT)[1]
    except (OSError, ValueError):
        return 0


def mark_in_environment(pid):
    """The mark that a process got in its environment when it was executed, or `None`."""
    try:
        with open("/proc/%d/environ" % pid, "rb", buffering=0) as file:
            environment = file.read(MAX_ENVIRONMENT)
    except OSError:
        return None
    _, found, rest = (b"\0" + environment).partition(b"\0" + VARIABLE + b"=")
    if not found:
        return None
    try:
        return int(rest.partition(b"\0")[0], 16)
    except ValueError:
        return None

