"""The operation `remove`."""

import errno
import os
import stat

from . import paths
from .places import GONE, Directories, Place, open_directory, read_names

# How many names of a directory are held in memory.
BATCH = 1024


def remove(request, io):
    """Removes a file, a link or an empty directory. With `recursive`, removes a directory's
    entries, too. Never follows a link. If it is cancelled, the other entries stay.
    """
    subject = paths.checked("remove", paths.decode(request["path"]))
    try:
        with _open_place(subject, io.home) as place:
            status = place.stat()
            if status is None:
                raise subject.fail_with(errno.ENOENT)
            if _is_home(status, io.home):
                raise subject.invalid("it is the home of the sandbox")
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(place.name, dir_fd=place.directory)
            elif request.get("recursive"):
                _remove_tree(subject, place, io)
            else:
                os.rmdir(place.name, dir_fd=place.directory)
    except OSError as error:
        raise subject.fail(error) from None
    return {}


def _open_place(subject, home):
    path = subject.on_machine(home).rstrip(b"/") or b"/"
    try:
        return Place.open(path)
    except IsADirectoryError:
        reason = "the path ends with '.', '..' or '/'; use the name of the directory"
        raise subject.invalid(reason) from None


def _is_home(status, home):
    try:
        home_status = os.stat(home)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (home_status.st_dev, home_status.st_ino)


def _remove_tree(subject, place, io):
    top = open_directory(place.name, place.directory)
    with Directories(top) as directories:
        tree = _Tree(directories, io)
        try:
            tree.remove_entries()
        except OSError as error:
            path = os.path.join(subject.path, *tree.names)
            raise paths.Subject(subject.what, path).fail(error) from None
    _ignore_missing(os.rmdir, place.name, dir_fd=place.directory)


class _Tree:
    """The removal of a tree."""

    def __init__(self, directories, io):
        self.directories = directories
        self.io = io
        # The names from the top directory to what is being removed.
        self.names = []

    def remove_entries(self):
        """Removes all entries of the top directory."""
        levels = [_Level()]
        while levels:
            level = levels[-1]
            if not level.entries and not level.is_last:
                level.read(self.directories.current, self.io.check)
            if level.entries:
                name, is_directory = level.entries.pop()
                self.names.append(name)
                if is_directory and self.enter(name):
                    levels.append(_Level())
                    continue
                if not is_directory:
                    self.unlink(name)
                self.names.pop()
                continue
            levels.pop()
            if levels:
                self.directories.leave()
                name = self.names[-1]
                _ignore_missing(os.rmdir, name, dir_fd=self.directories.current)
                self.names.pop()

    def enter(self, name):
        """Enters a directory. Returns `False` if it is already removed instead."""
        try:
            self.directories.enter(name)
            return True
        except OSError as error:
            if error.errno in GONE:
                # Code has replaced the directory.
                self.unlink(name)
                return False
            if error.errno != errno.EACCES:
                raise
            # The user may not read the directory, but can remove it if it is empty.
            try:
                _ignore_missing(os.rmdir, name, dir_fd=self.directories.current)
            except OSError:
                raise error from None
            return False

    def unlink(self, name):
        _ignore_missing(os.unlink, name, dir_fd=self.directories.current)


class _Level:
    """A directory whose entries are being removed."""

    def __init__(self):
        self.entries = []
        # Whether the directory has no other entries than these.
        self.is_last = False

    def read(self, directory, check):
        """Reads the first entries. The directory has no others before them."""
        self.entries, self.is_last = read_names(directory, check, BATCH)


def _ignore_missing(remove_entry, name, **options):
    """Removes an entry. Code may remove it at the same time."""
    try:
        remove_entry(name, **options)
    except FileNotFoundError:
        pass
