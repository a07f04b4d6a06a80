"""`Inotify`: the kernel's queue of changes to files, by ctypes. Python has no module for it.

The watch of a directory is a number, its watch descriptor. All paths are bytes.
"""

import errno
import os
import struct

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_DONT_FOLLOW = 0x2000000
IN_ISDIR = 0x40000000

# How many bytes of events to read at once.
READ_BYTES = 64 * 1024

# The start of `struct inotify_event`: watch, mask, cookie, length of the name.
HEADER = struct.Struct("iIII")


class Event:
    """A change. `name` is bytes, or None for a change of the watched file or directory itself."""

    __slots__ = ("watch", "mask", "cookie", "name")

    def __init__(self, watch, mask, cookie, name):
        self.watch = watch
        self.mask = mask
        self.cookie = cookie
        self.name = name


class Inotify:
    """A queue of events. Every call raises OSError if the kernel refuses it."""

    def __init__(self):
        # ctypes takes a while to load, and only a watch needs it.
        import ctypes

        self._get_errno = ctypes.get_errno
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        self._libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
        self.fd = None
        self.reopen()

    def reopen(self):
        """Replaces the queue by an empty one without watches."""
        self.close()
        # IN_NONBLOCK and IN_CLOEXEC have the values of these two.
        self.fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def add_watch(self, path, mask):
        """Watches a path. Returns its watch, which may be one that exists already."""
        return self._checked(self._libc.inotify_add_watch(self.fd, path, mask))

    def remove_watch(self, watch):
        self._checked(self._libc.inotify_rm_watch(self.fd, watch))

    def read_events(self):
        """Returns a list of events. It is empty if there are none at the moment."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return []
        events, at = [], 0
        while at < len(data):
            watch, mask, cookie, length = HEADER.unpack_from(data, at)
            at += HEADER.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            events.append(Event(watch, mask, cookie, name or None))
        return events

    def _checked(self, result):
        if result >= 0:
            return result
        number = self._get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
