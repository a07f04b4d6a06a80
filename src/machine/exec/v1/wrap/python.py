# The code is `code`. It runs in a Python of its own; this one says how it ended.
@@supervisor@@

code = @@code@@
start = @@start@@


def main():
    source, pipe = os.pipe()

    def run():
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

    def feed():
        os.close(source)
        try:
            rest = memoryview(code)
            while rest:
                rest = rest[os.write(pipe, rest):]
        except OSError:
            pass
        os.close(pipe)

    supervise("@@nonce@@", run, feed)


if __name__ == "__main__":
    main()
else:
    # multiprocessing imports the program a second time, under another name.
    exec(compile(code, "<code>", "exec", 0, True))
