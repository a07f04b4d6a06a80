"""The interface between an exec and what it runs: a process or a builtin.

`execs.py` drives a `Program` in the thread of the loop. The methods of a program are called, and
call back, only in that thread.
"""


class StartError(Exception):
    """The program can't start. The exec is refused, and its id is free again."""

    def __init__(self, message):
        super().__init__(message)
        self.message = message


class Exit:
    """How a program ended."""

    def __init__(self, exit_code=None, signal=None, outcome=None):
        self.exit_code = exit_code
        self.signal = signal
        self.outcome = outcome
        """`{"result": …}` or `{"error": …}` of a builtin. `None` if it was stopped before its
        end."""


class Program:
    """What an exec runs. A program overrides what differs for it."""

    is_builtin = False

    stdin = None
    """The descriptor that takes the input, or `None`. Like the next two, it is non-blocking and
    valid from the call of `on_started` on. The exec closes `stdout` and `stderr`, but not
    `stdin`."""
    stdout = None
    stderr = None

    greeting = b""
    """The first bytes of the output, before those of `stdout`. Read at the call of
    `on_started`."""

    def start(self, loop, on_started, on_exit):
        """Starts the program. Raises `StartError` if it can't start.

        The program calls `on_started()` when its streams exist, during this call or later, and
        `on_exit(exit)` once, when it has ended. `on_exit` without `on_started` is fine.
        """
        raise NotImplementedError

    def plain(self, data):
        """How many bytes of input to write at once, and the signal that the byte after them
        sends: see `send_typed`."""
        return len(data), None

    def close_stdin(self):
        """The input has ended: all of it was written to `stdin`, or no more can be written."""

    def kill(self, on_killed):
        """Kills everything that belongs to the program, also after its exit.

        Calls `on_killed(None)` when nothing is left, or `on_killed(reason)` if that failed. A
        killed program calls `on_exit` before that, unless it did so earlier.
        """
        raise NotImplementedError
