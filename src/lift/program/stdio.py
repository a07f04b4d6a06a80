"""The streams between this program and a process: `Pipes`, or a `Terminal`.

Both have `inside`, the descriptors for the stdin, stdout and stderr of the process, and `stdin`,
`stdout` and `stderr`, the other ends. The reader of the output closes `stdout` and `stderr`.
"""

import errno
import fcntl
import os
import signal
import struct
import termios

from .foreground import Foreground, find_signal, is_needed


class Pipes:
    """A pipe for each stream."""

    foreground = None

    def __init__(self):
        self._opened = []
        try:
            for _ in range(3):
                self._opened += os.pipe()
        except OSError:
            self.close()
            raise
        child_in, self.stdin, self.stdout, child_out, self.stderr, child_err = self._opened
        self.inside = (child_in, child_out, child_err)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)

    def handle_start(self):
        """The process has inherited its ends. Closes this program's copies, so that a pipe ends
        when the process closes it."""
        close_all(self.inside)

    def handle_exit(self):
        """The main process has ended."""

    def close(self):
        """Closes everything, because the process could not start."""
        close_all(self._opened)

    def close_stdin(self):
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def resize(self, size):
        raise OSError(errno.ENOTTY, "")

    def plain(self, data):
        """How many bytes to write at once, and the signal that the byte after them sends."""
        return len(data), None


class Terminal:
    """A new terminal for all streams. Its output is on stdout."""

    stderr = None

    def __init__(self, size):
        self.stdout, inside = os.openpty()
        self.inside = (inside, inside, inside)
        self.stdin = None
        self.foreground = None
        try:
            self.stdin = os.dup(self.stdout)
            if is_needed(self.stdout):
                self.foreground = Foreground()
            self.resize(size)
        except OSError:
            self.close()
            raise
        os.set_blocking(self.stdout, False)

    def handle_start(self):
        """`inside` stays open until the main process has ended. The terminal would end if all
        processes closed it for a moment."""
        if self.foreground is not None:
            self.foreground.handle_start()

    def handle_exit(self):
        close_all([self.inside[0], self.stdin])
        self.stdin = None
        if self.foreground is not None:
            self.foreground.close()

    def close(self):
        close_all([self.inside[0], self.stdin, self.stdout])
        if self.foreground is not None:
            self.foreground.close()

    def close_stdin(self):
        """The input of a terminal has no end."""

    def resize(self, size):
        """Sets the size: columns and rows. The processes in the foreground get SIGWINCH."""
        columns, rows = size
        packed = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.inside[0], termios.TIOCSWINSZ, packed)
        if self.foreground is not None:
            self.foreground.send(signal.SIGWINCH)

    def plain(self, data):
        """How many bytes to write at once, and the signal that the byte after them sends."""
        if self.foreground is None:
            return len(data), None
        return find_signal(self.stdin, data)


def close_all(descriptors):
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)
