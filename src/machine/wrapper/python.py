# The code is `code`. It runs in a Python of its own; this one says how it ended.
import os, sys, time, _signal

code = @@code@@
start = @@start@@


def child(source):
    try:
        cwd = @@cwd@@
        if cwd is not None:
            os.chdir(cwd)
        env = dict(os.environb)
        env.update([@@env@@])
        os.set_inheritable(source, True)
        command = [sys.executable or "python3"]
        if getattr(sys.stdout, "write_through", False):
            command.append("-u")
        if sys.flags.isolated:
            command.append("-I")
        path = "" if sys.flags.isolated else sys.path[0]
        command += ["-c", start, str(source), str(len(code))]
        command += [sys.argv[0], globals().get("__file__", ""), path]
        os.execvpe(command[0], command + [@@args@@], env)
    except (OSError, ValueError) as why:
        os.write(2, ("actix-sandbox: the code did not run: %s\n" % why).encode("utf-8", "replace"))
    finally:
        os._exit(125)


# Servers kill the process that they started, which is this one: then the guard kills the code.
def guard(numbers):
    ours, theirs = os.pipe()
    process = os.fork()
    if process:
        os.close(ours)
        return process, theirs
    try:
        for number in numbers:
            _signal.signal(number, _signal.SIG_IGN)
        os.close(theirs)
        for stream in 0, 1, 2:
            os.close(stream)
        number = os.read(ours, 20)
        if number and not os.read(ours, 1):
            os.kill(int(number), _signal.SIGKILL)
    finally:
        os._exit(0)


def main():
    forwarded = _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM
    dropped = _signal.SIGALRM, _signal.SIGUSR1, _signal.SIGUSR2
    guardian, line = guard(forwarded + dropped)
    source, pipe = os.pipe()
    process = os.fork()
    if not process:
        child(source)
    for number in forwarded:
        _signal.signal(number, lambda number, _: os.kill(process, number))
    for number in dropped:
        _signal.signal(number, lambda *_: None)
    os.write(line, str(process).encode())
    os.close(source)
    try:
        rest = memoryview(code)
        while rest:
            rest = rest[os.write(pipe, rest):]
    except OSError:
        pass
    os.close(pipe)
    status = os.waitpid(process, 0)[1]
    os.write(line, b"!")
    os.waitpid(guardian, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        end, status = "signal %d" % number, 128 + number
    else:
        status = os.WEXITSTATUS(status)
        end = "exit %d" % status
    trailer = ("\036actix-sandbox @@nonce@@ %s\036" % end).encode()
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


if __name__ == "__main__":
    main()
else:
    # multiprocessing imports the program a second time, under another name.
    exec(compile(code, "<code>", "exec", 0, True))
