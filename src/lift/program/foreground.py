"""`Foreground`: sends the signals of a terminal in gVisor, where the kernel may not.

Before 2023, a terminal of gVisor doesn't turn Ctrl-C, Ctrl-\\ and Ctrl-Z into signals, and before
June 2026, a new size causes no SIGWINCH. Only a process of the session can find out which processes
are in the foreground. So a helper stays in the session: the main process forks it before it
executes the program, and isn't its parent, so that the program has no child that it doesn't know.
"""

import errno
import os
import signal
import socket
import termios

SIGNALS = (
    (termios.VINTR, signal.SIGINT),
    (termios.VQUIT, signal.SIGQUIT),
    (termios.VSUSP, signal.SIGTSTP),
)

LOCAL_MODES, CHARACTERS = 3, 6


def is_needed(terminal):
    """Whether only a process of the session can find out what is in the foreground."""
    try:
        os.tcgetpgrp(terminal)
    except OSError as error:
        return error.errno == errno.ENOTTY
    return False


def find_signal(terminal, data):
    """The first byte for which the terminal sends a signal, as its position and the signal. The
    length of the data if there is none."""
    try:
        settings = termios.tcgetattr(terminal)
    except termios.error:
        return len(data), None
    best = len(data), None
    if settings[LOCAL_MODES] & termios.ISIG:
        for character, number in SIGNALS:
            typed = settings[CHARACTERS][character]
            at = bytes(data).find(typed) if typed != b"\0" else -1
            if 0 <= at < best[0]:
                best = at, number
    return best


class Foreground:
    """The program's end of the connection to a helper."""

    def __init__(self):
        self._own, self._other = socket.socketpair()
        self._own.setblocking(False)
        self.inside = self._other.fileno()
        """The other end, for `leave_helper`."""

    def fileno(self):
        return self._own.fileno()

    def handle_start(self):
        """The helper has its end."""
        self._other.close()

    def send(self, number, typed=0):
        """Sends a signal to the processes in the foreground. `typed` is the control character, or
        0. After a typed signal, a byte can be read. Returns false if the helper is gone."""
        try:
            return self._own.send(bytes((number, typed))) == 2
        except OSError:
            return False

    def is_sent(self):
        """Whether the last typed signal was sent, or never will be."""
        try:
            self._own.recv(64)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        self._own.close()
        self._other.close()


# In the child.


def leave_helper(inside):
    """Leaves a helper in the session of this process, which is about to execute the program."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.fork() == 0:
                serve(inside)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def serve(inside):
    """Sends signals until the connection ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    os.setpgid(0, 0)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != inside:
            try:
                os.close(int(name))
            except OSError:
                # The descriptor of the listing itself.
                pass
    while True:
        request = os.read(inside, 2)
        if len(request) < 2:
            return
        number, typed = request
        try:
            send(number, typed)
        except (OSError, termios.error):
            # The session has ended, or the group in the foreground.
            pass
        if typed:
            os.write(inside, b"\0")


def send(number, typed):
    modes = termios.tcgetattr(0)[LOCAL_MODES]
    if typed and not modes & termios.NOFLSH:
        try:
            termios.tcflush(0, termios.TCIFLUSH)
        except termios.error:
            # Some versions of gVisor can't.
            pass
    os.killpg(os.tcgetpgrp(0), number)
    if typed and modes & termios.ECHO:
        os.set_blocking(1, False)
        try:
            os.write(1, bytes((ord("^"), typed ^ 0x40)))
        finally:
            os.set_blocking(1, True)
