"""Terminals end to end: their size, what their input means, and their end."""

import unittest

from driver import DriverCase


class TerminalTest(DriverCase):
    def start(self, code, columns=80, rows=24, **options):
        size = {"columns": columns, "rows": rows}
        followed = self.driver.bash("t", code, terminal=size, binary=True, **options)
        self.driver.status("t", "_RUNNING")
        return followed

    def type(self, data):
        """Types into the terminal."""
        followed = self.driver.followed["t"]
        self.driver.stdin("t", data, followed.typed)
        followed.typed += len(data)

    def setUp(self):
        super().setUp()
        self.driver.followed["t"].typed = 0

    def wait_for_output(self, text):
        followed = self.driver.followed["t"]
        self.driver.wait_for(lambda: text in followed.stdout)

    def test_a_terminal_has_a_size_that_can_change(self):
        code = "trap 'stty size' WINCH; stty size; while read x; do :; done"
        followed = self.start(code, 100, 30)
        self.wait_for_output(b"30 100\r\n")
        size = {"columns": 120, "rows": 40}
        result, _ = self.driver.builtin("r", "resize", exec="t", size=size)
        self.assertEqual(result, {})
        # bash runs a trap after the command in the foreground.
        self.type(b"\n")
        self.wait_for_output(b"40 120\r\n")
        self.type(b"\x04")
        done = self.driver.done("t")
        self.assertEqual((done["reason"], done["stderr"]), ("exited", 0))
        self.assertEqual(followed.ended_streams, {"stdout", "stderr"})

    def test_input_is_typed(self):
        self.start("tty; test -t 0 -a -t 1 -a -t 2 && echo all; sleep 1000")
        self.wait_for_output(b"all\r\n")
        self.assertIn(b"/dev/pts/", self.driver.followed["t"].stdout)
        self.type(b"\x03")
        done = self.driver.done("t")
        self.assertEqual(done["reason"], "exited")
        self.assertEqual(done.get("signal", done.get("exit_code", 0) - 128), 2)

    def test_the_end_of_the_input_has_no_effect(self):
        self.start("read line; echo got $line")
        self.driver.stdin("t", b"", 0, eof=True)
        self.driver.send({"lift": "ping"})
        self.driver.wait_for(lambda: self.driver.other("pong"))
        self.driver.status("t", "_RUNNING")
        result, _ = self.driver.builtin("p", "processes")
        self.assertEqual([it["exec"] for it in result["execs"]], ["t"])
        self.driver.kill("t")
        self.driver.done("t")

    def test_a_shell_in_a_terminal_controls_jobs(self):
        self.start("exec bash --norc -i", env={"PS1": "> ", "TERM": "dumb"})
        self.type(b"sh -c 'echo re\"\"ady; exec sleep 1000'\n")
        self.wait_for_output(b"ready")
        self.type(b"\x1a")
        self.wait_for_output(b"Stopped")
        self.type(b"kill %1; exit\n")
        self.type(b"exit\n")
        self.assertEqual(self.driver.done("t")["reason"], "exited")

    def test_the_output_ends_with_the_program(self):
        code = "sleep 1000 & echo $!; disown"
        # Longer than the driver waits for the end.
        followed = self.start(code, output_grace_ms=600_000)
        done = self.driver.done("t")
        self.assertEqual(done["exit_code"], 0)
        self.assertTrue(followed.stdout.split()[0].isdigit())

    def test_a_terminal_is_killed_with_what_runs_in_it(self):
        self.start("sleep 1000 & echo ready; wait")
        self.wait_for_output(b"ready")
        self.driver.kill("t")
        self.driver.status("t", "_FORCE_KILLED")
        self.assertEqual(self.driver.done("t")["reason"], "killed")

    def test_errors_of_resize_name_the_reason(self):
        self.driver.bash("p", "sleep 1000")
        size = {"columns": 5, "rows": 5}
        table = [
            ("p", size, "invalid_input", "it has no terminal"),
            ("unknown", size, "not_found", "no process with this id"),
            ("p", {"columns": 0, "rows": 5}, "invalid_input", "0 columns"),
        ]
        for number, (name, size, kind, message) in enumerate(table):
            error, _ = self.driver.builtin("r%d" % number, "resize", exec=name, size=size)
            self.assertEqual(error["kind"], kind)
            self.assertIn(message, error["message"])
        self.driver.kill("p")
        self.driver.done("p")
        error, _ = self.driver.builtin("late", "resize", exec="p", size={"columns": 5, "rows": 5})
        self.assertEqual(error["kind"], "not_found")
        self.driver.exec("r", builtin={"op": "resize", "exec": "p", "size": {"columns": 5}})
        self.assertIn("'rows'", self.driver.status("r", "_ERROR")["message"])

    def test_a_size_that_is_not_allowed_is_refused(self):
        size = {"columns": 5000, "rows": 24}
        self.driver.bash("a", ":", terminal=size)
        self.assertIn("'terminal'", self.driver.status("a", "_ERROR")["message"])


if __name__ == "__main__":
    unittest.main()
