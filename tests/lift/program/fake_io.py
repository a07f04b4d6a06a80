"""A stand-in for `BuiltinIO`: an operation runs on it without the program."""

import contextlib
import os
import select
import shutil
import tempfile
import threading

from program.builtins import Cancelled


class FakeIO:
    """The input and output of an operation.

    With `is_open`, the input continues until the test calls `end_input`. With `window`, `write`
    blocks while the output holds more bytes; `take` makes room. `on_write` is called with each
    piece before it is written.
    """

    def __init__(self, home=b"/", data=b"", is_open=False, window=None, on_write=None):
        self.home = home
        self.output = bytearray()
        self.on_write = on_write
        self._input = bytearray(data)
        self._has_ended = not is_open
        self._saw_end = False
        self._is_cancelled = False
        self._window = window
        self._taken = 0
        self._changed = threading.Condition()
        # The ends of a pipe that wakes `wait`.
        self._wake = self._waker = None

    def __del__(self):
        if self._wake is not None:
            os.close(self._wake)
            os.close(self._waker)

    # What an operation calls.

    def read(self, limit):
        with self._changed:
            self._wait_until(lambda: self._input or self._has_ended)
            piece = bytes(self._input[:limit])
            del self._input[:limit]
            self._saw_end = not piece
            return piece

    def write(self, data):
        if self.on_write is not None:
            self.on_write(bytes(data))
        with self._changed:
            self._wait_until(self._has_room)
            self.output += data
            self._changed.notify_all()

    def check(self):
        if self._is_cancelled:
            raise Cancelled()

    def is_cancelled(self):
        return self._is_cancelled

    def wait(self, fds, timeout=None):
        with self._changed:
            self.check()
            if self.input_ended():
                return []
            if self._wake is None:
                self._wake, self._waker = os.pipe()
        poll = select.poll()
        for fd in [self._wake, *fds]:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)]
        self.check()
        return [fd for fd in ready if fd != self._wake]

    def input_ended(self):
        return self._saw_end or (self._has_ended and not self._input)

    # What a test calls.

    def feed(self, data):
        """Adds input."""
        self._change(lambda: self._input.extend(data))

    def end_input(self):
        self._change(lambda: setattr(self, "_has_ended", True), wakes=True)

    def cancel(self):
        self._change(lambda: setattr(self, "_is_cancelled", True), wakes=True)

    def take(self, size):
        """Makes room for as many bytes of output."""
        self._change(lambda: setattr(self, "_taken", self._taken + size))

    def wait_for_output(self, size):
        """Waits until there are at least so many bytes of output."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.output) >= size, 60)

    def _has_room(self):
        return self._window is None or len(self.output) - self._taken < self._window

    def _wait_until(self, is_true):
        self._changed.wait_for(lambda: self._is_cancelled or is_true())
        self.check()

    def _change(self, change, wakes=False):
        with self._changed:
            change()
            self._changed.notify_all()
            if wakes and self._waker is not None:
                os.write(self._waker, b"x")


class Running:
    """An operation that runs in a thread."""

    def __init__(self, operation, request, io):
        self._outcome = None
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(operation, request, io))
        self._thread.daemon = True
        self._thread.start()

    def _run(self, operation, request, io):
        try:
            self._outcome = operation(request, io)
        except BaseException as error:  # The thread of the test raises it.
            self._error = error

    def result(self):
        """Waits for the end. Returns the result or raises the error."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "the operation has not ended"
        if self._error is not None:
            raise self._error
        return self._outcome


class Home:
    """A temporary directory. Its paths are text or bytes, and relative to it."""

    def __init__(self):
        self.path = os.fsencode(tempfile.mkdtemp(prefix="lift-"))
        os.chmod(self.path, 0o755)

    def remove(self):
        make_removable(self.path)
        shutil.rmtree(self.path)

    def at(self, path):
        return os.path.join(self.path, os.fsencode(path))

    def put(self, path, content=b""):
        with open(self.at(path), "wb") as file:
            file.write(content)

    def get(self, path):
        with open(self.at(path), "rb") as file:
            return file.read()

    def names(self, path=""):
        return sorted(os.fsdecode(name) for name in os.listdir(self.at(path)))

    def mode(self, path):
        return os.lstat(self.at(path)).st_mode & 0o7777


def make_removable(directory):
    """Gives the owner all permissions on the directories below."""
    for parent, names, _ in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                path = os.path.join(parent, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
