"""`Relay`: moves bytes between two sockets, in both directions, in the thread of the loop."""

import socket
import struct

# How many bytes of each direction wait here at most.
BUFFER = 64 * 1024


class Relay:
    """Moves bytes between two sockets, the peer and the client, until both directions have ended.

    The end of the direction from the client ends the direction to the peer, and the other way
    round. Neither direction waits for the other. The client gets `greeting` first. Calls
    `ended(error)` once; `error` is None if both directions ended without an error. The caller then
    closes the relay.
    """

    def __init__(self, loop, peer, client, greeting, ended):
        self._loop = loop
        self._peer = peer
        self._client = client
        self._ended = ended
        self._to_peer = Direction()
        self._from_peer = Direction(greeting)
        # Why the peer takes no more bytes.
        self._refusal = None
        self._is_regular = False
        self._wait()

    def close(self):
        """Closes both sockets. Resets the connection unless both directions have ended without an
        error: otherwise the peer would mistake what it has received for the complete data."""
        for each in (self._peer, self._client):
            self._loop.on_readable(each.fileno(), None)
            self._loop.on_writable(each.fileno(), None)
        if not self._is_regular:
            linger = struct.pack("ii", 1, 0)
            self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._peer.close()
        drop_input(self._client)
        self._client.close()

    def _handle_peer(self):
        try:
            if self._from_peer.has_room():
                self._from_peer.fill(self._peer)
            self._move()
        except OSError as error:
            return self._ended(error)
        self._go_on()

    def _handle_client(self):
        try:
            if self._to_peer.has_room():
                self._to_peer.fill(self._client)
            self._move()
        except OSError as error:
            return self._ended(error)
        self._go_on()

    def _move(self):
        """Writes what was read. It can usually be written at once."""
        if self._to_peer.has_bytes():
            try:
                self._to_peer.empty(self._peer)
            except OSError as error:
                self._refusal = error
                self._to_peer.abandon()
        if self._from_peer.has_bytes():
            self._from_peer.empty(self._client)

    def _go_on(self):
        """Ends the directions that are complete. Then waits."""
        if self._to_peer.ends():
            try:
                self._peer.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._refusal = error
        if self._from_peer.is_drained() and self._refusal is not None:
            return self._ended(self._refusal)
        if self._from_peer.ends():
            self._client.shutdown(socket.SHUT_WR)
        if self._to_peer.has_ended and self._from_peer.has_ended:
            self._is_regular = True
            return self._ended(None)
        self._wait()

    def _wait(self):
        self._wait_for(self._peer, self._from_peer, self._to_peer, self._handle_peer)
        self._wait_for(self._client, self._to_peer, self._from_peer, self._handle_client)

    def _wait_for(self, end, source, destination, callback):
        """Waits until one of the sockets can be read, if `source` has room, or written to, if
        `destination` has bytes."""
        self._loop.on_readable(end.fileno(), callback if source.has_room() else None)
        self._loop.on_writable(end.fileno(), callback if destination.has_bytes() else None)


class Direction:
    """One direction of a connection, with the bytes that were read and not yet written."""

    def __init__(self, waiting=b""):
        self._waiting = memoryview(waiting)
        # Whether the source has no more bytes.
        self._is_complete = False
        # Whether the destination knows that.
        self.has_ended = False

    def has_bytes(self):
        return len(self._waiting) > 0

    def has_room(self):
        """Whether to read from the source."""
        return not self.has_bytes() and not self._is_complete

    def is_drained(self):
        """Whether everything was moved."""
        return self._is_complete and not self.has_bytes()

    def ends(self):
        """Whether to tell the destination now. Returns true once."""
        ends = self.is_drained() and not self.has_ended
        self.has_ended = self.has_ended or ends
        return ends

    def abandon(self):
        """Moves no more bytes, because the destination takes none."""
        self._waiting = memoryview(b"")
        self._is_complete = True
        self.has_ended = True

    def fill(self, source):
        """Reads from the source."""
        try:
            data = source.recv(BUFFER)
        except BlockingIOError:
            return
        self._waiting = memoryview(data)
        self._is_complete = not data

    def empty(self, destination):
        """Writes to the destination."""
        try:
            sent = destination.send(self._waiting)
        except BlockingIOError:
            return
        self._waiting = self._waiting[sent:]


def drop_input(end):
    """Ends one end of a pair, and drops what it has received: if it is closed with unread bytes,
    reads at the other end can fail."""
    shut_down(end, socket.SHUT_RDWR)
    try:
        while end.recv(BUFFER):
            pass
    except OSError:
        # There is nothing to drop.
        pass


def shut_down(end, how):
    """Ends one or both directions of one end of a pair."""
    try:
        end.shutdown(how)
    except OSError:
        # The other end is closed.
        pass
