"""`Driver`: starts the real program through its loader, and speaks its lines as the client does.

It can lose a link: bytes that the program wrote, and the end of what the client wrote.
"""

import base64
import collections
import json
import os
import select
import subprocess
import sys
import time
import unittest

PROGRAM = os.path.join(os.path.dirname(__file__), "../../../src/lift/program")

PATIENCE = 30
"""How many seconds a test waits for what must happen."""

LONG_ENOUGH_TO_BEGIN_MS = 5000
"""A time limit within which code has started, even on a busy machine."""

IN_FLIGHT = 256 * 1024
"""How many bytes the client may have sent that the program has not reported as taken."""

PIECE = 32 * 1024


def sources():
    """The modules of the program by their names, as the client sends them."""
    modules = {}
    for name in sorted(os.listdir(PROGRAM)):
        if name.endswith(".py") and name not in ("__init__.py", "loader.py"):
            with open(os.path.join(PROGRAM, name), encoding="utf-8") as file:
                modules[name[:-3]] = file.read()
    return modules


def loader():
    with open(os.path.join(PROGRAM, "loader.py"), encoding="utf-8") as file:
        return file.read()


def ignored_signals(status):
    """The signals in a line like "SigIgn: 0000000000001000". Without 32 and 33, which belong to the
    C library: a program can neither send nor change them."""
    mask = int(status.split()[-1], 16)
    return [it for it in range(1, 65) if mask >> (it - 1) & 1 and it not in (32, 33)]


class Followed:
    """What the client knows of one exec."""

    def __init__(self):
        self.streams = {"stdout": bytearray(), "stderr": bytearray()}
        self.ended_streams = set()
        self.positions = {}
        """The positions of streams whose requested bytes are gone."""
        self.statuses = []
        self.taken = 0
        self.acks = True
        """Whether the driver acknowledges output as it arrives."""

    @property
    def stdout(self):
        return bytes(self.streams["stdout"])

    @property
    def stderr(self):
        return bytes(self.streams["stderr"])

    def names(self):
        """The statuses without their common beginning."""
        prefix = "SANDBOX_EXECUTION_"
        return [it["status"].replace(prefix, "") for it in self.statuses]

    def last(self, name):
        """The last status of this name, or `None`."""
        for status in reversed(self.statuses):
            if status["status"].endswith(name):
                return status
        return None


