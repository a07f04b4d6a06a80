"""How a builtin runs: `Builtin` waits for its turn, `Operation` works in a thread of its own."""

import collections
import json
import os
import threading

from .builtins import BuiltinError, BuiltinIO, Cancelled, error_from
from .programs import Exit, Program, StartError

GIVE_UP_AFTER = 10
"""How many seconds a kill waits for the thread of an operation."""

MAX_OUTCOME_BYTES = 64 * 1024

DOES_NOT_STOP = "The operation did not stop after the kill."


class Turns:
    """Limits how many builtins of one sort work at the same time."""

    def __init__(self, most):
        self._free = most
        self._waiting = collections.deque()
        self._giving = False

    def take(self, begin):
        """Calls `begin()`, at once or when there is a turn."""
        if self._free > 0:
            self._free -= 1
            begin()
        else:
            self._waiting.append(begin)

    def cancel(self, begin):
        """Gives up waiting. Returns whether it did not begin."""
        if begin not in self._waiting:
            return False
        self._waiting.remove(begin)
        return True

    def give_back(self):
        """A builtin has ended. The next one begins."""
        self._free += 1
        if self._giving:
            # It ended at once. The loop below goes on.
            return
        self._giving = True
        while self._free > 0 and self._waiting:
            self._free -= 1
            self._waiting.popleft()()
        self._giving = False


class Builtin(Program):
    """Runs another program when it is its turn."""

    is_builtin = True

    def __init__(self, inner, turns):
        self._inner = inner
        self._turns = turns
        self._loop = None
        self._on_started = None
        self._on_exit = None

    @property
    def stdin(self):
        return self._inner.stdin

    @property
    def stdout(self):
        return self._inner.stdout

    @property
    def greeting(self):
        return self._inner.greeting

    def start(self, loop, on_started, on_exit):
        self._loop = loop
        self._on_started = on_started
        self._on_exit = on_exit
        # Another builtin may give the turn, and must not be ended by an error of this one.
        self._begin = loop.guard(self._begin)
        self._turns.take(self._begin)

    def _begin(self):
        try:
            self._inner.start(self._loop, self._on_started, self._handle_exit)
        except StartError as error:
            self._handle_exit(Exit(outcome=failure("other", error.message)))

    def _handle_exit(self, exit):
        self._on_exit(exit)
        self._turns.give_back()

    def close_stdin(self):
        self._inner.close_stdin()

    def kill(self, on_killed):
        if self._turns.cancel(self._begin):
            self._on_exit(Exit())
            on_killed(None)
        else:
            self._inner.kill(on_killed)


class Operation(Program):
    """A builtin that works in a thread, between two pipes."""

    is_builtin = True

    def __init__(self, perform, request, home):
        self._perform = perform
        self._request = request
        self._home = home
        self._io = None
        self._loop = None
        self._on_exit = None
        self._on_killed = None
        self._kill_timer = None

    def start(self, loop, on_started, on_exit):
        self._loop = loop
        self._on_exit = on_exit
        descriptors = []
        try:
            descriptors += os.pipe()
            descriptors += os.pipe()
            inner_in, self.stdin, self.stdout, inner_out = descriptors
            os.set_blocking(self.stdin, False)
            os.set_blocking(self.stdout, False)
            self._io = BuiltinIO(self._home, inner_in, inner_out)
            thread = threading.Thread(target=self._work, args=(inner_in, inner_out), daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            self.stdin = self.stdout = None
            raise StartError("cannot start the operation: %s" % error) from None
        on_started()

    def close_stdin(self):
        if self.stdin is not None:
            # The exec may wait until it can write more.
            self._loop.on_writable(self.stdin, None)
            os.close(self.stdin)
            self.stdin = None

    def kill(self, on_killed):
        if self._on_exit is None:
            return on_killed(None)
        self._on_killed = on_killed
        self._kill_timer = self._loop.call_later(GIVE_UP_AFTER, self._give_up)
        # In this order: the end of the input must not look like that of the client.
        self._io.cancel()
        self.close_stdin()

    def _give_up(self):
        self._on_killed(DOES_NOT_STOP)
        self._on_killed = None

    def _work(self, inner_in, inner_out):
        """Performs the operation, in the thread."""
        outcome = limited(outcome_of(self._perform, self._request, self._io))
        # The output ends before the exec learns of the exit.
        os.close(inner_out)
        os.close(inner_in)
        self._loop.call_from_thread(lambda: self._handle_end(outcome))

    def _handle_end(self, outcome):
        on_exit, self._on_exit = self._on_exit, None
        on_exit(Exit(outcome=outcome))
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._on_killed is not None:
            self._on_killed(None)


def outcome_of(perform, request, io):
    """Performs an operation. Returns its outcome, `None` if it was cancelled."""
    try:
        return {"result": perform(request, io)}
    except Cancelled:
        return None
    except BuiltinError as error:
        return failure(error.kind, error.message, error.path)
    except OSError as error:
        if io.is_cancelled():
            return None
        error = error_from(error, "complete the operation", None)
        return failure(error.kind, error.message)
    except Exception as error:
        return failure("other", "internal error: %s: %s" % (type(error).__name__, error))


def limited(outcome):
    """The outcome in a form that is short enough for the client."""
    if outcome is None or len(json.dumps(outcome)) <= MAX_OUTCOME_BYTES:
        return outcome
    if "result" in outcome:
        return failure("other", "the result is too long")
    # The path is that of the request.
    error = outcome["error"]
    message = error["message"]
    return failure(error["kind"], message[:1000] + "…" + message[-1000:])


def failure(kind, message, path=None):
    """The outcome of a builtin that failed."""
    error = {"kind": kind, "message": message}
    if path is not None:
        from .paths import encode

        error["path"] = encode(path)
    return {"error": error}
