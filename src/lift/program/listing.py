"""The operations `list` and `metadata`."""

import errno
import json
import os
import stat

from . import paths
from .places import GONE, Directories, read_names

# Maximum number of levels of directories that `list` lists.
MAX_LEVELS = 128
# Maximum number of bytes in a pattern. A name has at most 255 bytes.
MAX_PATTERN = 1024
# The output is written in pieces of this size.
PIECE = 64 * 1024

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def list_directory(request, io):
    """Writes the entries of a directory to stdout, sorted by name. A directory comes before its
    entries.

    Follows a link only if it is the listed path itself.
    """
    subject = paths.checked("list", paths.decode(request["path"]), may_be_empty=True)
    pattern = request.get("pattern")
    if pattern is not None and len(pattern.encode()) > MAX_PATTERN:
        raise subject.invalid("the pattern is longer than 1024 bytes")
    depth = max(request.get("depth") or 1, 1)
    try:
        top = os.open(subject.on_machine(io.home), os.O_RDONLY | os.O_DIRECTORY)
        with Directories(top) as directories:
            _Lister(subject, directories, depth, _matcher(pattern), io).run()
    except OSError as error:
        raise subject.fail(error) from None
    return {}


def metadata(request, io):
    """Describes a file, or a link itself unless `follow` is set."""
    subject = paths.checked("describe", paths.decode(request["path"]), may_be_empty=True)
    path = subject.on_machine(io.home)
    try:
        status = os.stat(path) if request.get("follow") else os.lstat(path)
        described = describe(status)
        if stat.S_ISLNK(status.st_mode):
            described["target"] = paths.encode(os.readlink(path))
    except OSError as error:
        raise subject.fail(error) from None
    return described


def describe(status):
    """Returns the properties of a file, without the target of a link."""
    mode = status.st_mode
    return {
        "kind": _KINDS.get(stat.S_IFMT(mode), "other"),
        "size": max(status.st_size, 0),
        "permissions": stat.S_IMODE(mode),
        "modified_ns": status.st_mtime_ns,
    }


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class _Lister:
    """The state of a list: the directories that are being listed, and lines to be written."""

    def __init__(self, subject, directories, depth, matches, io):
        self.subject = subject
        self.directories = directories
        self.depth = depth
        self.matches = matches
        self.io = io
        # For each directory, the path of its entries without their names, and what is left.
        self.levels = []
        self.lines = []
        self.size = 0

    def run(self):
        self.read_level(b"")
        while self.levels:
            prefix, entries = self.levels[-1]
            entry = next(entries, None)
            if entry is not None:
                name, is_directory = entry
                self.visit(prefix + name, name, is_directory)
                continue
            self.levels.pop()
            if self.levels:
                self.directories.leave()
        self.flush()

    def visit(self, path, name, is_directory):
        """Lists an entry if its name matches. Enters a directory."""
        if self.matches is None or self.matches(name):
            described = self.describe(name)
            if described is None:
                return
            is_directory = described["kind"] == "directory"
            self.add({"path": paths.encode(path), **described})
        if not is_directory or len(self.levels) >= self.depth:
            return
        if len(self.levels) == MAX_LEVELS:
            reason = "it has more than 128 levels of directories; list fewer levels"
            raise self.subject.refuse("unsupported", reason)
        self.enter(path, name)

    def describe(self, name):
        """Describes an entry. Returns `None` if code has removed or replaced it."""
        directory = self.directories.current
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            described = describe(status)
            if stat.S_ISLNK(status.st_mode):
                described["target"] = paths.encode(os.readlink(name, dir_fd=directory))
            return described
        except FileNotFoundError:
            return None
        except OSError as error:
            # The link was replaced.
            if error.errno == errno.EINVAL:
                return None
            raise

    def enter(self, path, name):
        """Continues with the entries of a directory, if the user may read it."""
        try:
            self.directories.enter(name)
        except OSError as error:
            if error.errno in GONE or error.errno == errno.EACCES:
                return
            raise
        self.read_level(path + b"/")

    def read_level(self, prefix):
        entries, _ = read_names(self.directories.current, self.io.check)
        entries.sort()
        self.levels.append((prefix, iter(entries)))

    def add(self, entry):
        line = _to_json(entry).encode()
        self.lines.append(line)
        self.size += len(line) + 1
        if self.size >= PIECE:
            self.flush()

    def flush(self):
        if self.lines:
            self.lines.append(b"")
            self.io.write(b"\n".join(self.lines))
            self.lines, self.size = [], 0


def _matcher(pattern):
    """Returns a function that tells whether the bytes of a name match, or `None` for all names.

    `*` matches any number of characters, `?` exactly one. A byte that isn't part of valid UTF-8
    counts as a character.
    """
    if pattern is None:
        return None
    # Such a byte becomes a lone surrogate. A pattern contains none.
    return lambda name: matches(pattern, name.decode("utf-8", "surrogateescape"))


def matches(pattern, name):
    """Whether a name matches a pattern."""
    at, end = 0, 0
    # Where to continue if the part after the last `*` doesn't match.
    retry = None
    while True:
        expected = pattern[at : at + 1]
        if expected == "*":
            at += 1
            retry = (at, end)
        elif end < len(name) and expected in ("?", name[end]):
            at += 1
            end += 1
        elif end == len(name) and not expected:
            return True
        elif retry is not None and retry[1] < len(name):
            at, end = retry[0], retry[1] + 1
            retry = (at, end)
        else:
            return False
