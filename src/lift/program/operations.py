"""The table of builtins: which module performs an operation, and how many work at the same time."""

import importlib

from .requests import BadRequest
from .workers import Builtin, Operation, Turns

MODULES = {
    "read": "files",
    "write": "files",
    "list": "files",
    "metadata": "files",
    "create_dir": "files",
    "remove": "files",
    "rename": "files",
    "copy": "files",
    "set_permissions": "files",
    "link": "files",
    "pack": "pack",
    "unpack": "unpack",
    "watch": "watch",
    "connect": "ports",
    "ports": "ports",
    "wait_for_port": "ports",
    "metrics": "metrics",
    "signal": "steering",
    "resize": "steering",
    "processes": "steering",
}
"""The module of each operation. Loaded at its first use, so that the program starts fast."""

TRANSFERS = ("read", "write", "copy", "pack", "unpack")
WAITS = ("watch", "wait_for_port")


class Operations:
    """Makes the programs of builtins. The turns are shared by all of them."""

    def __init__(self, home):
        self._home = home
        self._transfers = Turns(16)
        self._connections = Turns(256)
        self._waits = Turns(64)
        self._others = Turns(16)

    def program(self, builtin, table):
        """The program of a request. Raises `BadRequest`. `table` has the other execs."""
        op = builtin["op"]
        if op not in MODULES:
            raise BadRequest("'builtin' has an unknown operation: '%s'." % op[:100])
        module = importlib.import_module("." + MODULES[op], __package__)
        check = module.CHECKS.get(op)
        if check is not None:
            check(builtin)
        if MODULES[op] == "steering":
            # Performed at once, without a turn.
            return module.Steering(module.OPERATIONS[op], builtin, table)
        if op == "connect":
            inner = module.Connection(builtin["port"])
        else:
            inner = Operation(module.OPERATIONS[op], builtin, self._home)
        return Builtin(inner, self._turns(op))

    def _turns(self, op):
        if op in TRANSFERS:
            return self._transfers
        if op in WAITS:
            return self._waits
        return self._connections if op == "connect" else self._others
