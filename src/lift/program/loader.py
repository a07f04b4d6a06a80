"""The code of the v1 exec: reads the sources of the program from stdin and runs it.

The first line of stdin is a JSON object with the sources of all modules by their names. What
follows belongs to the program. This file must be valid in every version of Python, because it has
to report a Python that is too old. After that check, stdout carries only the lines of the program.
"""

import sys

PACKAGE = "program"
NEEDED = (3, 8)
SOURCES_MS = 60 * 1000


class Sources(object):
    """Imports the modules of the package from memory: a finder and a loader."""

    def __init__(self, sources):
        self._sources = sources

    def find_spec(self, name, path=None, target=None):
        package, _, module = name.partition(".")
        is_package = name == PACKAGE
        if not is_package and (package != PACKAGE or module not in self._sources):
            return None
        from importlib.machinery import ModuleSpec

        spec = ModuleSpec(name, self, origin=self._path(name), is_package=is_package)
        # Tracebacks show the name.
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__
        code = compile(self.get_source(name), self._path(name), "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def get_source(self, name):
        return self._sources.get(name.partition(".")[2], "")

    def _path(self, name):
        return "<lift>/%s.py" % name.replace(".", "/")


def read_line(os):
    """Reads the first line of stdin. Returns it, and the bytes that were read after it."""
    import select

    parts = []
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        # A client that is gone must not keep the sandbox from becoming idle.
        if not poll.poll(SOURCES_MS):
            fail("the sources of the program did not arrive")
        data = os.read(0, 1 << 16)
        if not data:
            fail("stdin ended before the sources of the program")
        line, end, rest = data.partition(b"\n")
        parts.append(line)
        if end:
            return b"".join(parts), rest


def forget_directories(os):
    """Keeps files of the sandbox from being imported in place of Python's own."""
    script = os.path.dirname(os.path.abspath(sys.argv[0]))
    sys.path[:] = [it for it in sys.path if it not in ("", os.getcwd(), script)]


def load(line):
    import json

    try:
        sources = json.loads(line.decode("utf-8"))
    except ValueError:
        fail("the sources of the program are not JSON")
    sys.meta_path.insert(0, Sources(sources))


def fail(reason):
    sys.stdout.write("%s\n" % reason)
    sys.stdout.flush()
    sys.exit(1)


def start():
    if sys.version_info < NEEDED:
        this = "%d.%d.%d" % tuple(sys.version_info[:3])
        fail("Python %d.%d or newer is required; the sandbox has Python %s" % (NEEDED + (this,)))
    import os

    forget_directories(os)
    line, rest = read_line(os)
    load(line)
    from program import main

    main.run(rest)


start()
