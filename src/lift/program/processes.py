"""`Process`: the program of an exec that runs code or a program of the sandbox.

`Processes` starts them from checked requests, and notices their ends.
"""

import errno
import os
import resource
import signal
import sys

from .codefiles import CodeFiles
from .marks import Mark
from .programs import Exit, Program, StartError
from .spawn import Command, spawn
from .stdio import Pipes, Terminal
from .sweep import Sweep, Sweeps

UNBUFFERED = b"PYTHONUNBUFFERED"
"""Makes Python write its output at once. Not set in a terminal, where Python writes whole lines:
without buffers it sometimes writes no bytes, and in gVisor such a write never returns."""

SEARCHED = b"PYTHONPATH"


class Processes:
    """The processes of all execs."""

    def __init__(self, loop):
        self.home = default_directory()
        self._code = CodeFiles(self.home)
        self._running = {}
        self.sweeps = Sweeps(loop)
        self._open_files = raise_open_files()
        self._watch_signals(loop)

    def program(self, request):
        """The program of a request. Raises `StartError`."""
        mark = Mark()
        cwd = self.home if request.cwd is None else os.path.join(self.home, request.cwd)
        code = None
        env = self._environment(request, mark)
        if request.argv is not None:
            argv = request.argv
        else:
            code = self._write_code(request)
            interpreter = python() if request.language == "python" else b"bash"
            argv = [interpreter, code] + request.args
            if request.language == "python":
                rest = env.get(SEARCHED)
                site = self._code.site()
                env[SEARCHED] = site + b":" + rest if rest else site
        # The client's PATH applies to the code, not to the search for the interpreter.
        path = (os.environb if code else env).get(b"PATH")
        command = Command(argv, env, path, cwd, mark, request.terminal is not None)
        return Process(self, command, code, request.terminal)

    def start(self, process, command, descriptors):
        """Starts the process of a program. Returns its id."""
        limits = [(resource.RLIMIT_NOFILE, self._open_files)]
        pid = spawn(command, *descriptors, limits)
        command.mark.check(pid)
        self._running[pid] = process
        return pid

    def reap(self):
        """Collects the main processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # As the first process of a PID namespace, this program gets all orphans.
            process = self._running.pop(pid, None)
            if process is not None:
                process.handle_exit(status)

    def forget(self, code):
        """A program has ended: its code is no longer needed."""
        if code is not None:
            self._code.remove(code)

    def close(self):
        """The program ends. No main process survives it."""
        for pid in self._running:
            send_group(pid, signal.SIGKILL)
        self._code.close()

    def _watch_signals(self, loop):
        """Reaps when a child has ended. Python writes each signal to a pipe, if it has a
        handler."""
        signals, written = os.pipe()
        os.set_blocking(signals, False)
        os.set_blocking(written, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)

        def handle_signals():
            os.read(signals, 4096)
            self.reap()

        loop.on_readable(signals, handle_signals)

    def _write_code(self, request):
        try:
            return self._code.write(request.language, request.code)
        except OSError as error:
            raise StartError("cannot write the code to a file: %s" % error.strerror) from None

    def _environment(self, request, mark):
        env = dict(os.environb)
        if request.terminal is None:
            env.setdefault(UNBUFFERED, b"1")
        else:
            env.pop(UNBUFFERED, None)
        env.update(request.env)
        name, value = mark.variable()
        env[name] = value
        return env


class Process(Program):
    """A process with pipes or a terminal, and its descendants."""

    def __init__(self, processes, command, code, terminal_size):
        self.pid = None
        """The main process. `None` before its start, and after it was reaped: then its number may
        be used again."""
        self._processes = processes
        self._command = command
        self._code = code
        self._terminal_size = terminal_size
        self._session = None
        self._streams = None
        self._loop = None
        self._on_exit = None

    @property
    def stdin(self):
        return self._streams.stdin

    @property
    def stdout(self):
        return self._streams.stdout

    @property
    def stderr(self):
        return self._streams.stderr

    def start(self, loop, on_started, on_exit):
        self._loop = loop
        self._on_exit = on_exit
        try:
            self._streams = self._open_streams()
            if self._streams.foreground is not None:
                self._command.helper = self._streams.foreground.inside
            self.pid = self._processes.start(self, self._command, self._streams.inside)
        except StartError:
            self._processes.forget(self._code)
            if self._streams is not None:
                self._streams.close()
            raise
        self._session = self.pid
        self._streams.handle_start()
        on_started()

    def _open_streams(self):
        try:
            if self._terminal_size is None:
                return Pipes()
            return Terminal(self._terminal_size)
        except OSError as error:
            message = "cannot open the streams of the process: %s"
            raise StartError(message % error.strerror) from None

    def close_stdin(self):
        self._streams.close_stdin()

    def plain(self, data):
        return self._streams.plain(data)

    def send_typed(self, number, typed, on_sent):
        """Sends the signal of a control character that was typed. Then calls back."""
        foreground = self._streams.foreground

        def check():
            if foreground.is_sent():
                self._loop.on_readable(foreground.fileno(), None)
                on_sent()

        if foreground.send(number, typed):
            self._loop.on_readable(foreground.fileno(), check)
        else:
            self._loop.call_soon(on_sent)

    def kill(self, on_killed):
        if self.pid is not None:
            # The group can't start more processes from now on.
            send_group(self.pid, signal.SIGSTOP)

        def swept(failure):
            if failure is not None and self.pid is not None:
                send_group(self.pid, signal.SIGKILL)
            self._processes.reap()
            on_killed(failure)

        swept = self._loop.guard(swept)
        self._processes.sweeps.add(Sweep(self._command.mark, self._session, swept))

    def handle_exit(self, status):
        """The main process was reaped."""
        # Another exec may be calling, and an error here must not end it.
        self._loop.guard(self._handle_exit)(status)

    def _handle_exit(self, status):
        self.pid = None
        if self._streams.stdin is not None:
            # A terminal closes it.
            self._loop.on_writable(self._streams.stdin, None)
        if self._streams.foreground is not None:
            self._loop.on_readable(self._streams.foreground.fileno(), None)
        self._streams.handle_exit()
        self._processes.forget(self._code)
        if os.WIFSIGNALED(status):
            self._on_exit(Exit(signal=os.WTERMSIG(status)))
        else:
            self._on_exit(Exit(exit_code=os.WEXITSTATUS(status)))

    # What builtins do to the main process. `ProcessLookupError` if it has ended.

    def signal(self, number, to_group):
        if self.pid is None:
            raise ProcessLookupError(errno.ESRCH, "")
        if to_group:
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)

    def resize(self, size):
        if self.pid is None:
            raise ProcessLookupError(errno.ESRCH, "")
        self._streams.resize(size)


def python():
    """The interpreter that runs this program, with the same version and packages."""
    return os.fsencode(sys.executable or "python3")


def default_directory():
    """The home directory of the sandbox: HOME if that is a directory. Otherwise the directory in
    which the service started this program."""
    home = os.environb.get(b"HOME")
    if home and os.path.isdir(home):
        return os.path.abspath(home)
    return os.getcwdb()


def raise_open_files():
    """Raises the limit on open files of this program, which needs several for each exec. Returns
    the limit for code, which is the one before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = before
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            # Continue with the lower limit.
            pass
    return before


def send_group(group, number):
    try:
        os.killpg(group, number)
    except OSError:
        pass

