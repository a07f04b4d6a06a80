"""The operations `write` and `copy`."""

import errno
import os
import stat

from . import paths, reading
from .new_file import NewFile, new_parents, write_all
from .places import Place

# The errors of a file system that doesn't report holes. ENXIO is the error if the file has become
# shorter.
NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO)


def write(request, io):
    """Writes stdin to a file. If it fails, it removes the parent directories that it created."""
    mode = request.get("mode") or "replace"
    what = "append to" if mode == "append" else "write"
    subject = paths.checked(what, paths.decode(request["path"]))
    permissions = request.get("permissions")
    subject.check_permissions(permissions)
    path = subject.on_machine(io.home)
    with new_parents(subject, path):
        if mode in ("replace", "create"):
            written = _write_new(subject, path, mode == "create", permissions, io)
        else:
            offset = None if mode == "append" else mode["at"]
            written = _write_in_place(subject, path, offset, permissions, io)
    return {"bytes": written, "entries": 1}


def copy(request, io):
    """Copies a file with its permissions and its holes."""
    source = paths.checked("copy", paths.decode(request["path"]))
    target = paths.checked("write", paths.decode(request["to"]))
    file, status = reading.open_regular(source, source.on_machine(io.home))
    try:
        copied = _copy_file(source, file, status, target, io)
    finally:
        os.close(file)
    return {"bytes": copied, "entries": 1}


def _write_new(subject, path, is_exclusive, permissions, io):
    """Writes stdin to a new file, which then replaces the old one. Returns the number of bytes."""
    try:
        with Place.open(path) as place:
            permissions = _check_place(subject, place, is_exclusive, permissions)
            with NewFile(place, permissions) as new:
                written = 0
                for piece in _input(io):
                    write_all(new.fd, piece)
                    written += len(piece)
                new.commit(is_exclusive, io)
    except OSError as error:
        raise subject.fail(error) from None
    return written


def _check_place(subject, place, is_exclusive, permissions):
    """Checks that a new file may replace the file at a place. Follows links unless `is_exclusive`.

    Returns the permissions of the new file: by default those of the old one.
    """
    status = place.stat() if is_exclusive else place.follow()
    if status is None:
        return permissions
    if is_exclusive and not stat.S_ISDIR(status.st_mode):
        raise subject.fail_with(errno.EEXIST)
    reading.check_regular(subject, status)
    return stat.S_IMODE(status.st_mode) if permissions is None else permissions


def _write_in_place(subject, path, offset, permissions, io):
    """Appends stdin to a file, or writes it at an offset. Returns the number of bytes.

    An error says how many bytes were written.
    """
    if offset is not None and offset > reading.MAX_OFFSET:
        raise subject.invalid("the offset is greater than the largest size of a file")
    try:
        file = _open_in_place(subject, path, offset is None, permissions)
    except OSError as error:
        raise subject.fail(error) from None
    written = 0
    try:
        for piece in _input(io):
            left = memoryview(piece)
            while left:
                if offset is None:
                    count = os.write(file, left)
                else:
                    count = os.pwrite(file, left, offset + written)
                written += count
                left = left[count:]
    except OSError as error:
        kind = subject.fail(error).kind
        reason = "%s; %d bytes were written" % (error.strerror, written)
        raise subject.refuse(kind, reason) from None
    finally:
        os.close(file)
    return written


def _open_in_place(subject, path, is_append, permissions):
    """Opens a regular file to change it. Creates it if it doesn't exist. Doesn't block."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    if is_append:
        flags |= os.O_APPEND
    file = os.open(path, flags, 0o644)
    try:
        status = os.fstat(file)
        reading.check_regular(subject, status)
        # For example, `/proc/self/mem` is the memory of this program.
        if status.st_dev in _proc_devices():
            raise subject.not_a_file()
        if permissions is not None:
            os.fchmod(file, permissions)
    except BaseException:
        os.close(file)
        raise
    return file


def _proc_devices():
    """Returns the device numbers of the mounted file systems of the type `proc`."""
    devices = set()
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            for mount in mounts:
                fields, _, kind = mount.partition(b" - ")
                if kind.startswith(b"proc "):
                    major, _, minor = fields.split()[2].partition(b":")
                    devices.add(os.makedev(int(major), int(minor)))
    except FileNotFoundError:
        # No such file system is mounted.
        pass
    return devices


def _copy_file(source, file, status, target, io):
    """Copies an open file to the path of `target`. Returns the size of the copy."""
    path = target.on_machine(io.home)
    with new_parents(target, path):
        try:
            with Place.open(path) as place:
                permissions = stat.S_IMODE(status.st_mode)
                _check_place(target, place, False, permissions)
                with NewFile(place, permissions) as new:
                    try:
                        return _copy_content(source, file, status.st_size, new, io)
                    except OSError as error:
                        raise paths.about_both(
                            "copy", source.path, target.path, target.path, error
                        ) from None
        except OSError as error:
            raise target.fail(error) from None


def _copy_content(source, file, size, new, io):
    if size:
        copied = _copy_data(file, size, new.fd, io)
    else:
        copied = _copy_range(file, 0, reading.MAX_UNSIZED, new.fd, io)
        reading.refuse_more(source, file, copied)
    new.commit(False, io)
    return copied


def _copy_data(file, size, to, io):
    """Copies up to `size` bytes and preserves holes. Returns the size of the copy."""
    done = 0
    while True:
        data = _next_data(file, done, size)
        if data is None:
            os.ftruncate(to, size)
            return size
        start, end = data
        done = start + _copy_range(file, start, end, to, io)
        if done < end:
            # The file has become shorter.
            os.ftruncate(to, done)
            return done


def _next_data(file, start, end):
    """Like `reading.next_data`. Everything is data if the file system doesn't report holes."""
    if start >= end:
        return None
    try:
        return reading.next_data(file, start, end)
    except OSError as error:
        if error.errno in NO_HOLES:
            return start, end
        raise


def _copy_range(file, start, end, to, io):
    """Copies a range, or up to the end of the file. Returns the number of bytes."""
    done = 0
    for offset, chunk in reading.chunks(file, start, end - start):
        io.check()
        left = memoryview(chunk)
        while left:
            count = os.pwrite(to, left, offset)
            offset += count
            left = left[count:]
        done += len(chunk)
    return done


def _input(io):
    """Yields the pieces of stdin, until it ends."""
    while True:
        piece = io.read(reading.CHUNK)
        if not piece:
            return
        yield piece
