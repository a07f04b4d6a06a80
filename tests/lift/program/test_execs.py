"""Execs end to end: how they start, what code finds, how they end, and that they run once."""

import os
import unittest

from driver import LONG_ENOUGH_TO_BEGIN_MS, Driver, DriverCase, ignored_signals


class ExecTest(DriverCase):
    def test_code_runs_with_its_arguments_and_output(self):
        code = "import sys\nprint(sys.argv[1:])\nprint('é', file=sys.stderr)\nsys.exit(3)"
        done, stdout, stderr = self.driver.run("a", "python", code, args=["x", "y z"])
        self.assertEqual((done["exit_code"], done["reason"]), (3, "exited"))
        self.assertEqual((stdout, stderr), (b"['x', 'y z']\n", "é\n".encode()))
        self.assertEqual((done["stdout"], done["stderr"]), (len(stdout), len(stderr)))
        done, stdout, _ = self.driver.run("b", "sh", 'echo "$#" "$2"; kill -9 $$', args=["x", "y"])
        self.assertEqual((stdout, done["signal"]), (b"2 y\n", 9))
        self.assertNotIn("exit_code", done)

    def test_the_first_status_announces_the_windows(self):
        self.driver.bash("a", ":", window=5000)
        running = self.driver.status("a", "_RUNNING")
        for key, value in (("stdin", 0), ("window", 5000), ("stdin_window", 1 << 20)):
            self.assertEqual(running[key], value)
        self.driver.done("a")
        self.assertEqual(self.driver.followed["a"].names(), ["RUNNING", "DONE"])

    def test_code_finds_its_directory_and_environment(self):
        os.mkdir(self.path("sub"))
        with open(self.path("sub/helper.py"), "w") as file:
            file.write("value = 'imported'\n")
        code = (
            "import helper, os, sys\n"
            "print(helper.value, os.getcwd(), os.environ['K'], os.environ.get('PYTHONPATH'))\n"
            "print(os.path.basename(__file__), 'sitecustomize' in open(sys.argv[0]).read())\n"
        )
        done, stdout, stderr = self.driver.run("a", "python", code, cwd="sub", env={"K": "v"})
        sub = os.path.realpath(self.path("sub"))
        self.assertEqual(stdout.split()[:4], [b"imported", sub.encode(), b"v", b"None"])
        self.assertEqual(stderr, b"")
        done, stdout, _ = self.driver.run("b", "bash", "pwd -P; echo $HOME")
        self.assertEqual(stdout.decode().split(), [os.path.realpath(self.home), self.home])

    def test_pythonpath_of_the_client_is_kept(self):
        code = "import os, sys; print(os.environ['PYTHONPATH'], '/some/where' in sys.path)"
        _, stdout, _ = self.driver.run("a", "python", code, env={"PYTHONPATH": "/some/where"})
        self.assertEqual(stdout, b"/some/where True\n")

    def test_a_traceback_shows_the_code_alone(self):
        _, _, stderr = self.driver.run("a", "python", "def f():\n    1 / 0\n\nf()\n")
        text = stderr.decode()
        self.assertEqual(text.count("File "), 2)
        self.assertIn("1 / 0", text)
        self.assertIn("ZeroDivisionError", text)

    def test_large_code_runs_and_is_in_no_argument(self):
        code = "x = 1  # secret\n" * 40_000 + "print(open('/proc/self/cmdline').read())"
        _, stdout, stderr = self.driver.run("a", "python", code)
        self.assertEqual(stderr, b"")
        self.assertNotIn(b"secret", stdout)
        self.assertLess(len(stdout), 1000)

    def test_multiprocessing_finds_the_code(self):
        code = (
            "import multiprocessing\n"
            "def double(x): return 2 * x\n"
            "if __name__ == '__main__':\n"
            "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
            "        print(pool.map(double, [1, 2]))\n"
        )
        _, stdout, stderr = self.driver.run("a", "python", code)
        self.assertEqual((stdout, stderr), (b"[2, 4]\n", b""))

    def test_argv_runs_a_program_without_a_shell(self):
        done, stdout, _ = self.driver_argv(["printf", "%s|", "a b", "$HOME"])
        self.assertEqual((stdout, done["exit_code"]), (b"a b|$HOME|", 0))
        with open(self.path("script"), "w") as file:
            file.write("echo no interpreter $1\n")
        os.chmod(self.path("script"), 0o755)
        done, stdout, _ = self.driver_argv(["./script", "x"])
        self.assertEqual(stdout, b"no interpreter x\n")

    def driver_argv(self, argv, **options):
        name = "argv%d" % len(self.driver.followed)
        followed = self.driver.exec(name, argv=argv, **options)
        done = self.driver.done(name)
        return done, followed.stdout, followed.stderr

    def test_a_program_is_searched_in_the_path_of_the_client(self):
        os.mkdir(self.path("bin"))
        os.symlink("/bin/echo", self.path("bin/my-echo"))
        path = {"PATH": "/nowhere:" + self.path("bin")}
        _, stdout, _ = self.driver_argv(["my-echo", "x"], env=path)
        self.assertEqual(stdout, b"x\n")
        # Not so an interpreter, which the client doesn't choose.
        _, stdout, _ = self.driver.run("b", "bash", "echo $PATH", env={"PATH": "/nowhere"})
        self.assertEqual(stdout, b"/nowhere\n")

    def test_what_can_not_start_is_an_error_and_frees_the_id(self):
        with open(self.path("file"), "w") as file:
            file.write("not a program")
        refused = [
            (
                {"argv": ["no-such-program"], "env": {"PATH": "/usr/bin:/bin"}},
                "cannot run 'no-such-program': No such file",
            ),
            ({"argv": ["./file"]}, "cannot run './file': Permission denied"),
            ({"argv": ["./file/x"]}, "cannot run './file/x'"),
            ({"argv": ["echo", "x" * 200_000]}, "cannot run 'echo': Argument list too long"),
            ({"argv": ["echo"], "cwd": "no/such"}, "working directory"),
            ({"argv": ["echo"], "cwd": "file"}, "Not a directory"),
            ({"argv": []}, "'argv' must name a program"),
            ({"builtin": {"op": "fly"}}, "unknown operation: 'fly'"),
            ({"builtin": {"op": "read"}}, "'path'"),
        ]
        followed = self.driver.followed["e"]
        for count, (request, message) in enumerate(refused, 1):
            self.driver.exec("e", **request)
            self.driver.wait_for(lambda: len(followed.statuses) == count)
            error = followed.statuses[-1]
            self.assertEqual(error["status"], "SANDBOX_EXECUTION_ERROR")
            self.assertIn(message, error["message"])
        self.driver.exec("e", language="ruby", code="")
        unsupported = self.driver.status("e", "_UNSUPPORTED_LANGUAGE_ERROR")
        self.assertIn("ruby", unsupported["message"])
        self.assertEqual(self.driver.run("e", "bash", "echo ok")[1], b"ok\n")
        self.assertEqual(followed.names()[-2:], ["RUNNING", "DONE"])

    def test_code_inherits_nothing_of_the_program(self):
        code = (
            "import os, signal\n"
            "print(sorted(int(it) for it in os.listdir('/proc/self/fd'))[:-1])\n"
            "print(os.getsid(0) == os.getpid(), os.isatty(0))\n"
            "status = open('/proc/self/status').read().split()\n"
            "print(status[status.index('SigBlk:') + 1].strip('0') or 'none')\n"
        )
        _, stdout, _ = self.driver.run("a", "python", code)
        self.assertEqual(stdout.decode().split("\n")[:3], ["[0, 1, 2]", "True False", "none"])
        # Python ignores SIGPIPE. A shell shows what it inherited.
        _, stdout, _ = self.driver.run("b", "bash", "grep SigIgn /proc/self/status")
        self.assertEqual(ignored_signals(stdout), [])

    def test_the_files_of_code_are_removed(self):
        _, stdout, _ = self.driver.run("a", "bash", "echo $0")
        path = stdout.decode().strip()
        self.assertFalse(os.path.exists(path))
        # Code may remove the directory of the others.
        directory = os.path.dirname(os.path.dirname(path))
        self.driver.run("b", "bash", "rm -r %s" % directory)
        self.assertEqual(self.driver.run("c", "python", "print(1)")[1], b"1\n")
        self.driver.send({"lift": "stop"})
        self.driver.exit_status()
        self.assertFalse(os.path.exists(directory))

    def test_code_runs_without_a_directory_for_temporary_files(self):
        env = dict(os.environ, HOME=self.home, TMPDIR="/no/such/directory")
        driver = Driver(env=env)
        self.addCleanup(driver.close)
        driver.hello()
        self.assertEqual(driver.run("a", "python", "print(1)")[1], b"1\n")
        driver.send({"lift": "stop"})
        self.assertEqual(driver.exit_status(), 0)

    def test_a_repeated_request_runs_the_code_once(self):
        code = "echo x >> runs; read line; echo $line"
        for _ in range(3):
            self.driver.bash("a", code)
        self.driver.stdin("a", b"go\n")
        self.driver.done("a")
        self.driver.bash("a", code)
        followed = self.driver.followed["a"]
        self.driver.wait_for(lambda: followed.names().count("DONE") == 2)
        self.assertEqual(followed.names()[-3:], ["DONE", "RUNNING", "DONE"])
        self.assertEqual(followed.stdout, b"go\n")
        with open(self.path("runs")) as file:
            self.assertEqual(file.read(), "x\n")

    def test_eight_execs_run_at_once(self):
        names = ["e%d" % number for number in range(8)]
        for name in names:
            self.driver.bash(name, "read line; echo $line")
        for name in reversed(names):
            self.driver.stdin(name, name.encode() + b"\n")
        for name in names:
            self.driver.done(name)
            self.assertEqual(self.driver.followed[name].stdout, name.encode() + b"\n")

    def test_the_number_of_running_execs_is_limited(self):
        for number in range(64):
            self.driver.exec("e%d" % number, argv=["sleep", "1000"])
        self.driver.bash("more", ":")
        error = self.driver.status("more", "_EXECUTION_ERROR")
        self.assertIn("64", error["message"])
        self.driver.kill("e5")
        self.driver.status("e5", "_DONE")
        self.assertEqual(self.driver.run("more", "bash", "echo ok")[1], b"ok\n")

    def test_a_time_limit_ends_an_exec(self):
        code = "trap '' TERM; sleep 1000 & echo x; wait"
        done, stdout, _ = self.driver.run("a", "bash", code, timeout_ms=LONG_ENOUGH_TO_BEGIN_MS)
        self.assertEqual((done["reason"], done["signal"], stdout), ("timed_out", 9, b"x\n"))

    def test_messages_that_make_no_sense_are_ignored(self):
        for message in (
            {"exec": "a"},
            {"exec": 5, "argv": ["echo"]},
            {"exec": "a", "event": "what"},
            {"exec": "a", "action": "what"},
            {"exec": "a", "event": "ack", "stdout": 5},
            {"event": "stdin", "data": "x"},
            {"lift": "what"},
        ):
            self.driver.send(message)
        self.driver.send({"lift": "ping"})
        self.driver.wait_for(lambda: self.driver.other("pong"))
        self.assertEqual(dict(self.driver.followed), {})

    def test_an_id_may_have_128_bytes_of_any_text(self):
        name = "é" * 64
        self.assertEqual(self.driver.run(name, "bash", "echo 1")[1], b"1\n")
        self.driver.bash(name + "x", ":")
        error = self.driver.status(name + "x", "_EXECUTION_ERROR")
        self.assertIn("128", error["message"])


if __name__ == "__main__":
    unittest.main()
