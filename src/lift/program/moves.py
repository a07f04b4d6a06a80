"""`Moves`: pairs the two halves of a rename."""

# How many seconds to wait for the second half of a rename. The kernel puts both halves into the
# queue at once, but not atomically.
WAIT = 0.02
# How many other events may come between the halves.
EVENTS = 16


class Move:
    """The first half of a rename: a file or directory that was moved away."""

    def __init__(self, cookie, path, is_directory):
        self.cookie = cookie
        self.path = path
        self.is_directory = is_directory


class Moves:
    """Pairs the two halves of a rename. Holds at most one move whose second half has not come."""

    def __init__(self):
        self.pending = None
        # How many events came after the pending move.
        self.events = 0

    def hold(self, first):
        self.pending = first
        self.events = 0

    def take(self, cookie):
        """Takes the pending move if it has this cookie."""
        if self.pending is None or self.pending.cookie != cookie:
            return None
        return self._take()

    def expire(self, path):
        """Takes the pending move if its second half is no longer expected. With `path`, does so
        only if the order of the move and of an event at `path` matters, or if too many events have
        come."""
        if self.pending is None:
            return None
        self.events += 1
        is_late = self.events > EVENTS
        if path is None or is_late or is_inside(path, self.pending.path):
            return self._take()
        return None

    def _take(self):
        first, self.pending = self.pending, None
        return first


def is_inside(path, directory):
    """Whether a path is a directory or below it."""
    return path == directory or path.startswith(directory + b"/")
