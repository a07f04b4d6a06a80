"""Links that break, end to end: what is lost is sent again, and nothing happens twice."""

import hashlib
import unittest

from driver import DriverCase


class LinkTest(DriverCase):
    def test_output_is_sent_again_after_a_cut_in_the_middle_of_a_line(self):
        code = (
            "import hashlib, os, sys\n"
            "data = os.urandom(3 << 20)\n"
            "sys.stdout.buffer.write(data)\n"
            "sys.stderr.write(hashlib.sha256(data).hexdigest())\n"
        )
        followed = self.driver.python("a", code, binary=True)
        self.driver.wait_for(lambda: len(followed.stdout) > 300_000)
        for lost in (1, 70_000, 200_001):
            # What the program wrote is lost, up to a place in a line.
            self.driver.lose_output(lost)
            self.driver.write(b'%d {"event":"ack","ex' % 99)
            self.driver.hello()
            before = len(followed.stdout)
            self.driver.reconnect("a")
            self.driver.wait_for(lambda: len(followed.stdout) > before + 200_000)
        self.driver.done("a")
        digest = hashlib.sha256(followed.stdout).hexdigest().encode()
        self.assertEqual((len(followed.stdout), digest), (3 << 20, followed.stderr))

    def test_a_new_link_follows_no_exec_until_it_asks(self):
        followed = self.driver.bash("a", "echo x; read line; echo y; exit 4")
        self.driver.wait_for(lambda: followed.stdout)
        self.driver.hello()
        self.driver.stdin("a", b"\n")
        self.assertTrue(self.driver.stays_quiet(0.3))
        self.driver.reconnect("a")
        self.assertEqual(self.driver.done("a")["exit_code"], 4)
        self.assertEqual(followed.stdout, b"x\ny\n")
        self.assertEqual(followed.names(), ["RUNNING", "RUNNING", "DONE"])

    def test_a_repeated_request_continues_at_the_acknowledged_offsets(self):
        followed = self.driver.followed["a"]
        followed.acks = False
        code = "echo one; read line; echo two"
        self.driver.bash("a", code)
        self.driver.wait_for(lambda: followed.stdout == b"one\n")
        self.driver.send({"event": "ack", "exec": "a", "stdout": 2})
        self.driver.hello()
        positions = []
        take = self.driver._take_output
        self.driver._take_output = lambda followed, event, message: (
            positions.append(message["offset"]),
            take(followed, event, message),
        )
        self.driver.bash("a", code)
        self.driver.stdin("a", b"\n")
        self.driver.status("a", "_DONE")
        self.assertEqual((positions[0], followed.stdout), (2, b"one\ntwo\n"))

    def test_a_repeated_request_learns_that_output_is_gone(self):
        code = "echo one"
        self.driver.bash("a", code)
        self.driver.done("a")
        self.driver.hello()
        followed = self.driver.followed["a"]
        # Another client repeats the request. It has received nothing.
        followed.streams["stdout"] = bytearray()
        count = followed.names().count("DONE")
        self.driver.bash("a", code)
        self.driver.wait_for(lambda: followed.names().count("DONE") > count)
        self.assertEqual((followed.stdout, followed.positions["stdout"]), (b"", 4))

    def test_a_request_that_was_lost_runs_after_its_repetition(self):
        self.driver.write(b'1 {"exec":"a","argv":["tou')
        self.driver.hello()
        self.assertEqual(self.driver.run("a", "bash", "echo once")[1], b"once\n")

    def test_an_unknown_exec_is_lost(self):
        self.driver.reconnect("a")
        done = self.driver.status("a", "_DONE")
        self.assertEqual(done["reason"], "sandbox_lost")
        self.assertIn("no such execution", done["message"])
        self.assertNotIn("stdout", done)

    def test_a_broken_link_is_reported_and_repaired_by_a_hello(self):
        self.driver.write(b'7 {"lift":"ping"}\n')
        broken = self.driver.wait_for(lambda: self.driver.other("broken"))
        self.assertIn("7", broken["reason"])
        self.driver.write(b'1 {"lift":"ping"}\n')
        self.driver.hello()
        self.assertIsNone(self.driver.other("pong"))
        self.assertEqual(self.driver.run("a", "bash", "echo ok")[1], b"ok\n")

    def test_a_builtin_happens_once_over_several_links(self):
        builtin = {"op": "write", "path": "f", "mode": "append"}
        for _ in range(2):
            self.driver.exec("w", builtin=builtin)
            self.driver.stdin("w", b"content", eof=True)
            self.driver.status("w", "_DONE")
            del self.driver.followed["w"].statuses[:]
            self.driver.hello()
        self.driver.reconnect("w")
        self.assertEqual(self.driver.status("w", "_DONE")["result"]["bytes"], 7)
        with open(self.path("f")) as file:
            self.assertEqual(file.read(), "content")

    def test_the_exit_is_told_again_on_each_link(self):
        code = "sleep 1000 & echo $!"
        followed = self.driver.bash("a", code, output_grace_ms=60_000)
        self.driver.status("a", "_EXITED")
        self.driver.hello()
        self.driver.reconnect("a")
        self.driver.wait_for(lambda: followed.names().count("EXITED") == 2)
        self.driver.kill("a")
        self.driver.done("a")


if __name__ == "__main__":
    unittest.main()
