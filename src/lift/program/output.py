"""`Output`: reads the output of a program within the window, and decides when the output has ended.

After the exit of the program, other processes may hold the output open. It is then read until they
close it, or until the grace period is over.
"""

import fcntl
import os
import select
import struct
import termios
import time

from .streams import MAX_PIECE, SendStream, character_boundary

MIN_ROOM = 4
"""With less room in the window than this, no output is read. A code point has at most 4 bytes."""

SHORT_GRACE = 0.25
"""The grace period after a kill, in seconds."""

SHORT_PAUSE = 0.1
"""A full window extends the grace period only if it stays full for this long. Otherwise a process
that writes without end, to a client that reads slowly, would delay the end of the exec."""

HOLD_BACK = 0.25
"""How long an incomplete code point waits for the rest of it, in seconds."""


class Output:
    """The output of one exec: stdout and stderr, which share a window.

    Calls `changed()` when there may be something to send, and `ended(cut)` once, when the output
    has ended. `cut`: whether other processes still hold it open.
    """

    def __init__(self, loop, window, is_binary, drains, changed, ended):
        self.window = window
        self.is_binary = is_binary
        self.streams = (SendStream(), SendStream())
        self._loop = loop
        self._drains = drains
        self._changed = changed
        self._ended = ended
        self._fds = [None, None]
        self._next = 0
        self._partial = [b"", b""]
        self._hold_timer = None
        self._reading = False
        self._beyond_window = False
        self._marks_ends = is_binary
        self._has_ended = False
        self._deadline = None
        self._grace_timer = None
        self._paused_at = None
        self._may_pause = True

    def limit_window(self, window):
        """Reduces the window. A larger one has no effect."""
        self.window = min(self.window, window)

    def open(self, stdout, stderr):
        """Begins to read."""
        self._fds = [stdout, stderr]
        self.update()

    def finish_stderr(self):
        """The program has no stderr."""
        if self._marks_ends:
            self.streams[1].finish()

    def push(self, data):
        """Adds bytes to stdout that don't come from its descriptor."""
        self.streams[0].push(data)

    def kept(self):
        return self.streams[0].kept + self.streams[1].kept

    def acked(self):
        return tuple(stream.acked for stream in self.streams)

    def lengths(self):
        return tuple(stream.end for stream in self.streams)

    def is_sent(self):
        """Whether everything was sent on this link."""
        return all(stream.sent == stream.end for stream in self.streams)

    def ack(self, offsets):
        for stream, offset in zip(self.streams, offsets):
            stream.ack(offset)
        self.update()

    def resume(self, offsets):
        for stream, offset in zip(self.streams, offsets):
            stream.resume(offset)

    def abandon(self):
        """Drops everything that is kept."""
        for stream in self.streams:
            stream.ack_all()

    def next_piece(self):
        """Returns the next piece to send: stream, offset, bytes, end. `None` if there is none."""
        room = self.window - self.streams[0].unacked - self.streams[1].unacked
        for number in (self._next, 1 - self._next):
            piece = self.streams[number].next_piece(max(room, 0), not self.is_binary)
            if piece is not None:
                # In turn, so that a flood on one stream doesn't hold back the other.
                self._next = 1 - number
                return (number,) + piece
        return None

    def update(self):
        """Reads while there is room in the window."""
        is_open = any(fd is not None for fd in self._fds)
        room = self.window - self.kept()
        self._set_reading(is_open and (self._beyond_window or room >= MIN_ROOM))

    def read_beyond_window(self):
        """Reads without regard to the window, so that a builtin that is being killed can go on. It
        writes little more."""
        self._beyond_window = True
        self.update()

    def mark_no_ends(self):
        """From now on, the client doesn't learn of the end of a stream before the end of the
        exec."""
        self._marks_ends = False

    def handle_exit(self, grace):
        """The program has exited. Reads what is there, then waits for other processes."""
        now = time.monotonic()
        self._deadline = now + grace
        if self._paused_at is not None:
            self._paused_at = now
        self._read_what_is_there()
        if self._is_over():
            self._finish(False)
        else:
            self._set_grace_timer()

    def end_soon(self, grace=SHORT_GRACE):
        """Ends the grace period early, even if the window is full."""
        if self._deadline is None or self._has_ended:
            return
        self._may_pause = False
        self._deadline = min(self._deadline, time.monotonic() + grace)
        self._set_grace_timer()

    def close(self):
        """Stops reading. Doesn't call `ended`."""
        self._has_ended = True
        self._cancel_timers()
        for stream in range(len(self._fds)):
            self._close(stream)

    # Reading.

    def _set_reading(self, reading):
        if reading == self._reading:
            return
        self._reading = reading
        for stream, fd in enumerate(self._fds):
            if fd is not None:
                reader = (lambda stream=stream: self._readable(stream)) if reading else None
                self._loop.on_readable(fd, reader)
        if reading:
            self._end_pause()
        else:
            self._paused_at = time.monotonic()

    def _readable(self, stream):
        room = self.window - self.kept()
        if self._beyond_window:
            room = MAX_PIECE
        if room >= MIN_ROOM:
            self._read(stream, min(room, MAX_PIECE))
        self.update()
        self._changed()
        if self._is_over():
            self._finish(False)

    def _read(self, stream, size):
        """Reads at most this many bytes. Returns how many there were: 0 at the end, or if none are
        there now."""
        if not self.is_binary:
            # An incomplete code point may come before these bytes.
            size = min(size, MAX_PIECE - 3)
        try:
            data = os.read(self._fds[stream], size)
        except BlockingIOError:
            return 0
        except OSError:
            # A terminal fails with EIO when no process has it open any more.
            data = b""
        if data:
            self._take(stream, data)
        else:
            self._handle_stream_end(stream)
        return len(data)

    def _take(self, stream, data):
        if not self.is_binary:
            if self._partial[stream]:
                data = self._partial[stream] + data
            end = character_boundary(data)
            self._partial[stream] = data[end:]
            if end < len(data):
                data = data[:end]
                self._hold_back()
        self.streams[stream].push(data)

    def _hold_back(self):
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        self._hold_timer = self._loop.call_later(HOLD_BACK, self._release)

    def _release(self):
        """Sends incomplete code points: the program has written nothing for a while."""
        for stream, data in enumerate(self._partial):
            self.streams[stream].push(data)
            self._partial[stream] = b""
        self._changed()

    def _handle_stream_end(self, stream):
        self._close(stream)
        self.streams[stream].push(self._partial[stream])
        self._partial[stream] = b""
        if self._marks_ends:
            self.streams[stream].finish()

    def _close(self, stream):
        fd = self._fds[stream]
        if fd is not None:
            self._loop.on_readable(fd, None)
            os.close(fd)
            self._fds[stream] = None

    def _read_what_is_there(self):
        """Reads what the pipes hold, without regard to the window."""
        for stream, fd in enumerate(self._fds):
            if fd is None:
                continue
            size = held_bytes(fd)
            while size > 0 and self._fds[stream] is not None:
                read = self._read(stream, min(size, MAX_PIECE))
                size = size - read if read else 0
            if self._fds[stream] is not None and is_at_end(fd):
                self._handle_stream_end(stream)
        self.update()
        self._changed()

    # The end.

    def _is_over(self):
        """Whether the program has exited, and no process holds the output open."""
        return self._deadline is not None and self._fds == [None, None]

    def _finish(self, cut):
        if self._has_ended:
            return
        self._has_ended = True
        self._release()
        self._cancel_timers()
        self._ended(cut)

    def _cancel_timers(self):
        for timer in (self._hold_timer, self._grace_timer):
            if timer is not None:
                timer.cancel()

    def _set_grace_timer(self):
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        wait = self._deadline - time.monotonic()
        self._grace_timer = self._loop.call_later(wait, self._end_grace)

    def _end_pause(self):
        """The window has room again."""
        if self._paused_at is None:
            return
        pause = time.monotonic() - self._paused_at
        self._paused_at = None
        if self._deadline is None or not self._may_pause or self._has_ended:
            return
        if pause >= SHORT_PAUSE:
            self._deadline += pause
        if pause >= SHORT_PAUSE or self._grace_timer is None:
            self._set_grace_timer()

    def _end_grace(self):
        self._grace_timer = None
        if self._paused_at is not None and self._may_pause:
            # The end of the pause sets the timer again.
            return
        self._read_what_is_there()
        if self._fds == [None, None]:
            return self._finish(False)
        for stream, fd in enumerate(self._fds):
            if fd is not None:
                self._loop.on_readable(fd, None)
                self._fds[stream] = None
                self._drains.add(fd)
        self._finish(True)


