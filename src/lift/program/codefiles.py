"""`CodeFiles`: the files from which interpreters run code.

Code doesn't fit into an argument (128 KiB), and other users could read it there. A file also gives
tracebacks with source lines, and `multiprocessing` can import it again. An anonymous file (memfd)
gives neither: it has no path that a child could open.

With a file, Python would import modules from its directory instead of the working directory. The
module `sitecustomize` corrects that, see there.
"""

import os

from . import sitecustomize

SUFFIXES = {"python": b".py", "bash": b".sh"}


class CodeFiles:
    """A directory with the code of the running execs. Code may remove it at any time."""

    def __init__(self, home):
        temporary = os.environb.get(b"TMPDIR") or b"/tmp"
        # If there is no directory for temporary files, use the default directory.
        self._parents = [temporary, b"/tmp", home]
        self._directory = None
        self._count = 0

    def write(self, language, code):
        """Writes code to a new file, which no other user can read. Returns its path."""
        self._count += 1
        directory = os.path.join(self._make(), b"code")
        path = os.path.join(directory, b"main-%d%s" % (self._count, SUFFIXES[language]))
        write_private(path, code)
        return path

    def site(self):
        """The directory with `sitecustomize.py`. Valid after `write`."""
        return os.path.join(self._directory, b"site")

    def remove(self, path):
        """Removes the file of an exec that has ended."""
        try:
            os.unlink(path)
        except OSError:
            pass

    def close(self):
        """Removes the directory."""
        if self._directory is None:
            return
        for name in (b"code", b"site"):
            directory = os.path.join(self._directory, name)
            remove_directory(directory)
        remove_directory(self._directory)

    def _make(self):
        """Creates what is missing, and returns the directory."""
        if self._directory is None or not os.path.isdir(self._directory):
            self._directory = self._make_directory()
        for name in (b"code", b"site"):
            try:
                os.mkdir(os.path.join(self._directory, name), 0o700)
            except FileExistsError:
                pass
        path = os.path.join(self._directory, b"site", b"sitecustomize.py")
        if not os.path.exists(path):
            source = sitecustomize.__spec__.loader.get_source(sitecustomize.__name__)
            write_private(path, source.encode())
        return self._directory

    def _make_directory(self):
        name = b"lift-" + os.urandom(8).hex().encode()
        for parent in self._parents:
            path = os.path.join(os.path.abspath(parent), name)
            try:
                os.mkdir(path, 0o700)
                return path
            except OSError as error:
                problem = error
        raise problem


def write_private(path, content):
    """Writes a new file that only this user can read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        # A part of the file would be taken for all of it.
        os.unlink(path)
        raise


def remove_directory(path):
    """Removes a directory and the files in it, as far as that is possible."""
    try:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
    except OSError:
        pass
    try:
        os.rmdir(path)
    except OSError:
        pass
