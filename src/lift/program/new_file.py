"""`NewFile` writes a file atomically, by way of a temporary file. `new_directories` creates
directories that are removed again if the operation fails.
"""

import contextlib
import errno
import os
import stat

# How the name of an unfinished file begins. 16 random hexadecimal digits follow.
UNFINISHED = b".actix-sandbox-"
# Maximum number of bytes in a path, with the zero byte at its end.
MAX_PATH = 4096
# Only the user may read a file before it has its permissions.
PRIVATE = 0o600


def unfinished_name():
    """Returns a hidden name that is random, so that code can't prepare a file of this name."""
    return UNFINISHED + os.urandom(8).hex().encode()


def write_all(fd, data):
    """Writes all bytes. `os.write` may write only some of them."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


class NewFile:
    """A temporary file beside the place of the new file. It is removed unless it is committed.

    Without `permissions`, the file gets 0644 minus the umask.
    """

    def __init__(self, place, permissions):
        self._place = place
        self._permissions = permissions
        self._temporary = unfinished_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        mode = 0o644 if permissions is None else PRIVATE
        self.fd = os.open(self._temporary, flags, mode, dir_fd=place.directory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Ignore errors: the caller reports the one that came before.
        with contextlib.suppress(OSError):
            self._close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._place.directory)

    def commit(self, is_exclusive, io):
        """Moves the file to its place. If the operation was cancelled, raises without moving it.

        With `is_exclusive`, raises `FileExistsError` if anything exists there.
        """
        if self._permissions is not None:
            os.fchmod(self.fd, self._permissions)
        # Some file systems report only now that the disk is full.
        self._close()
        io.check()
        directory, name = self._place.directory, self._place.name
        if not is_exclusive:
            os.rename(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            self._temporary = None
            return
        # A hard link never replaces a file. Then only the old name is left to be removed, and the
        # operation has succeeded even if that fails.
        os.link(
            self._temporary,
            name,
            src_dir_fd=directory,
            dst_dir_fd=directory,
            follow_symlinks=False,
        )

    def _close(self):
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)


@contextlib.contextmanager
def new_directories(path):
    """Creates a directory and its missing parents. Removes them again if the body raises."""
    created = []
    try:
        create_directories(path, created)
        yield
    except BaseException:
        for directory in reversed(created):
            # Fails if another process has put a file there.
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise


@contextlib.contextmanager
def new_parents(subject, path):
    """Like `new_directories`, for the parent of a path. Raises the errors of `subject`."""
    parent = next(_parents(path), b"/")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(new_directories(parent))
        except FileExistsError:
            raise subject.fail_with(errno.ENOTDIR) from None
        except OSError as error:
            raise subject.fail(error) from None
        yield


def create_directories(path, created):
    """Creates a directory and its missing parents, and appends their paths to `created`."""
    # Otherwise, thousands of directories would be created and removed before the failure.
    if len(path) >= MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    missing = []
    for directory in (path, *_parents(path)):
        if _is_directory(directory):
            break
        missing.append(directory)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o755)
            created.append(directory)
        except FileExistsError:
            # Another process may have created it.
            if _is_directory(directory):
                continue
            if directory != missing[0]:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            raise


def _parents(path):
    """Yields the parents of an absolute path, without `/`."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    for length in range(len(names) - 1, 0, -1):
        yield b"/" + b"/".join(names[:length])


def _is_directory(path):
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
