"""The operation `unpack`: reads a tar archive into a directory, or one file to a path.

An archive is hostile input. Its entries are in depth-first order, so the directory of an entry is
open when the entry comes. Each directory is opened by its name in its parent, and never through a
link. So nothing is written outside of the destination.
"""

import contextlib
import errno
import os
import stat

from . import archive, paths
from .archive import InvalidArchive
from .archive_reader import ArchiveReader, Truncated
from .new_file import MAX_PATH, PRIVATE, create_directories, unfinished_name, write_all
from .places import SEARCH, Directories
from .reading import MAX_OFFSET
from .requests import boolean_of

# The types that are refused, as messages name them.
NAMES_OF_TYPES = {
    b"1": "a hard link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
}
IN_PLACE = "a directory is in its place. Remove the directory or choose another path"
# The largest time that the operating system accepts, in seconds.
MAX_SECONDS = 2**63 - 1


def unpack(request, io):
    """Unpacks an archive from stdin. If it fails, the entries that it has unpacked stay."""
    path = paths.decode(request["path"])
    is_file = bool(request.get("file"))
    paths.checked("unpack into", path, may_be_empty=not is_file)
    subject = paths.Subject("unpack", path)
    try:
        if is_file:
            return _unpack_file(subject, io)
        return _unpack_directory(subject, subject.on_machine(io.home), io)
    except InvalidArchive as error:
        raise subject.invalid(str(error)) from None
    except OSError as error:
        raise subject.fail(error) from None


def check_unpack(request):
    paths.check_path(request, "path")
    boolean_of(request, "file", None)


def _unpack_directory(subject, destination, io):
    create_directories(destination, [])
    with Directories(os.open(destination, SEARCH)) as directories:
        unpacker = _Unpacker(subject, directories, None)
        unpacker.unpack(ArchiveReader(io))
    return unpacker.result()


def _unpack_file(subject, io):
    """Unpacks the only file of an archive, and then moves it to its path."""
    path = subject.on_machine(io.home)
    directory, _, name = path.rpartition(b"/")
    if name in (b"", b"."):
        raise subject.is_a_directory()
    if name == b"..":
        raise subject.invalid("the path has no file name")
    directory = directory or b"/"
    try:
        create_directories(directory, [])
    except FileExistsError:
        raise subject.fail_with(errno.ENOTDIR) from None
    with Directories(os.open(directory, SEARCH)) as directories:
        place = directories.current
        _check_replaced(subject, name, place)
        temporary = unfinished_name()
        unpacker = _Unpacker(subject, directories, temporary)
        try:
            unpacker.unpack(ArchiveReader(io))
            if not unpacker.entries:
                raise InvalidArchive("it contains no file")
            io.check()
            os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=place)
            raise
    return unpacker.result()


