"""Builtins that run in a thread: their errors, and their input and output (`BuiltinIO`)."""

import errno
import os
import select


class Cancelled(Exception):
    """The client killed the operation."""


class BuiltinError(Exception):
    """The operation failed. `kind` is one of those in V2.md; `path` is bytes or None."""

    def __init__(self, kind, message, path=None):
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.path = path


KINDS = {
    errno.ENOENT: "not_found",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.ENOTDIR: "not_a_directory",
    errno.EISDIR: "is_a_directory",
    errno.EEXIST: "already_exists",
    errno.ENOTEMPTY: "not_empty",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EFBIG: "too_large",
    errno.EINVAL: "invalid_input",
    errno.ENAMETOOLONG: "invalid_input",
    # The error of `open` for a socket, and for a pipe without a reader.
    errno.ENXIO: "not_a_file",
}
"""The kinds of the errors of operations on files, by `errno`. Others are `other`."""


def error_from(error, what, path):
    """Returns the `BuiltinError` for an `OSError`: `what` could not be done with `path`."""
    kind = KINDS.get(error.errno, "other")
    why = os.strerror(error.errno) if error.errno else str(error)
    shown = "" if path is None else " '%s'" % path.decode("utf-8", "replace")
    return BuiltinError(kind, "cannot %s%s: %s" % (what, shown, why), path)


class BuiltinIO:
    """The input, the output and the cancellation of one builtin, for its thread.

    The loop owns the other ends of both pipes. A kill sets `is_cancelled` first, then closes the
    input and reads the output without limit, so that no call here blocks after it.
    """

    MAX_PIECE = 64 * 1024

    def __init__(self, home, stdin, stdout):
        self.home = home
        self._stdin = stdin
        self._stdout = stdout
        self._cancelled = False
        self._ended = False

    def cancel(self):
        """Makes the operation raise `Cancelled` in its next call. For the thread of the loop."""
        self._cancelled = True

    def is_cancelled(self):
        return self._cancelled

    def check(self):
        """Raises `Cancelled` if the client killed the operation."""
        if self._cancelled:
            raise Cancelled()

    def read(self, limit):
        """Returns at most `limit` bytes of the input, `b""` at its end. Blocks."""
        data = os.read(self._stdin, limit)
        # A kill closes the input, and such an end must not commit the operation.
        self.check()
        self._ended = not data
        return data

    def write(self, data):
        """Writes all of `data` to the output. Blocks while the window of the client is full."""
        rest = memoryview(data)
        while rest:
            self.check()
            written = os.write(self._stdout, rest[: self.MAX_PIECE])
            rest = rest[written:]

    def wait(self, fds, timeout=None):
        """Waits until one of `fds` is readable, the input ends or `timeout` seconds are over.

        Returns the readable ones. The operation must not use `read` as well: input that arrives
        meanwhile is dropped.
        """
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        if not self._ended:
            poll.register(self._stdin, select.POLLIN)
        self.check()
        ready = [fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)]
        if self._stdin in ready:
            ready.remove(self._stdin)
            self.read(self.MAX_PIECE)
        self.check()
        return ready

    def input_ended(self):
        """Whether `read` or `wait` has met the end of the input."""
        return self._ended
