"""The base of the tests of operations on files: a home, and calls of operations."""

import json
import os
import stat
import traceback
import unittest

from fake_io import FakeIO, Home, Running

from program import files, pack, paths, unpack
from program.builtins import BuiltinError

OPERATIONS = {**files.OPERATIONS, **pack.OPERATIONS, **unpack.OPERATIONS}
CHECKS = {**files.CHECKS, **pack.CHECKS, **unpack.CHECKS}

NOBODY = 65534


class FileCase(unittest.TestCase):
    def setUp(self):
        self.home = self.new_home()
        descriptors = os.listdir("/proc/self/fd")
        self.addCleanup(lambda: self.assertEqual(os.listdir("/proc/self/fd"), descriptors))

    def new_home(self):
        home = Home()
        self.addCleanup(home.remove)
        return home

    def call(self, op, data=b"", **request):
        """Runs an operation. Returns its result and its output."""
        io = FakeIO(self.home.path, data)
        CHECKS[op](request)
        result = OPERATIONS[op](request, io)
        # The result must fit into a line of JSON.
        json.dumps(result)
        return result, bytes(io.output)

    def start(self, io, op, **request):
        """Starts an operation in a thread."""
        CHECKS[op](request)
        return Running(OPERATIONS[op], request, io)

    def error_of(self, op, data=b"", **request):
        with self.assertRaises(BuiltinError, msg="%s %s" % (op, request)) as caught:
            self.call(op, data, **request)
        return caught.exception

    def assert_fails(self, kind, about, op, data=b"", **request):
        """Asserts that an operation fails with an error about a path, and that it names it."""
        error = self.error_of(op, data, **request)
        label = "%s %.80s: %s" % (op, request, error.message[:200])
        self.assertEqual((error.kind, error.path), (kind, os.fsencode(about)), label)
        self.assertIn(paths.text(os.fsencode(about)), error.message)
        self.assertNotIn("Errno", error.message)
        return error

    def listed(self, **request):
        """Runs `list`. Returns the entries."""
        result, output = self.call("list", **request)
        self.assertEqual(result, {})
        return [json.loads(line) for line in output.splitlines()]


def as_user(function):
    """Calls a function in a child process, as a user without privileges.

    Only root can change to another user. Another user is without privileges already. The function
    may change the limits of its process. Returns its value, which JSON can hold.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(write_end, json.dumps(function()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as outcome:
        value = outcome.read()
    os.waitpid(child, 0)
    return json.loads(value)


def facts(top):
    """Returns what an archive keeps of each file below a directory, by its path."""
    found = {}
    for parent, directories, names in os.walk(top):
        for name in directories + names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            fact = (status.st_mode, status.st_mtime_ns, content)
            found[os.path.relpath(path, top)] = fact
    return found
