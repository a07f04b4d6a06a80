import os, sys, time, _signal

FORWARDED = _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM
DROPPED = _signal.SIGALRM, _signal.SIGUSR1, _signal.SIGUSR2


def child(run, mask, line):
    try:
        os.write(line, str(os.getpid()).encode())
        # Python ignores these, and a program that it starts would, too.
        for number in _signal.SIGPIPE, _signal.SIGXFSZ:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        run()
    except (OSError, ValueError) as why:
        os.write(2, ("actix-sandbox: the code did not run: %s\n" % why).encode("utf-8", "replace"))
    finally:
        os._exit(125)


# Servers kill the process that they started, which is this one: then the guard kills the code.
def guard():
    ours, theirs = os.pipe()
    process = os.fork()
    if process:
        os.close(ours)
        return process, theirs
    try:
        # Whatever it held open, somebody would wait for the end of.
        os.closerange(0, ours)
        os.closerange(ours + 1, 256)
        said = part = os.read(ours, 99)
        while part:
            part = os.read(ours, 99)
            said += part
        if said and not said.endswith(b"!"):
            os.kill(int(said), _signal.SIGKILL)
    finally:
        os._exit(0)


def supervise(nonce, run, feed=lambda: None):
    # The code may send them to its process group at once. The guard never gets them.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, FORWARDED + DROPPED)
    guardian, line = guard()
    process = os.fork()
    if not process:
        child(run, mask, line)
    runs = [process]

    def forward(number, _):
        for process in runs:
            try:
                os.kill(process, number)
            except OSError:
                pass

    for number in FORWARDED:
        _signal.signal(number, forward)
    for number in DROPPED:
        _signal.signal(number, lambda *_: None)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    feed()
    # Not collected yet, so that its number is its own for as long as signals go there.
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    runs.clear()
    status = os.waitpid(process, 0)[1]
    os.write(line, b"!")
    os.close(line)
    os.waitpid(guardian, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        end, status = "signal %d" % number, 128 + number
    else:
        status = os.WEXITSTATUS(status)
        end = "exit %d" % status
    trailer = ("\036actix-sandbox %s %s\036" % (nonce, end)).encode()
    # A child may have left stdout so that a full pipe is an error.
    for _ in range(6000):
        try:
            os.write(1, trailer)
            break
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            break
    os._exit(status)
