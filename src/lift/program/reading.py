"""The operation `read`, and what other operations need to read a regular file."""

import errno
import os
import stat

from . import paths

# How many bytes are moved at once.
CHUNK = 256 * 1024
# Maximum bytes to read from a file that reports the size 0 but has content, as in `/proc`.
MAX_UNSIZED = 16 * 1024 * 1024
# The largest offset that the operating system accepts. No file has bytes there.
MAX_OFFSET = 2**63 - 1


def read(request, io):
    """Writes the bytes of a file to stdout.

    Without a length, reads up to the size that the file had when it was opened, so the operation
    ends even if code keeps writing to the file. A file that shrinks is read up to its new end.
    """
    subject = paths.checked("read", paths.decode(request["path"]))
    offset = request.get("offset") or 0
    length = request.get("length")
    file, status = open_regular(subject, subject.on_machine(io.home))
    try:
        is_unsized = status.st_size == 0 and length is None
        if is_unsized:
            length = MAX_UNSIZED
        elif length is None:
            length = max(status.st_size - offset, 0)
        done = 0
        for _, chunk in chunks(file, offset, length):
            io.write(chunk)
            done += len(chunk)
        if is_unsized and done == length:
            refuse_more(subject, file, offset + done)
    except OSError as error:
        raise subject.fail(error) from None
    finally:
        os.close(file)
    return {"bytes": done, "entries": 1}


def open_regular(subject, path):
    """Opens a regular file to read it, and returns its status, too. Doesn't block."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise subject.fail(error) from None
    try:
        status = os.fstat(file)
        check_regular(subject, status)
    except BaseException:
        os.close(file)
        raise
    return file, status


def check_regular(subject, status):
    """Raises an error unless this is the status of a regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise subject.is_a_directory()
    if not stat.S_ISREG(status.st_mode):
        raise subject.not_a_file()


def chunks(file, offset, length):
    """Yields up to `length` bytes of a file, in chunks with their offsets."""
    end = min(offset + length, MAX_OFFSET)
    while offset < end:
        chunk = os.pread(file, min(end - offset, CHUNK), offset)
        if not chunk:
            return
        yield offset, chunk
        offset += len(chunk)


def refuse_more(subject, file, offset):
    """Raises an error if a file that reports the size 0 has content at `offset`."""
    if os.pread(file, 1, offset):
        raise subject.refuse(
            "too_large",
            "the file does not report its size and has more than 16 MiB; read it with a length",
        )


def next_data(file, start, end):
    """Returns the first range from `start` to `end` that is not a hole, or `None`.

    Raises an `OSError` if the file system doesn't report holes.
    """
    if start >= end:
        return None
    try:
        data = os.lseek(file, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    if data >= end:
        return None
    hole = os.lseek(file, data, os.SEEK_HOLE)
    return data, min(max(hole, data), end)
