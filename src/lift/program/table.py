"""`Table`: the execs of the sandbox. Answers the messages about them, and limits what it keeps."""

import binascii

from .execs import Exec
from .operations import Operations
from .output import Drains
from .programs import StartError
from .requests import BadRequest, Repeating, Request, is_integer, is_text, window_of

MAX_RUNNING = 64
"""Maximum number of execs whose main process runs. Builtins have limits of their own."""

MAX_BUILTINS = 1024
"""Maximum number of builtins of each kind whose end the client has not acknowledged."""

REMEMBERED = 1024
"""How many ended execs are remembered: their ids, their ends, and what is kept of their output."""

MAX_KEPT = 32 * 1024 * 1024
"""Maximum number of bytes of output of ended execs to keep, builtins excepted. Beyond it, the
output of the oldest is dropped."""

UNKNOWN = "The sandbox knows no such execution: it ended with the sandbox, or long ago."

DROPPED = "Its output is gone: too much output of later executions was not acknowledged."


class Table:
    """All execs by their ids."""

    def __init__(self, loop, link, processes, on_done):
        self.loop = loop
        self.link = link
        self.drains = Drains(loop)
        self._processes = processes
        self._on_done = on_done
        self._operations = Operations(processes.home)
        self._execs = {}
        # The execs that are done, the oldest first. Without builtins that are not settled.
        self._ended = {}
        # The main process has exited, and the output has not ended.
        self._exited = {}
        self._running = {}
        self._builtins = {"builtin": {}, "passive": {}}

    # What others ask.

    def find(self, exec_id):
        return self._execs.get(exec_id)

    def running_programs(self):
        return list(self._running.values())

    def count_busy(self):
        """How many execs run, other than watches, connections and waits for a port."""
        builtins = self._builtins["builtin"].values()
        return len(self._running) + sum(it.end is None for it in builtins)

    def is_busy(self, is_attached):
        """Whether an exec keeps the sandbox from being idle. Watches, connections and waits for a
        port never do; terminals and other builtins only while a client is attached."""
        return any(
            not it.is_done
            and it.kind != "passive"
            and (is_attached or not (it.is_terminal or it.is_builtin))
            for it in self._execs.values()
        )

    def are_all_done(self):
        """Whether each exec that was started is done."""
        return all(it.is_done for it in self._execs.values())

    def kill_all(self):
        """Kills all execs that are not done."""
        for it in list(self._execs.values()):
            if not it.is_done:
                try:
                    it.handle_kill()
                except Exception as error:
                    it.fail(error)

    # The messages of the client.

    def detach(self):
        """A new link: the client follows no exec until it asks for it."""
        for it in self._execs.values():
            it.detach()

    def handle(self, message):
        """Answers a message about an exec."""
        exec_id = message.get("exec")
        if not isinstance(exec_id, str):
            return
        target = self._execs.get(exec_id)
        if target is None:
            self._handle_unknown(exec_id, message)
            return
        try:
            self._handle_known(target, message)
        except Exception as error:
            target.fail(error)

    def _handle_known(self, target, message):
        event, action = message.get("event"), message.get("action")
        if event == "stdin":
            try:
                target.handle_stdin(*stdin_of(message))
            except BadRequest as error:
                self._refuse(target.id, "SANDBOX_STDIN_ERROR", error.message)
        elif event == "ack":
            target.handle_ack(offsets_of(message), message.get("done") is True)
        elif action == "kill_process":
            target.handle_kill()
        elif action == "reconnect":
            target.attach(offsets_of(message))
        elif is_request(message):
            # The client repeats its request on a new link, or another client repeats it, which may
            # have a smaller window. The code must not run twice.
            try:
                target.output.limit_window(window_of(message))
            except BadRequest:
                pass
            target.attach((0, 0))

    def _handle_unknown(self, exec_id, message):
        event, action = message.get("event"), message.get("action")
        if event == "stdin":
            self._refuse_unknown_stdin(exec_id, message)
        elif event == "ack":
            pass
        elif action == "kill_process":
            self._answer(exec_id, "SANDBOX_EXECUTION_FORCE_KILLED", {})
        elif action == "reconnect":
            keys = {"reason": "sandbox_lost", "message": UNKNOWN}
            self._answer(exec_id, "SANDBOX_EXECUTION_DONE", keys)
        elif is_request(message):
            self._start(exec_id, message)

    def _refuse_unknown_stdin(self, exec_id, message):
        try:
            stdin_of(message)
            why = UNKNOWN
        except BadRequest as error:
            why = error.message
        self._refuse(exec_id, "SANDBOX_STDIN_ERROR", why)

    def _start(self, exec_id, message):
        try:
            request = Request(message)
            self._check_limits(request.kind)
            self._start_checked(Exec(self, request, self._program(request)))
        except (BadRequest, StartError) as error:
            status = getattr(error, "status", "SANDBOX_EXECUTION_ERROR")
            self._refuse(exec_id, status, error.message)
        except Exception as error:
            why = "internal error: %s: %s" % (type(error).__name__, error)
            self._refuse(exec_id, "SANDBOX_EXECUTION_ERROR", why)

    def _start_checked(self, it):
        self._execs[it.id] = it
        if it.kind == "program":
            self._running[it.id] = it
        else:
            self._builtins[it.kind][it.id] = it
        try:
            it.start()
        except Exception:
            # The id is free again.
            del self._execs[it.id]
            self._running.pop(it.id, None)
            for builtins in self._builtins.values():
                builtins.pop(it.id, None)
            raise

    def _check_limits(self, kind):
        if kind == "program":
            if len(self._running) >= MAX_RUNNING:
                raise BadRequest(
                    "The sandbox has reached its limit of %d concurrent executions: kill one, or "
                    "wait for one to end." % MAX_RUNNING
                )
        elif len(self._builtins[kind]) >= MAX_BUILTINS:
            what = "operations" if kind == "builtin" else "connections, watches and waits for ports"
            raise BadRequest(
                "The sandbox has too many %s whose outcome the client has not acknowledged." % what
            )

    def _program(self, request):
        if request.builtin is not None:
            return self._operations.program(request.builtin, self)
        return self._processes.program(request)

    def _refuse(self, exec_id, status, why):
        self._answer(exec_id, status, {"message": why})

    def _answer(self, exec_id, status, keys):
        message = {"event": "status_update", "status": status, "exec": exec_id}
        message.update(keys)
        self.link.send(message)

    # What happens to execs.

    def handle_exit(self, it):
        """The main process of an exec has exited."""
        self._running.pop(it.id, None)
        if not it.is_done:
            self._exited[it.id] = it
        excess = len(self._exited) - MAX_RUNNING
        for oldest in list(self._exited.values())[: max(excess, 0)]:
            oldest.output.end_soon()

    def handle_done(self, it):
        """The output of an exec has ended."""
        self._exited.pop(it.id, None)
        if it.kind == "program":
            self._ended[it.id] = it
            self._limit_kept()
            self._limit_remembered()
        self._on_done()

    def handle_settled(self, it):
        """The client has acknowledged the end of an exec, or its output was dropped."""
        if it.kind != "program":
            del self._builtins[it.kind][it.id]
            self._ended[it.id] = it
            self._limit_remembered()

    def _limit_kept(self):
        kept = 0
        for it in reversed(list(self._ended.values())):
            if it.kind == "program" and not it.is_settled:
                kept += it.output.kept()
                if kept > MAX_KEPT:
                    it.abandon_output(DROPPED)

    def _limit_remembered(self):
        while len(self._ended) > REMEMBERED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            del self._execs[oldest]


def is_request(message):
    return any(message.get(key) is not None for key in ("language", "code", "argv", "builtin"))


def offsets_of(message):
    """The offsets in stdout and stderr. One that is missing or not valid counts as 0."""
    offsets = (message.get("stdout"), message.get("stderr"))
    return [it if is_integer(it) and it > 0 else 0 for it in offsets]


def stdin_of(message):
    """The offset and the bytes of a message with input, and whether the input ends after them."""
    offset = message.get("offset")
    if not is_integer(offset) or offset < 0 or isinstance(message, Repeating):
        raise BadRequest("'offset' must be given: a whole number, not negative.")
    return offset, data_of(message), message.get("eof") is True


def data_of(message):
    text, encoded = message.get("data"), message.get("data_b64")
    if text is None and encoded is None:
        return b""
    try:
        if text is None and isinstance(encoded, str):
            data = binascii.a2b_base64(encoded.encode("ascii"))
            # The decoder skips what is not base64.
            if len(encoded) == (len(data) + 2) // 3 * 4:
                return data
        if encoded is None and is_text(text):
            return text.encode()
    except ValueError:
        pass
    raise BadRequest("'data' must be text, or 'data_b64' base64, and not both.")
