"""The event loop: descriptors, timers, and calls from other threads.

It uses poll, not epoll: in gVisor, epoll no longer reports a pipe from outside after a restore.
"""

import collections
import heapq
import os
import select
import time

READABLE = select.POLLIN | select.POLLPRI
FAILED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Timer:
    """A call in the future. `cancel` it when it is no longer needed."""

    __slots__ = ("callback",)

    def __init__(self, callback):
        self.callback = callback

    def cancel(self):
        self.callback = None


class Loop:
    """Calls back when something happens. Only `call_from_thread` may be called in other threads."""

    def __init__(self):
        self._poll = select.poll()
        self._readers = {}
        self._writers = {}
        self._timers = []
        self._timer_count = 0
        self._calls = collections.deque()
        self._running = False
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(self._wake, False)
        self.on_readable(self._awake, self._drain_wakes)

    def on_readable(self, fd, callback):
        """Calls back while bytes, the end or an error can be read. `None` stops that."""
        self._set(self._readers, fd, callback)

    def on_writable(self, fd, callback):
        """Calls back while bytes can be written, or the reader is gone. `None` stops that."""
        self._set(self._writers, fd, callback)

    def call_soon(self, callback):
        """Calls back after the current callback, before the loop waits again."""
        self._calls.append(callback)

    def call_later(self, seconds, callback):
        """Calls back after a time. Returns the timer."""
        timer = Timer(callback)
        self._timer_count += 1
        entry = (time.monotonic() + seconds, self._timer_count, timer)
        heapq.heappush(self._timers, entry)
        return timer

    def call_from_thread(self, callback):
        """Calls back in the thread of the loop."""
        self._calls.append(callback)
        try:
            os.write(self._wake, b"\0")
        except BlockingIOError:
            # The pipe is full, so the loop wakes up anyway.
            pass

    def stop(self):
        """Lets `run` return."""
        self._running = False

    def run(self):
        """Calls back until `stop` is called."""
        self._running = True
        while self._running:
            self._run_calls()
            if not self._running:
                break
            for fd, events in self._poll.poll(self._wait_ms()):
                self._dispatch(fd, events)
            self._run_timers()

    def _set(self, callbacks, fd, callback):
        if callback is not None:
            callbacks[fd] = callback
        elif callbacks.pop(fd, None) is None:
            return
        wanted = (READABLE if fd in self._readers else 0) | (
            select.POLLOUT if fd in self._writers else 0
        )
        if wanted:
            self._poll.register(fd, wanted)
        else:
            # Even with no interest, poll would report a hangup again and again.
            self._poll.unregister(fd)

    def _dispatch(self, fd, events):
        if events & (READABLE | FAILED):
            reader = self._readers.get(fd)
            if reader is not None:
                reader()
        if events & (select.POLLOUT | FAILED):
            writer = self._writers.get(fd)
            if writer is not None:
                writer()

    def _run_calls(self):
        # Callbacks may add calls. These run in the next round, after a look at the descriptors.
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    def _run_timers(self):
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()

    def _wait_ms(self):
        """How long to wait, in milliseconds. `None`: until something happens."""
        if self._calls:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        seconds = self._timers[0][0] - time.monotonic()
        # Rounded up, so that the loop doesn't wake up just before a timer.
        return min(max(int(seconds * 1000) + 1, 0), 24 * 60 * 60 * 1000)

    def _drain_wakes(self):
        try:
            os.read(self._awake, 4096)
        except BlockingIOError:
            pass


class GuardedLoop:
    """A loop whose callbacks don't raise: `on_error` gets the exception instead."""

    def __init__(self, loop, on_error):
        self._loop = loop
        self._on_error = on_error

    def on_readable(self, fd, callback):
        self._loop.on_readable(fd, self.guard(callback))

    def on_writable(self, fd, callback):
        self._loop.on_writable(fd, self.guard(callback))

    def call_soon(self, callback):
        self._loop.call_soon(self.guard(callback))

    def call_later(self, seconds, callback):
        return self._loop.call_later(seconds, self.guard(callback))

    def call_from_thread(self, callback):
        self._loop.call_from_thread(self.guard(callback))

    def guard(self, callback):
        """The callback, with its errors caught."""
        if callback is None:
            return None

        def guarded(*args):
            try:
                callback(*args)
            except Exception as error:
                self._on_error(error)

        return guarded
