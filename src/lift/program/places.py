"""Open directories. `Place` is a name in one. `Directories` walks down a tree and follows no link.

Another process may rename or replace directories while an operation runs. A name in an open
directory stays the same place, and a directory that is opened by its name is never a link.
"""

import errno
import os
import stat

# Maximum number of links to follow, the same as in Linux.
MAX_LINKS = 40
# How to open a directory to use the files in it.
SEARCH = os.O_PATH | os.O_DIRECTORY
# The errors of opening a directory that another process has removed or replaced. ENXIO is the error
# for a socket.
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
# How many of its directories `Directories` keeps open.
MAX_OPEN = 16


class Place:
    """A name in an open directory. It must be closed."""

    def __init__(self, directory, name):
        self.directory = directory
        self.name = name

    @classmethod
    def open(cls, path, directory=None):
        """Opens the directory of a path. EISDIR if the path ends with `/`, `.` or `..`."""
        parent, name = _split(path)
        return cls(os.open(parent, SEARCH, dir_fd=directory), name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        os.close(self.directory)

    def stat(self):
        """Returns the status of the file here, or of the link itself. `None` if none exists."""
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def follow(self):
        """Moves to the place that a link here points to. Returns the status of the file there."""
        for _ in range(MAX_LINKS):
            status = self.stat()
            if status is None or not stat.S_ISLNK(status.st_mode):
                return status
            target = os.readlink(self.name, dir_fd=self.directory)
            place = Place.open(target, self.directory)
            self.close()
            self.directory, self.name = place.directory, place.name
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


class Directories:
    """The directories from a top directory down to the current one.

    Only the top and the last few directories are open, so the depth of a tree is not limited by
    the number of descriptors. A parent is opened again by way of `..`, and must be the same
    directory as before.
    """

    def __init__(self, top):
        self._levels = [_Level(top)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for level in self._levels:
            level.close()

    def __len__(self):
        return len(self._levels)

    @property
    def current(self):
        """The descriptor of the current directory."""
        return self._levels[-1].fd

    def enter(self, name):
        """Makes a directory in the current directory the current one."""
        self._levels.append(_Level(open_directory(name, self.current)))
        oldest = len(self._levels) - MAX_OPEN - 1
        if oldest > 0:
            self._levels[oldest].close()

    def leave(self, finish=None):
        """Makes the parent of the current directory the current one.

        Calls `finish` with the descriptor of the directory before it is closed.
        """
        # If `finish` takes away permissions, `..` can't be opened any more.
        self._levels[-2].open_again(self.current)
        if finish is not None:
            finish(self.current)
        self._levels.pop().close()


class _Level:
    """A directory of a tree, which may be closed for a while."""

    def __init__(self, fd):
        self.fd = fd
        status = os.fstat(fd)
        self._identity = (status.st_dev, status.st_ino)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def open_again(self, child):
        """Opens the directory, if it is closed, as the parent of an open directory."""
        if self.fd is not None:
            return
        parent = _Level(os.open(b"..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=child))
        if parent._identity != self._identity:
            parent.close()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self.fd = parent.fd


def open_directory(name, parent):
    """Opens a directory to read its entries. Follows no link, and doesn't block.

    Without `O_DIRECTORY`: if that is set, some versions of gVisor follow a link despite
    `O_NOFOLLOW`.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    directory = os.open(name, flags, dir_fd=parent)
    if not stat.S_ISDIR(os.fstat(directory).st_mode):
        os.close(directory)
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return directory


def read_names(directory, check, limit=None):
    """Reads up to `limit` entries of a directory: its names as bytes, and which are directories.

    Returns the entries, and whether these are all. Calls `check` now and then.
    """
    entries = []
    check()
    with os.scandir(directory) as found:
        for entry in found:
            if len(entries) == limit:
                return entries, False
            entries.append((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)))
            if len(entries) % 4096 == 0:
                check()
    return entries, True


def _split(path):
    """Returns the directory and the name that a path consists of."""
    parent, slash, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if slash and not parent:
        parent = b"/"
    return parent or b".", name
