"""`watch`: writes the changes below a path to stdout.

A recursive watch has an inotify watch for each directory. When a directory appears, each of its
entries is reported as created once, whether the entry came before or after the inotify watch. A
directory that the user may not read is not watched. If the kernel has lost events, or the limit on
watches is reached, an overflow is reported.

All paths in here are relative to the watched path, the root, which is the empty path.
"""

import errno
import json
import os

from . import inotify, moves, paths
from .moves import is_inside
from .new_file import UNFINISHED
from .places import GONE as NO_DIRECTORY
from .places import open_directory
from .requests import boolean_of

# The output is written in pieces of this size.
PIECE = 64 * 1024
# How many times to read the queue before looking at the input again.
READS = 64
# Maximum number of directories to watch. The kernel has a limit as well.
MAX_WATCHES = 65536
# Maximum number of names in new directories to remember.
MAX_SEEN = 65536

CHANGES = (
    inotify.IN_CREATE
    | inotify.IN_MODIFY
    | inotify.IN_ATTRIB
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVE_SELF
)
GONE = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT | inotify.IN_IGNORED

HEX_DIGITS = b"0123456789abcdefABCDEF"

# The errors for a directory that can't be watched although it exists.
NO_WATCH = (errno.ENOSPC, errno.ENOMEM, errno.ENAMETOOLONG)


def watch(request, io):
    """Writes changes until the input ends, or until the path itself is removed, moved or replaced,
    which is reported as its removal."""
    subject = paths.checked("watch", paths.decode(request["path"]), may_be_empty=True)
    queue = None
    try:
        queue = inotify.Inotify()
        watcher = Watcher(subject.on_machine(io.home), request.get("recursive", False), queue, io)
        start(watcher, subject)
        watcher.run()
    except OSError as error:
        raise subject.fail(error) from None
    finally:
        if queue is not None:
            queue.close()
    return {}


def start(watcher, subject):
    try:
        watcher.start()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        reason = "the limit on watches is reached; end another watch"
        raise subject.refuse("other", reason) from None


