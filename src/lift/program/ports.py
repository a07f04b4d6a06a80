"""`ports` lists the TCP ports on which programs listen. `wait_for_port` waits for one.

`Connection`, the program of `connect`, lives in `connection.py`.
"""

import json
import sys
import time

from .builtins import BuiltinError
from .connection import Connection, check_port, invalid_port
from .requests import integer_of

# The sockets of the network of this process, and with it of the sandbox.
TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")

# The state of a socket that listens, as the tables show it.
LISTENS = "0A"

# How many seconds `wait_for_port` pauses before it looks again, at first and at most. The kernel
# has no event for a new port.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1

LOCAL_4 = bytes([127, 0, 0, 1])
LOCAL_6 = bytes(15) + b"\1"
# The prefix of an IPv4-mapped IPv6 address.
MAPPED = bytes(10) + b"\xff\xff"


def ports(request, io):
    """Writes one line for each port and address, sorted."""
    lines = []
    for port, address in sorted(listening("list the ports"), key=order):
        line = json.dumps({"port": port, "address": text(address)}, separators=(",", ":"))
        lines.append(line + "\n")
    io.write("".join(lines).encode())
    return {}


def wait_for_port(request, io):
    """Waits until a program listens on the port, at most for the timeout. Opens no connection,
    because the program could notice it."""
    port, timeout_ms = request["port"], request.get("timeout_ms")
    if port == 0:
        raise invalid_port("wait for", port)
    end = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    pause = FIRST_PAUSE
    while True:
        found = listening("wait for port %d" % port)
        if any(number == port and is_reachable(address) for number, address in found):
            return {}
        left = pause if end is None else end - time.monotonic()
        if left <= 0:
            raise timed_out(port, timeout_ms)
        io.wait([], min(left, pause))
        pause = min(pause * 2, LONGEST_PAUSE)


def timed_out(port, timeout_ms):
    message = (
        "nothing listened on port %d in the sandbox within %s; look at the output of the program "
        "that should listen, or wait longer"
    )
    return BuiltinError("timed_out", message % (port, duration(timeout_ms)))


def duration(milliseconds):
    """A duration in its shortest form, for example 20ms, 1s or 1.5s."""
    if milliseconds < 1000:
        return "%dms" % milliseconds
    seconds, rest = divmod(milliseconds, 1000)
    return ("%d.%03d" % (seconds, rest)).rstrip("0").rstrip(".") + "s"


def listening(what):
    """The ports on which programs listen: pairs of a port and an address, without duplicates. An
    address is its bytes. `what` is the operation, for its error."""
    found = set()
    for table in TABLES:
        try:
            with open(table, errors="replace") as lines:
                found.update(filter(None, map(parse, lines)))
        except FileNotFoundError:
            # Without IPv6, there is no second table.
            continue
        except OSError as error:
            raise BuiltinError("other", "cannot %s: %s" % (what, error.strerror))
    return found


def parse(line):
    """The port and the address in a line of a table. None for the title, and for a socket that
    doesn't listen."""
    fields = line.split()
    if len(fields) < 4 or fields[3] != LISTENS:
        return None
    address, _, port = fields[1].partition(":")
    try:
        port, address = int(port, 16), parse_address(address)
    except ValueError:
        return None
    return None if address is None or port > 65535 else (port, address)


def parse_address(row):
    """An address in a table is a row of 32-bit numbers in hexadecimal: the bytes of the address in
    the order of memory, read in the byte order of the machine."""
    if len(row) not in (8, 32):
        return None
    words = [int(row[at : at + 8], 16) for at in range(0, len(row), 8)]
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)


def order(found):
    port, address = found
    return port, len(address), address


def text(address):
    # The module takes a while to load.
    import socket

    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


def is_reachable(address):
    """Whether `connect` reaches a program that listens on this address: `127.0.0.1`, `::1` or all
    addresses."""
    if address.startswith(MAPPED):
        address = address[len(MAPPED) :]
    return address in (LOCAL_4, LOCAL_6) or not any(address)


def check_wait_for_port(request):
    check_port(request)
    integer_of(request, "timeout_ms", None)


CHECKS = {"connect": check_port, "wait_for_port": check_wait_for_port}
OPERATIONS = {"ports": ports, "wait_for_port": wait_for_port}
__all__ = ["CHECKS", "OPERATIONS", "Connection"]
