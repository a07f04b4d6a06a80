"""The life of the program: how it loads, when it ends, and what it inherits from the service."""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

from driver import PATIENCE, PROGRAM, Driver, DriverCase, ignored_signals, loader, sources

IDLE_MS = 2000
"""An idle timeout. Even on a busy machine, the driver sends its next message in time."""


class LoaderTest(unittest.TestCase):
    def test_files_of_the_sandbox_do_not_replace_modules_of_python(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "json.py"), "w") as file:
                file.write("raise ImportError('not this one')\n")
            driver = Driver(cwd=directory, env=dict(os.environ, HOME=directory))
            self.addCleanup(driver.close)
            driver.hello()
            driver.send({"lift": "stop"})
            self.assertEqual(driver.exit_status(), 0)

    def run_loader(self, python, data):
        command = [python, "-c", loader()]
        done = subprocess.run(command, input=data, stdout=subprocess.PIPE, timeout=60)
        return done.returncode, done.stdout

    def test_an_old_python_is_refused_with_one_line(self):
        old = loader().replace("NEEDED = (3, 8)", "NEEDED = (9, 7)")
        command = [sys.executable, "-c", old]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        this = "%d.%d.%d" % sys.version_info[:3]
        expected = "Python 9.7 or newer is required; the sandbox has Python %s\n" % this
        self.assertEqual((done.returncode, done.stdout.decode()), (1, expected))

    def test_the_loader_is_valid_in_old_versions_of_python(self):
        for python in old_pythons():
            status, output = self.run_loader(python, b"")
            self.assertEqual(status, 1)
            expected = rb"^Python 3\.8 or newer is required; the sandbox has Python [0-9.]+\n$"
            self.assertRegex(output, expected)

    def test_sources_that_can_not_be_read_are_an_error(self):
        for data, message in ((b"", b"stdin ended"), (b"{\n", b"not JSON")):
            status, output = self.run_loader(sys.executable, data)
            self.assertEqual(status, 1)
            self.assertIn(message, output)
            self.assertEqual(output.count(b"\n"), 1)

    def test_what_follows_the_sources_belongs_to_the_link(self):
        lines = json.dumps(sources()) + '\n0 {"lift":"hello","link":"x"}\n1 {"lift":"stop"}\n'
        status, output = self.run_loader(sys.executable, lines.encode())
        self.assertEqual(status, 0)
        self.assertTrue(output == b"" or output.startswith(b'x 0 {"lift":"hello"'))

    def test_no_module_is_longer_than_400_lines(self):
        for name in os.listdir(PROGRAM):
            if name.endswith(".py"):
                with open(os.path.join(PROGRAM, name), encoding="utf-8") as file:
                    lines = file.read().split("\n")
                self.assertLessEqual(len(lines), 401, name)
                self.assertLessEqual(max(map(len, lines)), 100, name)


def old_pythons():
    """The interpreters on this machine that are too old."""
    found = []
    versions = os.path.expanduser("~/.pyenv/versions")
    for name in os.listdir(versions) if os.path.isdir(versions) else ():
        python = os.path.join(versions, name, "bin", "python")
        if name.startswith(("2.", "3.6", "3.7")) and os.path.exists(python):
            found.append(python)
    return found


