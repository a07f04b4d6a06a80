"""`Connection`: the program of `connect`. Joins stdin and stdout to a TCP connection to a port of
the sandbox.

The exec has one end of a pair of sockets as its stdin and stdout. `Connection` moves bytes between
the other end and the connection, in the thread of the loop.
"""

import errno
import os
import socket

from .builtins import BuiltinError
from .programs import Exit, Program
from .relay import Relay, shut_down
from .requests import integer_of
from .workers import failure

# How long to wait for a connection, in seconds. The kernel accepts a connection at once, unless
# too many wait for the program.
DIAL_LIMIT = 10

CONNECTED = b'{"event":"connected"}\n'

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

# The errors of a connection that the program in the sandbox has reset.
RESETS = (errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE)


class Connection(Program):
    """Connects to a port, and moves bytes in both directions until both have ended.

    If the peer, the program that listens, takes no more bytes, what it has sent is moved before
    the exec ends with the error.
    """

    is_builtin = True

    def __init__(self, port):
        self.port = port
        self._loop = None
        self._on_started = None
        self._on_exit = None
        self._outer = None
        self._dial = None
        self._relay = None
        self._has_ended = False

    def start(self, loop, on_started, on_exit):
        self._loop = loop
        self._on_started = on_started
        self._on_exit = on_exit
        loop.call_soon(self._start)

    def _start(self):
        if self._has_ended:
            return
        if self.port == 0:
            return self._fail(invalid_port("connect to", self.port))
        self._dial = Dial(self._loop, self.port, self._connected, self._not_connected)

    def _connected(self, peer):
        try:
            inner = self._open_streams()
        except OSError as error:
            peer.close()
            return self._not_connected(error)
        self._relay = Relay(self._loop, peer, inner, CONNECTED, self._relay_ended)
        self._on_started()

    def _open_streams(self):
        """Creates stdin and stdout. Returns their other end."""
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        # The exec closes stdout when the peer has ended its direction. Input may still follow.
        self.stdout = os.dup(outer.fileno())
        self.stdin = outer.fileno()
        self._outer = outer
        return inner

    def _not_connected(self, error):
        self._fail(not_connected(self.port, error))

    def _relay_ended(self, error):
        if error is None:
            self._end({"result": {}})
        else:
            self._fail(lost(self.port, error))

    def close_stdin(self):
        """Ends the direction to the peer, after the bytes that were written."""
        if self.stdin is None:
            return
        self.stdin = None
        shut_down(self._outer, socket.SHUT_WR)
        self._outer.close()

    def kill(self, on_killed):
        """Resets the connection."""
        self._end(None)
        on_killed(None)

    def _fail(self, error):
        self._end(failure(error.kind, error.message))

    def _end(self, outcome):
        """Ends the connection. The exec then calls `close_stdin`, as for every program."""
        if self._has_ended:
            return
        self._has_ended = True
        for part in (self._dial, self._relay):
            if part is not None:
                part.close()
        self._on_exit(Exit(outcome=outcome))


class Dial:
    """An attempt to connect to a port on `127.0.0.1`, and if that is refused, on `::1`.

    Calls `connected(socket)` or `failed(error)`, unless it is closed before.
    """

    def __init__(self, loop, port, connected, failed):
        self._loop = loop
        self._port = port
        self._connected = connected
        self._failed = failed
        self._socket = None
        self._timer = None
        # Why the connection to the first address was refused.
        self._refusal = None
        self._addresses = list(ADDRESSES)
        self._try_next()

    def close(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.on_writable(self._socket.fileno(), None)
            self._socket.close()
            self._socket = None

    def _try_next(self):
        family, address = self._addresses.pop(0)
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            number = self._socket.connect_ex((address, self._port))
        except OSError as error:
            return self._handle_error(error)
        if number == errno.EINPROGRESS:
            self._loop.on_writable(self._socket.fileno(), self._handle_writable)
            self._timer = self._loop.call_later(DIAL_LIMIT, self._handle_timeout)
        else:
            self._handle_answer(number)

    def _handle_writable(self):
        self._handle_answer(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _handle_timeout(self):
        self._handle_answer(errno.ETIMEDOUT)

    def _handle_answer(self, number):
        # If nothing listens on a port that the kernel also gives to clients, it may connect a
        # socket to itself.
        if number == 0 and is_connected_to_itself(self._socket):
            number = errno.ECONNREFUSED
        if number != 0:
            return self._handle_error(OSError(number, os.strerror(number)))
        connected, self._socket = self._socket, None
        self._loop.on_writable(connected.fileno(), None)
        self.close()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected(connected)

    def _handle_error(self, error):
        self.close()
        if self._refusal is None and error.errno == errno.ECONNREFUSED:
            self._refusal = error
            return self._try_next()
        # The second address fails for another reason if the sandbox has no IPv6.
        self._failed(self._refusal or error)


def is_connected_to_itself(connected):
    try:
        return connected.getsockname() == connected.getpeername()
    except OSError:
        # The peer has reset it already, which the first read reports.
        return False


def check_port(request):
    integer_of(request, "port", highest=65535)


def invalid_port(what, port):
    """The error for a port number that is not from 1 to 65535."""
    message = "cannot %s port %d: a port is a number from 1 to 65535" % (what, port)
    return BuiltinError("invalid_input", message)


def not_connected(port, error):
    """The error of a connection that could not be opened."""
    kind, reason = "other", error.strerror
    if error.errno == errno.ECONNREFUSED:
        kind = "connection_refused"
        reason = (
            "nothing listens on it in the sandbox; start the program that listens, and wait for "
            "the port with `wait_for_port`"
        )
    elif error.errno == errno.ECONNRESET:
        kind = "connection_reset"
        reason = "the program in the sandbox reset the connection"
    elif error.errno == errno.ETIMEDOUT:
        kind = "timed_out"
        reason = (
            "the connection was not accepted within %d seconds; the program in the sandbox has "
            "too many connections that wait for it" % DIAL_LIMIT
        )
    return BuiltinError(kind, "cannot connect to port %d: %s" % (port, reason))


def lost(port, error):
    """The error of a connection that was open."""
    if error.errno in RESETS:
        message = (
            "the connection to port %d was reset: the program in the sandbox ended, or closed the "
            "connection before it had read everything"
        )
        return BuiltinError("connection_reset", message % port)
    message = "the connection to port %d failed: %s" % (port, error.strerror)
    return BuiltinError("other", message)
