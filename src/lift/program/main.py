"""`run`: the program. Serves v2's messages about execs over lines on stdin and stdout.

Exits with status 0 when the client asks it to, when the sandbox has been idle for too long, or when
stdin ends.
"""

import binascii
import os
import signal
import sys
import time

from .link import Link
from .loop import Loop
from .processes import Processes
from .requests import is_integer
from .table import Table

VERSION = 1

FEATURES = ["argv", "builtins", "binary", "signals", "terminals", "ports", "metrics"]

DEFAULT_IDLE_TIMEOUT_MS = 60 * 1000
MAX_IDLE_TIMEOUT_MS = 24 * 60 * 60 * 1000

ATTACHED_SECONDS = 30
"""A client that has sent nothing for this long counts as gone. While an exec is open, the client
pings every 10 s."""

KILL_SECONDS = 5
"""How long execs may take to end when the program is about to end."""


class Main:
    """The receiver of the link. Puts the parts together."""

    def __init__(self):
        self.name = binascii.hexlify(os.urandom(8)).decode()
        """Random. From a new name, the client sees that this is another program, and doesn't repeat
        requests that the old one may have run."""
        self.loop = Loop()
        self.link = Link(self.loop, 0, 1, self)
        self.processes = Processes(self.loop)
        self.table = Table(self.loop, self.link, self.processes, self._handle_done)
        self._idle_seconds = DEFAULT_IDLE_TIMEOUT_MS / 1000
        self._active_at = self._heard_at = time.monotonic()
        self._idle_timer = None
        self._ending = False

    def run(self, received):
        """Returns when the program is to end."""
        self._set_idle_timer()
        self.link.start(received)
        self.loop.run()

    def handle_hello(self, message):
        self._heard_at = time.monotonic()
        self._note_activity()
        idle_ms = message.get("idle_timeout_ms")
        if is_integer(idle_ms) and idle_ms > 0:
            self._idle_seconds = min(idle_ms, MAX_IDLE_TIMEOUT_MS) / 1000
            self._set_idle_timer()
        self.table.detach()
        python = "%d.%d.%d" % sys.version_info[:3]
        hello = {"lift": "hello", "version": VERSION, "features": FEATURES, "python": python}
        hello["program"] = self.name
        self.link.send(hello)

    def handle_message(self, message):
        self._heard_at = time.monotonic()
        kind = message.get("lift")
        if kind == "ping":
            self.link.send({"lift": "pong"})
            return
        self._note_activity()
        if kind == "stop":
            self._stop()
        elif kind == "quit":
            self.handle_end()
        elif kind is None:
            self.table.handle(message)

    def handle_end(self):
        """The client is about to kill the sandbox, has closed stdin, or no longer reads stdout.
        Kills all execs, and ends when they have ended."""
        self._ending = True
        self.table.kill_all()
        self.loop.call_later(KILL_SECONDS, self.loop.stop)
        self._handle_done()

    def _handle_done(self):
        """An exec has ended."""
        self._note_activity()
        if self._ending and self.table.are_all_done():
            self.loop.stop()

    def _stop(self):
        busy = self.table.count_busy()
        if busy:
            self.link.send({"lift": "busy", "execs": busy})
        else:
            self.link.leave(self.loop.stop)

    def _note_activity(self):
        self._active_at = time.monotonic()

    def _set_idle_timer(self):
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        wait = self._active_at + self._idle_seconds - time.monotonic()
        self._idle_timer = self.loop.call_later(max(wait, 0), self._check_idle)

    def _check_idle(self):
        is_attached = time.monotonic() - self._heard_at < ATTACHED_SECONDS
        if self.table.is_busy(is_attached):
            # The end of an exec is an activity as well.
            self._note_activity()
        if time.monotonic() - self._active_at >= self._idle_seconds:
            self.link.leave(self.loop.stop)
        else:
            self._set_idle_timer()


def run(received):
    """Runs the program, and ends the process. `received` are the bytes that were read from stdin
    after the sources."""
    reset_signals()
    reset_descriptors()
    status = 1
    main = Main()
    try:
        main.run(received)
        status = 0
    except Exception:
        # Loaded late, because it is not needed otherwise.
        import traceback

        traceback.print_exc()
    finally:
        main.processes.close()
        # Doesn't wait for the threads of builtins.
        os._exit(status)


def reset_signals():
    """Undoes what the service may have changed, for this program and for code. SIGPIPE stays
    ignored here."""
    kept = (signal.SIGPIPE, signal.SIGXFSZ)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        is_changed = handler is signal.SIG_IGN or number == signal.SIGINT
        if is_changed and number not in kept:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def reset_descriptors():
    """Makes sure that code inherits no descriptor of the service. Python itself opens all
    descriptors so that they are closed on exec."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2:
                os.set_inheritable(number, False)
        except OSError:
            # The descriptor of the listing itself.
            pass
    try:
        os.fstat(2)
    except OSError:
        # Otherwise a pipe could become stderr.
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