class Watcher:
    """The state of a watch."""

    def __init__(self, root, is_recursive, queue, io):
        self.io = io
        self.root = root
        self.is_recursive = is_recursive
        self.queue = queue
        self.root_watch = None
        # The paths of the watched directories.
        self.watches = {}
        # Entries of new directories that were already reported as created. The queue may contain
        # their creation a second time.
        self.seen = set()
        self.moves = moves.Moves()
        # Lines that are not written yet.
        self.output = bytearray()
        # Whether the last line is an overflow.
        self.is_lossy = False
        self.has_ended = False

    def run(self):
        # This stays in the buffer until all directories are watched. Only an overflow can follow
        # it before that.
        self.report({"event": "ready"})
        self.add_entries(b"", False)
        self.write()
        while not self.has_ended:
            timeout = None if self.moves.pending is None else moves.WAIT
            has_changes = bool(self.io.wait([self.queue.fd], timeout))
            has_input_ended = self.io.input_ended()
            if has_changes:
                self.read_queue()
            elif not has_input_ended:
                self.settle_moves()
            if has_input_ended and not self.has_ended:
                self.read_queue()
                self.settle_moves()
                self.has_ended = True
            self.write()

    def start(self):
        """Watches the root."""
        self.root_watch = self.queue.add_watch(self.root, CHANGES)
        self.watches[self.root_watch] = b""

    def restart(self):
        """Starts again with a new queue after events were lost."""
        self.queue.reopen()
        self.watches.clear()
        self.seen.clear()
        self.moves = moves.Moves()
        try:
            self.start()
        except (FileNotFoundError, NotADirectoryError):
            self.end()
            return
        self.add_entries(b"", False)
        self.report({"event": "overflow"})

    # Events

    def read_queue(self):
        for _ in range(READS):
            events = self.queue.read_events()
            if not events:
                # The queue is empty, so later creations are those of other entries.
                self.seen.clear()
                return
            for event in events:
                if event.mask & inotify.IN_Q_OVERFLOW:
                    # The remaining events are from the old queue.
                    self.restart()
                    break
                if event.name is None:
                    self.handle_self(event)
                else:
                    self.handle(event)
                if self.has_ended:
                    return

    def handle(self, event):
        """Handles an event of an entry of a watched directory."""
        directory = self.watches.get(event.watch)
        if directory is None:
            return
        path = join(directory, event.name)
        if event.mask & inotify.IN_MOVED_TO:
            old = self.moves.take(event.cookie)
            if old is not None:
                self.renamed(old, path)
                return
        self.settle_moves(path)
        if event.mask & inotify.IN_CREATE and path in self.seen:
            self.seen.remove(path)
        elif event.mask & (inotify.IN_CREATE | inotify.IN_MOVED_TO):
            self.report_path("created", path)
            if event.mask & inotify.IN_ISDIR and self.is_recursive:
                self.add_directory(path)
        elif event.mask & inotify.IN_MOVED_FROM:
            self.settle_moves()
            self.seen.discard(path)
            is_directory = bool(event.mask & inotify.IN_ISDIR)
            self.moves.hold(moves.Move(event.cookie, path, is_directory))
        elif event.mask & inotify.IN_DELETE:
            self.seen.discard(path)
            self.report_path("removed", path)
        else:
            self.report_path("modified", path)

    def handle_self(self, event):
        """Handles an event of a watched file or directory itself. The directory that contains it
        has an event of its own, unless it is the root."""
        if event.watch == self.root_watch:
            # While a process has the removed file open, the kernel doesn't report its deletion.
            if event.mask & GONE or not os.path.exists(self.root):
                self.end()
            else:
                self.report_path("modified", b"")
        elif event.mask & inotify.IN_IGNORED:
            self.watches.pop(event.watch, None)

    def end(self):
        """Ends the watch, because the root was removed or moved."""
        self.settle_moves()
        self.has_ended = True
        self.report_path("removed", b"")

    def renamed(self, old, to):
        event = {"event": "renamed", "path": paths.encode(old.path), "to": paths.encode(to)}
        if is_unfinished(old.path):
            event = {"event": "created", "path": event["to"]}
        self.report(event)
        if old.is_directory and self.is_recursive:
            for watch, path in self.watches.items():
                if is_inside(path, old.path):
                    self.watches[watch] = to + path[len(old.path) :]
            self.add_directory(to)

    def settle_moves(self, path=None):
        """Reports the file of a pending move as removed, because the second half of the move has
        not come. With `path`, does so only if the order of the move and of the event at `path`
        matters, or if the second half is overdue."""
        old = self.moves.expire(path)
        if old is None:
            return
        if old.is_directory:
            self.remove_watches(old.path)
        self.report_path("removed", old.path)

    # Directories

    def add_directory(self, path):
        """Watches a directory that appeared below the root. If it was not yet watched at this
        path, reports its entries as created."""
        if self.add_watch(path):
            self.add_entries(path, True)

    def add_entries(self, path, is_new):
        """Watches the directories in a directory that is watched, at every depth. Reports the
        entries as created if `is_new`."""
        directories = [path] if self.is_recursive else []
        while directories:
            self.io.check()
            directory = directories.pop()
            for name, is_directory in self.entries(directory):
                path = join(directory, name)
                if is_new:
                    self.report_new(path)
                if is_directory and self.add_watch(path):
                    directories.append(path)

    def report_new(self, path):
        """Reports an entry of a new directory."""
        if len(self.seen) < MAX_SEEN:
            self.report_path("created", path)
            self.seen.add(path)
        else:
            self.report({"event": "overflow"})

    def entries(self, directory):
        """The entries of a directory: the name, and whether it is a directory. Empty if code has
        removed or replaced the directory, or if the user may not read it."""
        try:
            if directory:
                descriptor = open_directory(self.absolute(directory), None)
            else:
                # The root can be a link.
                descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in NO_DIRECTORY or error.errno == errno.EACCES:
                return []
            raise
        try:
            with os.scandir(descriptor) as entries:
                return [(os.fsencode(it.name), may_be_directory(it)) for it in entries]
        finally:
            os.close(descriptor)

    def add_watch(self, path):
        """Watches a directory below the root. Returns whether it was not yet watched at this
        path."""
        if len(self.watches) >= MAX_WATCHES:
            self.report({"event": "overflow"})
            return False
        flags = CHANGES | inotify.IN_ONLYDIR | inotify.IN_DONT_FOLLOW
        try:
            watch = self.queue.add_watch(self.absolute(path), flags)
        except OSError as error:
            if error.errno in NO_DIRECTORY or error.errno == errno.EACCES:
                return False
            if error.errno in NO_WATCH:
                self.report({"event": "overflow"})
                return False
            raise
        if watch == self.root_watch:
            return False
        earlier = self.watches.get(watch)
        self.watches[watch] = path
        return earlier != path

    def remove_watches(self, directory):
        """Ends the watches of a directory that was moved out of the root."""
        for watch, path in list(self.watches.items()):
            if is_inside(path, directory):
                del self.watches[watch]
                try:
                    self.queue.remove_watch(watch)
                except OSError:
                    # The directory was deleted meanwhile.
                    pass

    def absolute(self, path):
        return os.path.join(self.root, path) if path else self.root

    # Output

    def report_path(self, event, path):
        """Adds a line about a path, unless the path doesn't exist for the client."""
        if not is_unfinished(path):
            self.report({"event": event, "path": paths.encode(path)})

    def report(self, event):
        """Adds a line to the output. Doesn't repeat an overflow."""
        is_lossy = event["event"] == "overflow"
        if is_lossy and self.is_lossy:
            return
        self.is_lossy = is_lossy
        self.output += json.dumps(event, separators=(",", ":")).encode() + b"\n"
        if len(self.output) >= PIECE:
            self.write()

    def write(self):
        if self.output:
            self.io.write(bytes(self.output))
            self.output.clear()


def is_unfinished(path):
    """Whether a path is an unfinished file of a builtin, which doesn't exist for the client. Its
    rename creates the file."""
    name = path.rpartition(b"/")[2]
    random = name[len(UNFINISHED) :]
    return name.startswith(UNFINISHED) and len(random) == 16 and not random.strip(HEX_DIGITS)


def may_be_directory(entry):
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        # Code has removed or locked it. `add_watch` succeeds only for a directory.
        return True


def join(directory, name):
    return directory + b"/" + name if directory else name


def check_watch(request):
    paths.check_path(request, "path")
    boolean_of(request, "recursive", False)


CHECKS = {"watch": check_watch}
OPERATIONS = {"watch": watch}
