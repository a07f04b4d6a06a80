"""The operation `pack`: writes a tar archive of a directory or a file."""

import contextlib
import json
import os
import stat

from . import archive, paths
from .places import GONE, Directories, read_names
from .reading import chunks, next_data

# The output is written in pieces of at least this size, except the last one.
PIECE = 64 * 1024
# Maximum number of pieces between the holes of a file. A file with more is stored without holes,
# because a reader keeps the list in memory.
MAX_PIECES = 65_536
# Maximum number of skipped files that the result lists.
MAX_SKIPPED = 1_000
# Maximum length of the list of skipped files as JSON. The rest of the result takes less than 1 KiB.
MAX_SKIPPED_BYTES = 63 * 1024

SPECIAL = "it is a pipe, a socket or a device"
REMOVED = "it was removed while the directory was packed"


def pack(request, io):
    """Writes an archive to stdout. If it fails, the archive is incomplete."""
    subject = paths.checked("pack", paths.decode(request["path"]), may_be_empty=True)
    source = subject.on_machine(io.home)
    packer = _Packer(subject, io)
    try:
        # An attempt to open a device could change its state.
        _check_source(subject, os.stat(source))
        top = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(top)
        if stat.S_ISDIR(status.st_mode):
            packer.add_tree(top)
        else:
            with _closing(top):
                _check_source(subject, status)
                packer.add_file(os.path.basename(source), top, status)
    except OSError as error:
        raise subject.fail(error) from None
    return packer.finish()


def check_pack(request):
    paths.check_path(request, "path")


def _check_source(subject, status):
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise subject.not_a_file()


@contextlib.contextmanager
def _closing(fd):
    """Closes a descriptor at the end of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


class _Packer:
    """The archive that is being written, and the numbers for the result."""

    def __init__(self, subject, io):
        self._subject = subject
        self._io = io
        self._output = _Output(io)
        self._bytes = 0
        self._entries = 0
        self._skipped = []
        self._skipped_count = 0

    def add_tree(self, top):
        """Adds the entries of an open directory, and closes it. Names are relative to it."""
        with Directories(top) as directories:
            levels = [(b"", self._names(directories))]
            while levels:
                prefix, names = levels[-1]
                name = next(names, None)
                if name is not None:
                    self._io.check()
                    path = prefix + name
                    below = self._add(directories, name, path)
                    if below is not None:
                        levels.append((path + b"/", below))
                    continue
                levels.pop()
                if levels:
                    directories.leave()

    def add_file(self, path, file, status):
        """Adds an open file. Its size in the archive is that of `status`, even if it grows."""
        pieces = _between_holes(file, status)
        kind = archive.FILE if pieces is None else archive.SPARSE
        self._begin(path, kind, status, size=status.st_size, pieces=pieces)
        self._bytes += status.st_size
        stored = 0
        for start, end in [(0, status.st_size)] if pieces is None else pieces:
            for _, chunk in chunks(file, start, end - start):
                self._output.write(chunk)
                start += len(chunk)
                stored += len(chunk)
            if start < end:
                reason = "it became shorter while it was packed. Pack it again"
                raise self._subject.refuse("other", reason)
        self._output.write(bytes(archive.padding(stored)))

    def finish(self):
        """Ends the archive. Returns the result."""
        self._output.write(archive.ZERO_BLOCK * 2)
        self._output.flush()
        result = {"bytes": self._bytes, "entries": self._entries}
        if self._skipped_count:
            result["skipped"] = self._listed_skipped()
            result["skipped_count"] = self._skipped_count
        return result

    def _add(self, directories, name, path):
        """Adds an entry of the current directory.

        If it is a directory, it becomes the current one, and the names in it are returned.
        """
        top = self._subject
        self._subject = paths.Subject(top.what, os.path.join(top.path, path))
        written = self._output.written
        try:
            status = os.stat(name, dir_fd=directories.current, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return self._add_directory(directories, name, path)
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(name, dir_fd=directories.current)
                self._begin(path, archive.LINK, status, target=target)
            elif stat.S_ISREG(status.st_mode):
                self._add_regular(directories, name, path)
            else:
                self._skip(path, SPECIAL)
        except OSError as error:
            if error.errno not in GONE or self._output.written != written:
                raise self._subject.fail(error) from None
            self._skip(path, REMOVED)
        finally:
            self._subject = top
        return None

    def _add_directory(self, directories, name, path):
        directories.enter(name)
        try:
            names = self._names(directories)
            self._begin(path, archive.DIRECTORY, os.fstat(directories.current))
            return names
        except BaseException:
            directories.leave()
            raise

    def _add_regular(self, directories, name, path):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        with _closing(os.open(name, flags, dir_fd=directories.current)) as file:
            status = os.fstat(file)
            if stat.S_ISREG(status.st_mode):
                self.add_file(path, file, status)
            else:
                self._skip(path, REMOVED)

    def _names(self, directories):
        entries, _ = read_names(directories.current, self._io.check)
        return iter(sorted(name for name, _ in entries))

    def _begin(self, path, kind, status, **fields):
        self._entries += 1
        self._output.write(archive.encode_entry(path, kind, status, **fields))

    def _skip(self, path, reason):
        self._skipped_count += 1
        if len(self._skipped) < MAX_SKIPPED:
            self._skipped.append({"path": paths.encode(path), "reason": reason})

    def _listed_skipped(self):
        """Returns as many skipped files as fit in the result."""
        left = MAX_SKIPPED_BYTES
        for number, skipped in enumerate(self._skipped):
            left -= len(json.dumps(skipped)) + 1
            if left < 0:
                return self._skipped[:number]
        return self._skipped


class _Output:
    """Joins small parts of the archive to larger pieces."""

    def __init__(self, io):
        self._io = io
        self._parts = []
        self._size = 0
        self.written = 0

    def write(self, part):
        self._parts.append(part)
        self._size += len(part)
        self.written += len(part)
        if self._size >= PIECE:
            self.flush()

    def flush(self):
        parts, self._parts, self._size = self._parts, [], 0
        self._io.write(b"".join(parts))


def _between_holes(file, status):
    """Returns the ranges of data between the holes of a file.

    Returns `None` if it has no holes, if the file system doesn't report them, or if an archive
    can't contain them.
    """
    size = status.st_size
    if status.st_blocks * 512 >= size:
        return None
    pieces = []
    end = 0
    try:
        while True:
            data = next_data(file, end, size)
            if data is None:
                break
            start, end = data
            # Each piece but the last fills whole blocks of the archive.
            is_whole = end == size or archive.padding(end - start) == 0
            if len(pieces) == MAX_PIECES or start == end or not is_whole:
                return None
            pieces.append(data)
    except OSError:
        return None
    return None if pieces == [(0, size)] else pieces


OPERATIONS = {"pack": pack}
CHECKS = {"pack": check_pack}