def held_bytes(fd):
    """How many bytes can be read from a descriptor without waiting."""
    try:
        answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4)
    except OSError:
        return 0
    return struct.unpack("i", answer)[0]


def is_at_end(fd):
    """Whether all bytes of a pipe or terminal were read, and no process can write more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLHUP and not events & select.POLLIN for _, events in poll.poll(0))


class Drains:
    """Reads and drops the output of background processes after the end of their exec, so that they
    don't block on a full pipe."""

    MOST = 32
    """Maximum number of descriptors to keep. The oldest is closed for a further one: a process that
    writes to it later gets SIGPIPE or EPIPE."""

    PAUSE = 0.01
    """Seconds between two reads, so that a process that writes without end takes little time."""

    def __init__(self, loop):
        self._loop = loop
        self._fds = {}

    def add(self, fd):
        if len(self._fds) >= self.MOST:
            self._close(next(iter(self._fds)))
        self._fds[fd] = None
        self._wait(fd)

    def _wait(self, fd):
        self._loop.on_readable(fd, lambda: self._readable(fd))

    def _readable(self, fd):
        try:
            ended = not os.read(fd, 64 * 1024)
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended:
            return self._close(fd)
        self._loop.on_readable(fd, None)
        self._fds[fd] = self._loop.call_later(self.PAUSE, lambda: self._wait(fd))

    def _close(self, fd):
        timer = self._fds.pop(fd)
        if timer is not None:
            timer.cancel()
        self._loop.on_readable(fd, None)
        os.close(fd)
