"""`Sweep`: kills all processes of an exec, also those that have left its session.

A pass looks at every process in `/proc` and kills those that belong to the exec: they carry its
mark, or are in its session, or descend from such a process. Passes follow each other until two in a
row find none. This is best effort: root can remove the mark, and where a limit can't be the mark
(see `marks`), a process that clears its environment, starts a session and loses its parent is not
found.
"""

import itertools
import os
import signal
import time

from .marks import limit_of, mark_of

GIVE_UP_AFTER = 10.0
"""How many seconds a sweep tries."""

CLEAN_PASSES = 2
"""How many passes in a row must find nothing."""

CLEAN_PASSES_BY_ENVIRONMENT = 5
"""The same if only the environment is a mark: a process has none for a moment while it executes a
program."""

ROUNDS = 8
"""How many times to look for processes that were started meanwhile."""

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.02

CANNOT_KILL = "Some processes did not end after SIGKILL."


class Sweep:
    """One exec whose processes are to be killed. `on_swept(None)` is called at the end, or with a
    reason."""

    def __init__(self, mark, session, on_swept):
        self.mark = mark
        self.session = session
        self.on_swept = on_swept
        self.clean = 0
        self.give_up_at = time.monotonic() + GIVE_UP_AFTER

    def note(self, found):
        """A pass has found these processes. Returns whether the sweep is over."""
        self.clean = 0 if found else self.clean + 1
        needed = CLEAN_PASSES if self.mark.is_limit else CLEAN_PASSES_BY_ENVIRONMENT
        if self.clean >= needed:
            self.on_swept(None)
        elif found and time.monotonic() >= self.give_up_at:
            self.on_swept(CANNOT_KILL)
        else:
            return False
        return True


class Sweeps:
    """All sweeps that are under way, in the loop. They share each look at all processes."""

    def __init__(self, loop):
        self._loop = loop
        self._active = []
        self._timer = None
        self._pause = FIRST_PAUSE

    def add(self, sweep):
        self._active.append(sweep)
        self._pause = FIRST_PAUSE
        if self._timer is not None:
            self._timer.cancel()
        # Later in this round of the loop, so that kills that arrive together share a pass.
        self._timer = self._loop.call_later(0, self._pass)

    def _pass(self):
        self._timer = None
        try:
            found = find({it.mark.value: it.session for it in self._active})
        except OSError as error:
            active, self._active = self._active, []
            for it in active:
                it.on_swept("The processes can't be listed: %s." % error.strerror)
            return
        for pids in found.values():
            kill_all(pids)
        active, self._active = self._active, []
        for it in active:
            if not it.note(found[it.mark.value]):
                self._active.append(it)
        if self._active and self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._pass)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)


def kill_all(pids):
    """Kills processes that were stopped. `pids` lists parents before their children."""
    # Children first: the kernel continues stopped processes whose group is orphaned.
    for pid in reversed(pids):
        send(pid, signal.SIGKILL)


def send(pid, number):
    try:
        os.kill(pid, number)
    except OSError:
        # It has ended, or belongs to another user.
        pass


def find(wanted):
    """Finds the living processes of execs. `wanted` has the session of each by its mark. They carry
    the mark, are in the session, or are below such a process. Stops them, so that none can react to
    the death of another. Returns lists of their ids by the marks, parents before their children."""
    stop_by_limit(wanted)
    by_session = {session: mark for mark, session in wanted.items()}
    found = {mark: set() for mark in wanted}
    children = {}
    for pid in pids():
        stat = read_stat(pid)
        if stat is None:
            continue
        parent, own_session = stat
        children.setdefault(parent, []).append(pid)
        mark = mark_of(pid)
        # Session ids are reused. Marks are not.
        mark = by_session.get(own_session) if mark is None else mark
        if mark in found:
            send(pid, signal.SIGSTOP)
            found[mark].add(pid)
    ordered = {mark: with_descendants(pids, children) for mark, pids in found.items()}
    for pid in itertools.chain.from_iterable(ordered.values()):
        send(pid, signal.SIGSTOP)
    return ordered


def stop_by_limit(wanted):
    """Stops the processes whose mark is a limit, which is faster to read than everything else. A
    process that starts the next one and ends, again and again, is stopped only if it is seen in the
    short time that it lives."""
    known = set()
    for _ in range(ROUNDS):
        new = [pid for pid in pids() if pid not in known]
        if not new:
            break
        known.update(new)
        for pid in new:
            if limit_of(pid) in wanted:
                send(pid, signal.SIGSTOP)


def with_descendants(found, children):
    """`found` and everything below, parents first."""
    below = {child for pid in found for child in children.get(pid, ())}
    ordered = [pid for pid in found if pid not in below]
    seen = set(ordered)
    for pid in ordered:
        for child in children.get(pid, ()):
            if child not in seen:
                seen.add(child)
                ordered.append(child)
    return ordered


def pids():
    """All processes but this one, the newest first as long as their numbers grow."""
    own = os.getpid()
    numbers = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return sorted((pid for pid in numbers if pid != own), reverse=True)


def read_stat(pid):
    """The parent and the session of a process. `None` if it has ended."""
    try:
        with open("/proc/%d/stat" % pid, "rb", buffering=0) as file:
            stat = file.read(4096)
    except OSError:
        return None
    # The name of the program is in parentheses, and may contain any bytes.
    fields = stat.rpartition(b")")[2].split()
    # If only the main thread has ended, the process looks like a zombie, but has other threads.
    if len(fields) < 18 or fields[0] == b"X" or fields[0] == b"Z" and int(fields[17]) < 2:
        return None
    return int(fields[1]), int(fields[3])
