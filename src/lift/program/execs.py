"""`Exec`: one named exec, from its request to the acknowledgement of its end.

What the client asks for arrives in the methods that begin with `handle_`. What the client is told
is decided in `send_next`, which the link calls when it has room.
"""

import os
import time

from .ends import End
from .loop import GuardedLoop
from .output import SHORT_GRACE, Output
from .programs import Exit
from .streams import RecvStream

STDIN_WINDOW = 1024 * 1024
"""How many bytes of input a client may send past the last acknowledgement."""

MAX_WRITE = 64 * 1024

MAX_ANSWERS = 64
"""Maximum number of queued answers to kills. One answer may stand for several kills."""

NAMES = ("stdout", "stderr")

STDIN_CLOSED = "The process has closed its standard input, or has ended."


class Told:
    """Which statuses were sent since the client last requested the exec."""

    def __init__(self):
        self.running = False
        self.exited = False
        self.done = False


class Exec:
    """One named exec. The table owns it, and learns of its end."""

    def __init__(self, table, request, program):
        self.id = request.exec
        self.program = program
        """What runs. `None` when the exec is done."""
        self.is_builtin = program.is_builtin
        self.kind = request.kind
        self.is_terminal = request.terminal is not None
        self.label = request.label
        self.started_at = time.monotonic()
        self.end = None
        """How the main process ended. `None` while it runs."""
        self.is_done = False
        """Whether the output has ended, too."""
        self.is_settled = False
        """Whether clients now need only the id and the end of this exec."""
        self._table = table
        self._loop = GuardedLoop(table.loop, self.fail)
        # Only these: the code may be large, and the exec is remembered for a long time.
        self._timeout_ms = request.timeout_ms
        self._output_grace = request.output_grace
        self._attached = True
        self._told = Told()
        self._answers = []
        self._kills = 0
        self._killing = None
        self._held_exit = None
        self._stdin_refused = False
        self._stdin_closed = False
        # Later input waits while a typed signal is sent.
        self._is_signaling = False
        self._input = RecvStream(STDIN_WINDOW)
        self._timeout = None
        self.output = Output(
            self._loop,
            request.window,
            request.binary,
            table.drains,
            self._changed,
            self._handle_output_end,
        )

    # The program.

    def start(self):
        """Starts the program. Raises `StartError` if it can't start."""
        started, exited = map(self._loop.guard, (self._handle_started, self._handle_exit))
        self.program.start(self._loop, started, exited)
        if self._timeout_ms is not None:
            seconds = self._timeout_ms / 1000
            self._timeout = self._loop.call_later(seconds, self._handle_timeout)
        self._changed()

    def _handle_started(self):
        self.output.push(self.program.greeting)
        self.output.open(self.program.stdout, self.program.stderr)
        if self.program.stderr is None and not self.is_builtin:
            self.output.finish_stderr()
        self._write_input()

    def _handle_timeout(self):
        if self.end is None and self._killing is None:
            self._kill("timed_out")

    def _handle_exit(self, exit):
        if self.end is not None or self._held_exit is not None:
            return
        if self._killing is not None:
            # Reported when none of the other processes is left either.
            self._held_exit = exit
            return
        self._set_end(End("exited", exit), self._output_grace)

    def _set_end(self, end, grace):
        self.end = end
        if self._timeout is not None:
            self._timeout.cancel()
        self._close_input()
        self._table.handle_exit(self)
        if self.is_builtin:
            # The output of a connection that broke must not look complete.
            self.output.mark_no_ends()
        self.output.handle_exit(grace)
        self._changed()

    def _handle_output_end(self, cut):
        self.is_done = True
        self.program = None
        self.end.lengths = self.output.lengths()
        self.end.output_cut = cut
        if self._killing is None:
            self._answer_kills()
        self._table.handle_done(self)
        self._changed()

    # Kills.

    def handle_kill(self):
        if self.is_done and self._killing is None:
            self._answer({"status": "SANDBOX_EXECUTION_FORCE_KILLED"})
            return
        self._kills = min(self._kills + 1, MAX_ANSWERS // 4)
        if self._killing is None:
            self._kill("killed")

    def _kill(self, reason):
        self._killing = reason
        if self.is_builtin:
            # Its thread may be blocked because the window is full.
            self.output.read_beyond_window()
        self.program.kill(self._loop.guard(self._handle_killed))

    def _handle_killed(self, failure):
        reason, self._killing = self._killing, None
        if failure is not None:
            self._fail_kills(failure)
            # The process is abandoned.
            reason = "killed"
        if self.end is None:
            self._set_end(self._end_of_killed(reason), SHORT_GRACE)
        self.output.end_soon()
        self._answer_kills()

    def _end_of_killed(self, reason):
        exit = self._held_exit or Exit()
        if not self.is_builtin:
            return End(reason, exit)
        if exit.outcome is not None and "result" in exit.outcome:
            # A kill never hides a success.
            return End("exited", exit)
        return End("killed")

    def _answer_kills(self):
        for _ in range(self._kills):
            self._answer({"status": "SANDBOX_EXECUTION_FORCE_KILLED"})
        self._kills = 0

    def _fail_kills(self, reason):
        for _ in range(self._kills):
            self._answer({"status": "SANDBOX_EXECUTION_FORCE_KILL_ERROR", "message": reason})
        self._kills = 0

    # Input.

    def handle_stdin(self, offset, data, eof):
        if data and offset + len(data) <= self._input.received:
            # A client that repeats a start doesn't know what the process has taken.
            self._input.resume()
            self._changed()
        new = self._input.new_part(offset, data)
        if new is None:
            return
        if self._stdin_closed or self._input.ended:
            if new:
                self._refuse_stdin()
        elif self._input.accept(new):
            self._input.ended = self._input.ended or eof
            self._write_input()

    def _write_input(self):
        """Writes as much input as the program takes now."""
        if self._stdin_closed or self._is_signaling or self.program.stdin is None:
            return
        fd = self.program.stdin
        try:
            while self._input.first():
                data = memoryview(self._input.first())[:MAX_WRITE]
                plain, signal = self.program.plain(data)
                if plain == 0:
                    self._loop.on_writable(fd, None)
                    self._is_signaling = True
                    self.program.send_typed(signal, data[0], self._handle_signaled)
                    self._input.take(1)
                    return self._changed()
                self._input.take(os.write(fd, data[:plain]))
        except BlockingIOError:
            self._loop.on_writable(fd, self._write_input)
        except OSError:
            self._close_input()
        else:
            self._loop.on_writable(fd, None)
            if self._input.ended:
                self.program.close_stdin()
        self._changed()

    def _handle_signaled(self):
        """The signal of a control character was sent."""
        self._is_signaling = False
        if self.program is not None:
            self._write_input()

    def _close_input(self):
        """The program takes no more input."""
        if self._stdin_closed:
            return
        self._stdin_closed = True
        if self.program.stdin is not None:
            self._loop.on_writable(self.program.stdin, None)
        self.program.close_stdin()
        self._input.abandon()
        self._refuse_lost_stdin()

    def _refuse_lost_stdin(self):
        """Refuses input that was received but can't be taken, while the process runs."""
        if self._attached and self.end is None and self._stdin_closed and self._input.waiting:
            self._refuse_stdin()

    def _refuse_stdin(self):
        if not self._stdin_refused:
            self._stdin_refused = True
            self._answer({"status": "SANDBOX_STDIN_ERROR", "message": STDIN_CLOSED})

    # The client.

    def attach(self, offsets):
        """The client requests the exec on this link, from these offsets."""
        self._attached = True
        self._told = Told()
        self._input.resume()
        self.output.resume(offsets)
        self._refuse_lost_stdin()
        self._changed()

    def detach(self):
        """The link is lost."""
        self._attached = False
        self._kills = 0
        self._stdin_refused = False
        self._answers = []

    def handle_ack(self, offsets, done):
        self.output.ack(offsets)
        if done and self.is_done and not self.is_settled:
            self._settle()
        self._changed()

    def abandon_output(self, message):
        """Drops the output of an exec that is done, because too much is kept."""
        self._told.done = self._told.done and self.output.is_sent()
        self.end.reason = "sandbox_lost"
        self.end.lengths = None
        self.end.message = message
        self._settle()
        self._changed()

    def _settle(self):
        self.is_settled = True
        self.output.abandon()
        self._table.handle_settled(self)

    def _answer(self, status):
        if len(self._answers) < MAX_ANSWERS:
            self._answers.append(status)
        self._changed()

    def _changed(self):
        self._table.link.ready(self)

    def send_next(self, link):
        """Sends the next message about this exec. Returns false if there is none now."""
        try:
            return self._send_next(link)
        except Exception as error:
            self.fail(error)
            return False

    def _send_next(self, link):
        if self._attached and not self._told.running:
            self._told.running = True
            self._send_status(link, "SANDBOX_EXECUTION_RUNNING", self._running_keys())
        elif self._answers:
            answer = self._answers.pop(0)
            self._send_status(link, answer.pop("status"), answer)
        elif not self._attached:
            return False
        else:
            return self._send_exit(link) or self._send_data(link) or self._send_done(link)
        return True

    def _running_keys(self):
        return {
            "stdin": self._input.received,
            "window": self.output.window,
            "stdin_window": STDIN_WINDOW,
        }

    def _send_exit(self, link):
        """`EXITED`, unless `DONE` reports the exit as well."""
        if self.end is None or self.is_done or self._told.exited:
            return False
        if self.end.reason == "sandbox_lost":
            return False
        self._told.exited = True
        self._send_status(link, "SANDBOX_EXECUTION_EXITED", self.end.keys())
        return True

    def _send_data(self, link):
        ack = self._input.next_ack()
        if ack is not None:
            link.send({"event": "stdin_ack", "exec": self.id, "offset": ack})
            return True
        piece = self.output.next_piece()
        if piece is None:
            return False
        stream, offset, data, end = piece
        link.send_output(NAMES[stream], self.id, offset, data, end)
        return True

    def _send_done(self, link):
        if not self.is_done or self._told.done:
            return False
        self._told.done = True
        keys = self.end.keys()
        if self.end.lengths is not None:
            keys["stdout"], keys["stderr"] = self.end.lengths
        if self.end.output_cut:
            keys["output_cut"] = True
        self._send_status(link, "SANDBOX_EXECUTION_DONE", keys)
        return True

    def _send_status(self, link, status, keys):
        message = {"event": "status_update", "status": status, "exec": self.id}
        message.update(keys)
        link.send(message)

    # Internal errors.

    def fail(self, error):
        """Ends this exec after an internal error, so that the others go on."""
        if self.is_done:
            return
        why = "%s: %s" % (type(error).__name__, error)
        message = "The exec was lost because of an internal error: " + why
        self.end = End("sandbox_lost", message=message)
        self.is_done = True
        self._killing = None
        # The kill comes first: the end of its input would commit a builtin.
        for clean_up in (self._kill_rest, self._close_input, self.output.close):
            try:
                clean_up()
            except Exception:
                # Ignore it: reporting the end matters more.
                pass
        self.program = None
        self._fail_kills(message)
        self._table.handle_exit(self)
        self._table.handle_done(self)
        self._changed()

    def _kill_rest(self):
        self.program.kill(lambda _: None)
