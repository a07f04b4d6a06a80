"""`Link`: the lines from and to the client.

A line from the client is `SEQ JSON`, a line to it `LINK SEQ JSON`. A hello begins a new link, at
any time: lines may have been lost before it, in both directions. V1 services lose what is in flight
when their connection breaks.
"""

import binascii
import collections
import json
import os

from .requests import object_from

MAX_LINE = 16 * 1024 * 1024
"""Maximum number of bytes in a line of the client, with its sequence number: code may be that
long."""

TAKEN_STEP = 64 * 1024
"""How many bytes to read between two `taken` messages."""

FULL = 256 * 1024
"""With this many bytes queued, execs add no more messages."""

OVERFULL = 1024 * 1024
"""With this many bytes queued, the program stops reading from the client. Beyond `FULL`, only
answers that don't come from an exec are queued."""

LEAVE_SECONDS = 5
"""How long the last line waits for a service that doesn't read."""

MAX_READ = 64 * 1024
MAX_BUFFERS = 64


class Link:
    """The connection to the client, and the queue of lines to it.

    `receiver` has the methods `handle_hello(message)`, `handle_message(message)` and
    `handle_end()`, which is called when the client is gone for good.
    """

    def __init__(self, loop, stdin, stdout, receiver):
        self._loop = loop
        self._stdin = stdin
        self._stdout = stdout
        self._receiver = receiver
        self._reader = LineReader(MAX_LINE)
        self._name = b""
        # The number of the next line of the client. `None`: only a hello counts.
        self._expected = None
        self._number = 0
        self._taken = 0
        self._taken_told = 0
        self._lines = collections.deque()
        self._queued = 0
        self._ready = collections.deque()
        self._is_ready = set()
        self._pumping = False
        self._reading = False
        self._ended = False
        self._on_written = None

    def start(self, received):
        """Begins to read. `received` are bytes that were read before."""
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._set_reading(True)
        self._feed(received)

    # From the client.

    def _set_reading(self, reading):
        if reading != self._reading:
            self._reading = reading
            self._loop.on_readable(self._stdin, self._readable if reading else None)

    def _readable(self):
        try:
            data = os.read(self._stdin, MAX_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._feed(data)
        else:
            self._end()

    def leave(self, on_written):
        """Reads nothing more, and tells the client how many bytes were handled. Then calls
        `on_written`."""
        self._ended = True
        self._set_reading(False)
        if self._expected is None:
            self._loop.call_soon(on_written)
        else:
            self._on_written = on_written
            self._loop.call_later(LEAVE_SECONDS, on_written)
            # Only lines that were handled count.
            self.send({"lift": "bye", "bytes": self._taken - self._reader.unread})

    def _end(self):
        """The client is gone."""
        self._lines.clear()
        self._queued = 0
        if not self._ended:
            self._ended = True
            self._set_reading(False)
            self._receiver.handle_end()

    def _feed(self, data):
        self._taken += len(data)
        for line in self._reader.lines(data):
            self._handle_line(line)
            if self._ended:
                # The client sends the rest to the next program.
                return
        self._report_taken()

    def _handle_line(self, line):
        try:
            self._handle(line)
        except BadLine as error:
            if self._expected is not None:
                self._expected = None
                self.send({"lift": "broken", "reason": str(error)})

    def _handle(self, line):
        if self._expected is None and not (line or b"").startswith(b"0 "):
            return
        number, message = parse(line)
        if number == 0 and message.get("lift") == "hello":
            self._begin(line, message)
        elif self._expected is None:
            return
        elif number != self._expected:
            raise BadLine("got line %d, expected line %d" % (number, self._expected))
        else:
            self._expected += 1
            self._receiver.handle_message(message)

    def _begin(self, line, message):
        """A new link begins."""
        name = message.get("link")
        if not isinstance(name, str) or not name.isascii() or not name.isalnum():
            raise BadLine("the name of the link may contain only letters and digits")
        self._name = name.encode()
        self._expected = 1
        self._number = 0
        # The hello itself counts, and what was read after it.
        self._taken = len(line) + 1 + self._reader.unread
        self._taken_told = 0
        # The client waits for none of these lines any more. The first may be written in part.
        self._lines = collections.deque([b"\n"] if self._lines else [])
        self._queued = len(self._lines)
        self._ready.clear()
        self._is_ready.clear()
        self._receiver.handle_hello(message)

    def _report_taken(self):
        if self._expected is not None and self._taken - self._taken_told >= TAKEN_STEP:
            self._taken_told = self._taken
            self.send({"lift": "taken", "bytes": self._taken})

    # To the client.

    def ready(self, source):
        """`source` may have something to send: its `send_next` is called when there is room."""
        if source not in self._is_ready:
            self._is_ready.add(source)
            self._ready.append(source)
        self._pump_soon()

    def send(self, message):
        """Queues a message."""
        self._begin_line()
        # Only ASCII: v1 servers drop what they can't decode.
        self._queue(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")
        self._pump_soon()

    def send_output(self, event, exec_id, offset, data, end):
        """Queues a piece of output."""
        self._begin_line()
        head = '{"event":"%s","exec":%s,"offset":%d,"data_b64":"'
        self._queue((head % (event, json.dumps(exec_id), offset)).encode("ascii"))
        self._queue(binascii.b2a_base64(data, newline=False))
        self._queue(b'","eof":true}\n' if end else b'"}\n')

    def _begin_line(self):
        self._queue(b"%s %d " % (self._name, self._number))
        self._number += 1

    def _queue(self, data):
        self._lines.append(data)
        self._queued += len(data)

    def _pump_soon(self):
        # If stdout is full, the loop calls `_pump` again when it becomes writable.
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self):
        """Fills the queue, one message of each exec in turn, and writes what can be written."""
        while self._ready and self._queued < FULL:
            source = self._ready.popleft()
            self._is_ready.discard(source)
            if source.send_next(self):
                self.ready(source)
        while self._lines and self._write():
            pass
        self._pumping = False
        if self._ready and self._queued < FULL:
            # The rest follows after the loop has looked at the other descriptors.
            self._pump_soon()
        self._loop.on_writable(self._stdout, self._pump if self._lines else None)
        if self._on_written and not self._lines:
            self._on_written()
        self._set_reading(self._queued < OVERFULL and not self._ended)

    def _write(self):
        """Writes a part of the queue. Returns whether more can be written now."""
        buffers = [self._lines[at] for at in range(min(len(self._lines), MAX_BUFFERS))]
        try:
            written = os.writev(self._stdout, buffers)
        except BlockingIOError:
            return False
        except OSError:
            self._end()
            return False
        self._queued -= written
        while written:
            first = self._lines.popleft()
            if len(first) > written:
                self._lines.appendleft(memoryview(first)[written:])
                return False
            written -= len(first)
        return True


class BadLine(Exception):
    """A line of the client is not valid, or not the next one."""


def parse(line):
    """Returns the number and the message of a line."""
    if line is None:
        raise BadLine("a line has more than %d bytes" % MAX_LINE)
    number, _, text = line.partition(b" ")
    if not number.isdigit() or len(number) > 18:
        raise BadLine("a line has no number")
    try:
        message = json.loads(text.decode(), object_pairs_hook=object_from)
    except (ValueError, RecursionError):
        raise BadLine("line %d is not JSON" % int(number)) from None
    if not isinstance(message, dict):
        raise BadLine("line %d is not a JSON object" % int(number))
    return int(number), message


class LineReader:
    """Cuts bytes into lines. A line over the limit is `None`."""

    def __init__(self, most):
        self.unread = 0
        """How many bytes after the current line were read."""
        self._most = most
        self._parts = []
        self._size = 0

    def lines(self, data):
        """The lines that end in `data`, without their ends."""
        self.unread = len(data)
        *ends, rest = data.split(b"\n")
        for end in ends:
            self.unread -= len(end) + 1
            self._add(end)
            line = b"".join(self._parts) if self._size <= self._most else None
            self._parts = []
            self._size = 0
            yield line
        self._add(rest)

    def _add(self, part):
        self._size += len(part)
        if self._size > self._most:
            self._parts = []
        elif part:
            self._parts.append(part)