class Driver:
    """A client of one program."""

    def __init__(self, python=sys.executable, wrapper=(), modules=None, **options):
        """`wrapper` is a command that runs the command behind it. `modules` replaces `sources()`.
        `options` are those of Popen."""
        command = list(wrapper) + [python, "-c", loader()]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, **options)
        self.followed = collections.defaultdict(Followed)
        self.others = []
        self._stdin = self.process.stdin.fileno()
        self._stdout = self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        self._unread = bytearray()
        self._links = 0
        self._link = None
        self._out_number = self._in_number = 0
        self._sent = self._taken = 0
        self._sending = False
        # The execs whose output is to be acknowledged after the line that is being sent.
        self._due_acks = set()
        self.write((json.dumps(modules or sources()) + "\n").encode())

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    # Lines.

    def hello(self, **keys):
        """Begins a new link. Returns the answer."""
        self._links += 1
        self._link = b"link%d" % self._links
        self._out_number = self._in_number = 0
        self._sent = self._taken = 0
        self._due_acks.clear()
        self.write(b"\n")
        message = {"lift": "hello", "link": self._link.decode()}
        message.update(keys)
        self.send(message)
        return self.wait_for(lambda: self.other("hello"))

    def send(self, message):
        self._sending = True
        self._send_line(message)
        self._sending = False

    def _send_line(self, message):
        line = b"%d %s\n" % (self._out_number, json.dumps(message).encode())
        self._out_number += 1
        # A line may be longer than what may be in flight.
        for start in range(0, len(line), PIECE):
            piece = line[start : start + PIECE]
            self._sent += len(piece)
            if self._sent - self._taken > IN_FLIGHT:
                self.wait_for(lambda: self._sent - self._taken <= IN_FLIGHT)
            self.write(piece)

    def write(self, data):
        """Writes bytes, and reads what arrives meanwhile."""
        rest = memoryview(data)
        end = time.monotonic() + PATIENCE
        while rest:
            if time.monotonic() > end:
                raise AssertionError("the program takes no input")
            readable, writable, _ = select.select([self._stdout], [self._stdin], [], 1)
            if writable:
                rest = rest[os.write(self._stdin, rest) :]
            elif readable:
                self.read()

    def read(self):
        """Reads what has arrived. Returns false at the end of stdout."""
        data = os.read(self._stdout, 1 << 16)
        self._unread += data
        *lines, self._unread = bytes(self._unread).split(b"\n")
        self._unread = bytearray(self._unread)
        for line in lines:
            self._take_line(line)
        return bool(data)

    def lose_output(self, count):
        """Loses the next bytes that the program writes."""
        while count > 0:
            ready, _, _ = select.select([self._stdout], [], [], PATIENCE)
            assert ready, "the program writes nothing"
            count -= self.lose_some(count)

    def lose_some(self, most):
        """Loses at most this many bytes, which the program has written. Returns their number."""
        return len(os.read(self._stdout, min(most, 1 << 16)))

    def _take_line(self, line):
        assert line.isascii(), line
        link, _, rest = line.partition(b" ")
        if link != self._link:
            return
        number, _, text = rest.partition(b" ")
        assert int(number) == self._in_number, (number, self._in_number)
        self._in_number += 1
        self._take(json.loads(text))

    def _take(self, message):
        if "lift" in message:
            if message["lift"] == "taken":
                self._taken = message["bytes"]
            self.others.append(message)
            return
        followed = self.followed[message["exec"]]
        event = message["event"]
        if event == "status_update":
            followed.statuses.append(message)
        elif event == "stdin_ack":
            followed.taken = message["offset"]
        else:
            self._take_output(followed, event, message)

    def _take_output(self, followed, event, message):
        data = base64.b64decode(message["data_b64"])
        stream = followed.streams[event]
        if not data and message["offset"] > len(stream):
            followed.positions[event] = message["offset"]
            return
        assert message["offset"] <= len(stream), "output is missing"
        stream += data[len(stream) - message["offset"] :]
        assert event not in followed.ended_streams or not data, "output after its end"
        if message.get("eof"):
            followed.ended_streams.add(event)
        if followed.acks:
            self._due_acks.add(message["exec"])

    # What happens.

    def wait_for(self, condition, patience=PATIENCE):
        """Reads until the condition returns something true, and returns that."""
        end = time.monotonic() + patience
        while True:
            while self._due_acks and not self._sending:
                self.ack(self._due_acks.pop())
            result = condition()
            if result:
                return result
            left = end - time.monotonic()
            ready, _, _ = select.select([self._stdout], [], [], max(left, 0))
            if not ready:
                raise AssertionError("it didn't happen; followed: %s" % self._describe())
            if not self.read():
                raise AssertionError("the program ended; followed: %s" % self._describe())

    def read_for(self, seconds):
        """Reads what arrives in this time. Acknowledges nothing."""
        end = time.monotonic() + seconds
        left = seconds
        while left > 0:
            if not self.stays_quiet(left) and not self.read():
                raise AssertionError("the program ended; followed: %s" % self._describe())
            left = end - time.monotonic()

    def stays_quiet(self, seconds):
        """Whether the program writes nothing for a while."""
        ready, _, _ = select.select([self._stdout], [], [], seconds)
        return not ready

    def _describe(self):
        followed = self.followed.items()
        execs = {name: (it.names(), it.stdout[-99:], it.stderr[-99:]) for name, it in followed}
        return "%s, %s" % (execs, self.others[-3:])

    def other(self, kind):
        """The next message of this kind that is about no exec, or `None`."""
        for message in self.others:
            if message["lift"] == kind:
                self.others.remove(message)
                return message
        return None

    def exit_status(self):
        """Waits for the end of the program."""
        while True:
            ready, _, _ = select.select([self._stdout], [], [], PATIENCE)
            assert ready, "the program didn't end"
            if not self.read():
                return self.process.wait(PATIENCE)

    # Execs.

    def exec(self, name, **request):
        self.send(dict(request, exec=name))
        return self.followed[name]

    def python(self, name, code, **options):
        return self.exec(name, language="python", code=code, **options)

    def bash(self, name, code, **options):
        return self.exec(name, language="bash", code=code, **options)

    def builtin(self, name, op, **values):
        """Performs a builtin without input. Returns its outcome and its output."""
        followed = self.exec(name, builtin=dict(values, op=op), binary=True)
        done = self.done(name)
        return done.get("result", done.get("error")), followed.stdout

    def stdin(self, name, data, offset=0, eof=False):
        message = {"event": "stdin", "exec": name, "offset": offset}
        if data:
            message["data_b64"] = base64.b64encode(data).decode()
        if eof:
            message["eof"] = True
        self.send(message)

    def ack(self, name, done=False):
        followed = self.followed[name]
        message = {"event": "ack", "exec": name}
        for stream, data in followed.streams.items():
            message[stream] = len(data)
        if done:
            message["done"] = True
        self.send(message)

    def kill(self, name):
        self.send({"action": "kill_process", "exec": name})

    def reconnect(self, name):
        followed = self.followed[name]
        message = {"action": "reconnect", "exec": name}
        for stream, data in followed.streams.items():
            message[stream] = len(data)
        self.send(message)

    def status(self, name, status):
        """Waits for a status of an exec."""
        return self.wait_for(lambda: self.followed[name].last(status))

    def done(self, name):
        """Waits for the end of an exec and acknowledges it."""
        done = self.status(name, "_DONE")
        followed = self.followed[name]
        self.wait_for(
            lambda: all(
                len(followed.streams[it]) >= done.get(it, 0) for it in ("stdout", "stderr")
            )
        )
        self.ack(name, done=True)
        return done

    def run(self, name, language, code, **options):
        """Runs code to its end. Returns `DONE`, stdout and stderr."""
        followed = self.exec(name, language=language, code=code, **options)
        done = self.done(name)
        return done, followed.stdout, followed.stderr


class DriverCase(unittest.TestCase):
    """A test with one program, whose default directory is empty at first."""

    python = sys.executable

    def setUp(self):
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.home = self.directory.name
        env = dict(os.environ, HOME=self.home)
        env.pop("PYTHONPATH", None)
        self.driver = Driver(self.python, env=env)
        self.addCleanup(self.driver.close)
        self.driver.hello()

    def path(self, name):
        return os.path.join(self.home, name)