class LifeTest(DriverCase):
    def test_the_hello_tells_the_version_and_features(self):
        hello = self.driver.hello()
        self.assertEqual(hello["version"], 1)
        self.assertIn("builtins", hello["features"])
        self.assertNotIn("lifetime", hello["features"])
        self.assertEqual(hello["python"], "%d.%d.%d" % sys.version_info[:3])

    def test_a_stop_ends_the_program_unless_something_runs(self):
        self.driver.exec("w", builtin={"op": "watch", "path": ""})
        self.driver.exec("f", builtin={"op": "write", "path": "f"})
        self.driver.exec("a", argv=["cat"])
        self.driver.send({"lift": "stop"})
        busy = self.driver.wait_for(lambda: self.driver.other("busy"))
        self.assertEqual(busy["execs"], 2)
        self.driver.stdin("a", b"", eof=True)
        self.driver.done("a")
        self.driver.kill("f")
        self.driver.done("f")
        self.driver.send({"lift": "stop"})
        self.assertEqual(self.driver.exit_status(), 0)

    def test_the_last_line_tells_how_much_was_read(self):
        # The client repeats what the program has not read.
        self.driver.send({"lift": "stop"})
        self.driver.exit_status()
        self.assertEqual(self.driver.other("bye")["bytes"], self.driver._sent)

    def test_processes_in_the_background_survive_a_stop(self):
        _, stdout, _ = self.driver.run("a", "bash", "sleep 1000 > /dev/null 2>&1 & echo $!")
        self.driver.send({"lift": "stop"})
        self.assertEqual(self.driver.exit_status(), 0)
        os.kill(int(stdout), 9)

    def test_the_end_of_stdin_kills_all_execs(self):
        code = "setsid sleep 1000 > /dev/null 2>&1 & echo $$ $! ready; wait"
        pids = []
        for name in ("a", "b"):
            followed = self.driver.bash(name, code)
            self.driver.wait_for(lambda: followed.stdout.endswith(b"ready\n"))
            pids += [int(word) for word in followed.stdout.split()[:-1]]
        self.driver.process.stdin.close()
        self.assertEqual(self.driver.exit_status(), 0)
        self.driver.process.stdin = open(os.devnull, "wb")
        for pid in pids:
            self.assertFalse(runs(pid))

    def test_the_end_of_stdin_leaves_no_unfinished_file(self):
        self.driver.exec("w", builtin={"op": "write", "path": "f"})
        self.driver.stdin("w", b"x")
        self.driver.run("a", "bash", 'until [ -n "$(ls -A)" ]; do sleep 0.01; done')
        self.driver.process.stdin.close()
        self.assertEqual(self.driver.exit_status(), 0)
        self.driver.process.stdin = open(os.devnull, "wb")
        self.assertEqual(os.listdir(self.home), [])

    def test_a_client_that_closed_stdout_ends_the_program(self):
        followed = self.driver.bash("a", "echo $$; exec sleep 1000")
        self.driver.wait_for(lambda: followed.stdout.endswith(b"\n"))
        self.driver.process.stdout.close()
        self.driver.process.stdout = open(os.devnull)
        os.write(self.driver.process.stdin.fileno(), b'%d {"lift":"ping"}\n' % self.next_number())
        self.assertEqual(self.driver.process.wait(30), 0)
        self.assertFalse(runs(int(followed.stdout)))

    def next_number(self):
        return self.driver._out_number

    def test_an_idle_program_ends(self):
        started = time.monotonic()
        self.driver.hello(idle_timeout_ms=IDLE_MS)
        self.driver.run("a", "bash", ":")
        self.driver.send({"lift": "ping"})
        self.assertEqual(self.driver.exit_status(), 0)
        self.assertGreaterEqual(time.monotonic() - started, IDLE_MS / 1000)

    def test_an_exec_keeps_the_program_from_being_idle(self):
        self.driver.hello(idle_timeout_ms=IDLE_MS)
        followed = self.driver.followed["a"]
        # An acknowledgement would count as activity.
        followed.acks = False
        self.driver.python("a", "import time; time.sleep(3); print(time.monotonic())")
        done = self.driver.status("a", "_DONE")
        self.assertEqual(done["stdout"], len(followed.stdout))
        # The end was not acknowledged, and is kept for the time of the limit.
        self.assertEqual(self.driver.exit_status(), 0)
        # The clock is the same for all processes.
        ended = float(followed.stdout)
        self.assertGreaterEqual(time.monotonic() - ended, IDLE_MS / 1000)

    def test_a_watch_does_not_keep_the_program_from_being_idle(self):
        self.driver.hello(idle_timeout_ms=IDLE_MS)
        self.driver.exec("w", builtin={"op": "watch", "path": ""})
        self.ping_until_the_end()
        self.assertIsNotNone(self.driver.other("bye"))

    def test_pings_alone_do_not_keep_the_program_alive(self):
        self.driver.hello(idle_timeout_ms=IDLE_MS)
        self.ping_until_the_end()

    def ping_until_the_end(self):
        """Stays attached without activity until the program ends."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                self.driver.send({"lift": "ping"})
                self.driver.wait_for(lambda: self.driver.other("pong"))
            except (BrokenPipeError, AssertionError):
                break
            self.driver.stays_quiet(0.02)
        self.assertLess(time.monotonic(), end)
        self.assertEqual(self.driver.exit_status(), 0)


class InheritanceTest(unittest.TestCase):
    def test_code_inherits_nothing_that_the_service_left_open_or_ignored(self):
        secret, kept = os.pipe()
        os.set_inheritable(kept, True)
        script = "trap '' HUP INT USR1; exec %d>&%d; exec \"$@\"" % (77, kept)
        driver = Driver(wrapper=["bash", "-c", script, "bash"], pass_fds=(kept,))
        self.addCleanup(driver.close)
        self.addCleanup(os.close, secret)
        self.addCleanup(os.close, kept)
        driver.hello()
        code = "ls /proc/self/fd | tr '\\n' ' '; grep SigIgn /proc/self/status"
        _, stdout, _ = driver.run("a", "bash", code)
        descriptors, _, signals = stdout.partition(b" SigIgn:")
        self.assertEqual((descriptors, ignored_signals(signals)), (b"0 1 2 3", []))
        driver.send({"lift": "stop"})
        self.assertEqual(driver.exit_status(), 0)


def runs(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    unittest.main()