def _check_replaced(subject, name, directory):
    """Raises an error if something other than a file or a link is at the path."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise subject.refuse("is_a_directory", IN_PLACE)
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise subject.not_a_file()


class _OpenDirectory:
    """A directory that may get more entries."""

    def __init__(self, names, entry):
        self.names = names
        self.modified_ns = entry.modified_ns
        self.permissions = entry.permissions

    def finish(self, fd):
        """Sets what a directory gets after its entries. Until then, it must be writable."""
        _set_time(fd, self.modified_ns)
        os.fchmod(fd, self.permissions)


class _Unpacker:
    """Unpacks entries below the current directory of `directories`.

    With `only`, the archive must contain exactly one file, which gets this name.
    """

    def __init__(self, subject, directories, only):
        self.entries = 0
        self._bytes = 0
        self._subject = subject
        self._directories = directories
        self._only = only
        # The parents of the next entry, from the top down.
        self._parents = []

    def unpack(self, reader):
        while True:
            entry = reader.next_entry()
            if entry is None:
                break
            subject = self._subject_of(entry.name)
            try:
                self._add(entry, reader, subject)
            except Truncated:
                raise
            except InvalidArchive as error:
                raise subject.invalid(str(error)) from None
            except OSError as error:
                raise subject.fail(error) from None
        while self._parents:
            self._close_last()

    def result(self):
        return {"bytes": self._bytes, "entries": self.entries}

    def _subject_of(self, name):
        """Returns the subject of errors about an entry."""
        if self._only is not None or name.startswith(b"/") or len(name) > MAX_PATH:
            return self._subject
        return paths.Subject(self._subject.what, os.path.join(self._subject.path, name))

    def _add(self, entry, reader, subject):
        _check_kind(entry)
        is_directory = entry.kind == archive.DIRECTORY
        names = self._names(entry)
        if not names:
            # Other programs store the top directory, too.
            return
        self._descend(names[:-1])
        name = names[-1]
        exists = self._make_room(name, is_directory, subject)
        if is_directory:
            if not exists:
                os.mkdir(name, 0o700, dir_fd=self._directories.current)
            self._directories.enter(name)
            self._parents.append(_OpenDirectory(names, entry))
        elif entry.kind == archive.LINK:
            self._create_link(name, entry)
        else:
            self._write_file(name, entry, reader)
            self._bytes += entry.file_size
        self.entries += 1

    def _names(self, entry):
        """Returns the names that the path of an entry consists of, or none for the top."""
        is_directory = entry.kind == archive.DIRECTORY
        names = [name for name in entry.name.split(b"/") if name not in (b"", b".")]
        is_relative = entry.name and not entry.name.startswith(b"/") and b".." not in names
        if is_relative and not names and is_directory:
            return []
        if self._only is not None:
            if is_directory or entry.kind == archive.LINK or self.entries:
                raise InvalidArchive("it must contain exactly one file and nothing else")
            return [self._only]
        if not is_relative or not names:
            raise InvalidArchive("its path must be relative, without `.` and `..`")
        if b"\0" in entry.name:
            raise InvalidArchive("its path contains a zero byte")
        return names

    def _descend(self, parent):
        """Closes the directories that get no more entries. The parent must be open."""
        while self._parents and self._parents[-1].names != parent:
            self._close_last()
        if parent and not self._parents:
            raise InvalidArchive("the entry must come after its directory")

    def _close_last(self):
        self._directories.leave(self._parents.pop().finish)

    def _make_room(self, name, is_directory, subject):
        """Removes a file or link in the place of an entry. Returns whether a directory exists."""
        place = self._directories.current
        try:
            mode = os.stat(name, dir_fd=place, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=place)
            return False
        if not is_directory:
            raise subject.refuse("is_a_directory", IN_PLACE)
        if mode & 0o700 != 0o700:
            _make_usable(name, place)
        return True

    def _create_link(self, name, entry):
        if not entry.target:
            raise InvalidArchive("the link has no target")
        if b"\0" in entry.target:
            raise InvalidArchive("the target of the link contains a zero byte")
        place = self._directories.current
        os.symlink(entry.target, name, dir_fd=place)
        # Not every file system supports this.
        with contextlib.suppress(OSError):
            _set_time(name, entry.modified_ns, dir_fd=place, follow_symlinks=False)

    def _write_file(self, name, entry, reader):
        """Writes a file. Removes it again if that fails, so that it can't pass for a whole one."""
        if entry.kind == archive.SPARSE and entry.file_size > MAX_OFFSET:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        place = self._directories.current
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = os.open(name, flags, PRIVATE, dir_fd=place)
        try:
            for start, end in entry.pieces:
                os.lseek(file, start, os.SEEK_SET)
                for piece in reader.data(end - start):
                    write_all(file, piece)
            if entry.kind == archive.SPARSE:
                os.ftruncate(file, entry.file_size)
            os.fchmod(file, entry.permissions)
            _set_time(file, entry.modified_ns)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place)
            raise
        finally:
            os.close(file)


def _check_kind(entry):
    """Raises an error unless an entry is a file, or a directory or a link without data."""
    if entry.kind in (archive.DIRECTORY, archive.LINK):
        if entry.data_size:
            raise InvalidArchive("a directory or a link must not hold data")
    elif entry.kind in (archive.FILE, archive.SPARSE):
        if entry.name.endswith(b"/"):
            raise InvalidArchive("the name of a file must not end with a slash")
    else:
        other = "an entry of the type %s" % ascii(entry.kind.decode("latin-1"))
        raise InvalidArchive("%s is not allowed here" % NAMES_OF_TYPES.get(entry.kind, other))


def _make_usable(name, directory):
    """Gives the owner all permissions on a directory. Follows no link."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            # `fchmod` doesn't accept such a descriptor.
            os.chmod("/proc/self/fd/%d" % fd, mode & 0o777 | 0o700)
    finally:
        os.close(fd)


def _set_time(file, modified_ns, **options):
    """Sets the modification time of a file, unless the operating system can't represent it."""
    if modified_ns is not None and abs(modified_ns) // archive.SECOND <= MAX_SECONDS:
        os.utime(file, ns=(modified_ns, modified_ns), **options)


OPERATIONS = {"unpack": unpack}
CHECKS = {"unpack": check_unpack}
