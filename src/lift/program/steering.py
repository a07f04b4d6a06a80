"""The builtins that act on other execs: `signal`, `resize` and `processes`.

The loop performs them at once, not in a thread: only the loop may change execs.
"""

import errno
import json
import os
import time

from .programs import Exit, Program
from .requests import MAX_TERMINAL, boolean_of, integer_of, object_of, text_of
from .workers import failure

MAX_SIGNAL = 64
MAX_RESULT_BYTES = 64 * 1024

KINDS = {
    errno.ESRCH: ("not_found", "it has ended"),
    errno.ENOTTY: ("invalid_input", "it has no terminal"),
    errno.EPERM: ("permission_denied", "it runs as another user"),
}


class Steering(Program):
    """A builtin that ends as soon as it starts."""

    is_builtin = True

    def __init__(self, perform, request, table):
        self._perform = perform
        self._request = request
        self._table = table

    def start(self, loop, on_started, on_exit):
        on_started()
        on_exit(Exit(outcome=self._perform(self._request, self._table)))

    def kill(self, on_killed):
        on_killed(None)


def check_signal(request):
    text_of(request, "exec")
    integer_of(request, "signal", lowest=-(2**31), highest=2**31 - 1)
    boolean_of(request, "group", False)


def send_signal(request, table):
    number = request["signal"]
    if not 1 <= number <= MAX_SIGNAL:
        message = "%d is not the number of a signal: use 1 to %d" % (number, MAX_SIGNAL)
        return failure("invalid_input", message)
    to_group = bool(request.get("group"))
    what = "send signal %d to" % number
    return act(request["exec"], what, table, lambda process: process.signal(number, to_group))


def check_resize(request):
    text_of(request, "exec")
    size = object_of(request, "size")
    for side in ("columns", "rows"):
        integer_of(size, side, highest=65535)


def resize(request, table):
    columns, rows = size = request["size"]["columns"], request["size"]["rows"]
    if not all(1 <= side <= MAX_TERMINAL for side in size):
        message = "a terminal can't have %d columns and %d rows: use 1 to %d"
        return failure("invalid_input", message % (columns, rows, MAX_TERMINAL))
    what = "resize the terminal of"
    return act(request["exec"], what, table, lambda process: process.resize(size))


def act(exec_id, what, table, action):
    """Performs an action on the main process of an exec. `what` names it in errors."""
    what = "cannot %s the process '%s'" % (what, exec_id[:200])
    target = table.find(exec_id)
    if target is None:
        return failure("not_found", what + ": the sandbox has no process with this id")
    if target.is_builtin:
        why = "it runs a builtin, not a program; kill it instead"
        return failure("invalid_input", "%s: %s" % (what, why))
    if target.program is None:
        return failure("not_found", "%s: it has ended" % what)
    try:
        action(target.program)
    except OSError as error:
        default = ("other", os.strerror(error.errno))
        kind, why = KINDS.get(error.errno, default)
        return failure(kind, "%s: %s" % (what, why))
    return {"result": {}}


def processes(request, table):
    """Lists the execs whose main process runs, the oldest first."""
    execs = [describe(it) for it in table.running_programs()]
    omitted = 0
    while True:
        result = {"execs": execs, "omitted": omitted}
        if len(json.dumps(result)) <= MAX_RESULT_BYTES:
            return {"result": result}
        # Halved until it fits.
        kept = len(execs) // 2
        omitted += len(execs) - kept
        del execs[kept:]


def describe(running):
    stdout, stderr = running.output.acked()
    return {
        "exec": running.id,
        "program": running.label,
        "running_ms": int((time.monotonic() - running.started_at) * 1000),
        "stdout": stdout,
        "stderr": stderr,
        "window": running.output.window,
    }


CHECKS = {"signal": check_signal, "resize": check_resize}
OPERATIONS = {"signal": send_signal, "resize": resize, "processes": processes}
