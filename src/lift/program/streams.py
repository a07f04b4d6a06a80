"""The two directions of a stream: `SendStream` sends output, `RecvStream` receives input.

Both count bytes by offsets, so that a stream survives a lost link. Neither does any IO.
"""

import collections

MAX_PIECE = 48 * 1024
"""Maximum number of bytes in one message. In base64, this needs no padding."""

SMALL = 4096
"""Chunks up to this size are joined, because each one takes memory of its own."""


class ByteQueue:
    """Bytes in the order in which they arrived, in chunks of at most `MAX_PIECE`."""

    __slots__ = ("_chunks", "size")

    def __init__(self):
        self._chunks = collections.deque()
        self.size = 0

    def append(self, data):
        """Adds bytes at the end."""
        for start in range(0, len(data), MAX_PIECE):
            self._append_chunk(data[start : start + MAX_PIECE])

    def _append_chunk(self, data):
        self.size += len(data)
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, bytearray) and len(last) + len(data) <= MAX_PIECE:
            last += data
        else:
            self._chunks.append(bytearray(data) if len(data) <= SMALL else data)

    def first(self):
        """The first chunk, or no bytes."""
        return self._chunks[0] if self._chunks else b""

    def pop(self, most):
        """Removes and returns at most this many bytes, all from the first chunk."""
        chunk = self._chunks[0]
        if len(chunk) <= most:
            self._chunks.popleft()
        else:
            self._chunks[0] = chunk[most:]
            chunk = chunk[:most]
        self.size -= len(chunk)
        return chunk

    def drop(self, count):
        """Removes this many bytes from the front."""
        while count > 0 and self._chunks:
            count -= len(self.pop(count))

    def move_end(self, count, other):
        """Moves this many bytes from the end to the front of another queue."""
        self.size -= count
        other.size += count
        while count > 0:
            chunk = self._chunks.pop()
            if len(chunk) > count:
                self._chunks.append(chunk[:-count])
                chunk = chunk[-count:]
            other._chunks.appendleft(chunk)
            count -= len(chunk)

    def clear(self):
        self._chunks.clear()
        self.size = 0


class SendStream:
    """Bytes that are kept until the peer has acknowledged them, and can be sent again."""

    def __init__(self):
        self.acked = 0
        """The peer has acknowledged all bytes before this offset. Never decreases."""
        self._sent = ByteQueue()
        self._unsent = ByteQueue()
        self._ended = False
        self._end_sent = False
        self._gone = False

    @property
    def sent(self):
        """The offset up to which bytes were sent on this link, or acknowledged."""
        return self.acked + self._sent.size

    @property
    def end(self):
        """The offset after the last byte."""
        return self.sent + self._unsent.size

    @property
    def unacked(self):
        """How many bytes were sent and not acknowledged."""
        return self._sent.size

    @property
    def kept(self):
        """How many bytes are not acknowledged."""
        return self._sent.size + self._unsent.size

    def push(self, data):
        """Adds bytes at the end."""
        self._unsent.append(data)

    def finish(self):
        """The stream has ended, and the peer is to learn of it."""
        self._ended = True

    def ack(self, offset):
        """The peer has taken everything before `offset`, at most what was sent."""
        offset = min(offset, self.sent)
        if offset > self.acked:
            self._sent.drop(offset - self.acked)
            self.acked = offset

    def ack_all(self):
        """Drops all bytes."""
        self.acked = self.end
        self._sent.clear()
        self._unsent.clear()

    def resume(self, offset):
        """Continues on a new link at `offset`, or as close to it as bytes are kept."""
        end = self.end
        position = min(max(offset, self.acked), end)
        if position < self.sent:
            self._sent.move_end(self.sent - position, self._unsent)
        else:
            while self.sent < position:
                self._sent.append(self._unsent.pop(position - self.sent))
        self._end_sent = False
        # Without later bytes, the peer would not learn that these are gone.
        self._gone = offset < self.acked and self.acked == end

    def next_piece(self, room, whole_characters):
        """Returns the next offset, bytes and whether the stream ends after them.

        `None` if there is nothing to send, or no room. With `whole_characters`, no code point of
        UTF-8 is split.
        """
        offset = self.sent
        if self._gone:
            self._gone = False
            return offset, b"", self._take_end()
        size = min(room, MAX_PIECE)
        chunk = self._unsent.first()
        if whole_characters and len(chunk) > size > 0:
            size = character_boundary(chunk[:size])
        if chunk and size > 0:
            data = self._unsent.pop(size)
            self._sent.append(data)
            return offset, data, self._take_end()
        if self._ended and not self._end_sent and not chunk:
            return offset, b"", self._take_end()
        return None

    def _take_end(self):
        """Whether the end is to be sent with the bytes that were just taken."""
        if not self._ended or self._unsent.size:
            return False
        self._end_sent = True
        return True


def character_boundary(data):
    """The length of `data` without an incomplete code point of UTF-8 at its end."""
    for back in range(1, min(len(data), 3) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return len(data) - back if length > back else len(data)
    return len(data)


class RecvStream:
    """Bytes from the peer for a consumer, each of them taken once."""

    def __init__(self, window):
        self.received = 0
        """The offset up to which bytes have arrived."""
        self.taken = 0
        """The offset up to which the consumer has taken the bytes."""
        self.ended = False
        """Whether the peer has ended the stream."""
        self._window = window
        self._queue = ByteQueue()
        self._acked = 0
        self._ack_again = False

    @property
    def waiting(self):
        """How many bytes the consumer has not taken."""
        return self.received - self.taken

    def resume(self):
        """A new link: the last acknowledgement may be lost."""
        self._ack_again = self.taken > 0

    def new_part(self, offset, data):
        """Returns the bytes of a message that have not arrived before.

        `None` if bytes are missing before them, or if later bytes have arrived already.
        """
        if offset > self.received or offset + len(data) < self.received:
            return None
        return data[self.received - offset :]

    def accept(self, data):
        """Takes bytes after those that have arrived. False if they exceed the window."""
        if self.received + len(data) > self._acked + self._window:
            return False
        self.received += len(data)
        self._queue.append(data)
        return True

    def first(self):
        """The next bytes for the consumer."""
        return self._queue.first()

    def take(self, count):
        """The consumer has taken this many bytes of `first`."""
        self._queue.drop(count)
        self.taken += count

    def abandon(self):
        """Drops the waiting bytes, which the consumer will not take."""
        self._queue.clear()

    def next_ack(self):
        """The offset to acknowledge, or `None`."""
        if not self._ack_again and self._acked == self.taken:
            return None
        self._ack_again = False
        self._acked = self.taken
        return self._acked
