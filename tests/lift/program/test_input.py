"""Input end to end: offsets, the end, acknowledgements, and processes that don't read."""

import hashlib
import unittest

from driver import DriverCase


class InputTest(DriverCase):
    def errors(self, name):
        return [it for it in self.driver.followed[name].statuses if "STDIN" in it["status"]]

    def ping(self):
        """Waits until the program has handled everything before."""
        self.driver.send({"lift": "ping"})
        self.driver.wait_for(lambda: self.driver.other("pong"))

    def test_input_arrives_until_its_end(self):
        followed = self.driver.exec("a", argv=["cat"])
        self.driver.stdin("a", b"one ")
        self.driver.wait_for(lambda: followed.taken == 4)
        self.driver.stdin("a", b"two", 4, eof=True)
        self.driver.done("a")
        self.assertEqual((followed.stdout, followed.taken), (b"one two", 7))
        self.assertEqual(self.errors("a"), [])

    def test_each_byte_is_taken_once_and_none_after_a_gap(self):
        followed = self.driver.exec("a", argv=["cat"])
        self.driver.stdin("a", b"abc")
        self.driver.stdin("a", b"xyz", 5)
        self.driver.stdin("a", b"bcd", 1)
        self.driver.stdin("a", b"a", 0)
        self.driver.stdin("a", b"", 4, eof=True)
        self.driver.done("a")
        self.assertEqual(followed.stdout, b"abcd")

    def test_text_and_base64_mean_the_same(self):
        followed = self.driver.exec("a", argv=["cat"])
        message = {"event": "stdin", "exec": "a", "offset": 0, "data": "é"}
        self.driver.send(message)
        self.driver.send(dict(message, offset=2, data=None, data_b64="/w==", eof=True))
        self.driver.done("a")
        self.assertEqual(followed.stdout, b"\xc3\xa9\xff")

    def test_ten_mebibytes_pass_in_both_directions(self):
        data = hashlib.shake_256(b"seed").digest(10 << 20)
        followed = self.driver.exec("a", argv=["cat"], binary=True)
        step = 48 * 1024
        for offset in range(0, len(data), step):
            self.driver.wait_for(lambda: offset - followed.taken <= (1 << 20) - step)
            self.driver.stdin("a", data[offset : offset + step], offset)
        self.driver.stdin("a", b"", len(data), eof=True)
        self.driver.done("a")
        self.assertEqual(hashlib.sha256(followed.stdout).digest(), hashlib.sha256(data).digest())

    def test_input_beyond_the_window_is_ignored(self):
        followed = self.driver.exec("a", argv=["sleep", "1000"])
        chunk = b"x" * (1 << 16)
        self.driver.stdin("a", chunk, 0)
        self.driver.wait_for(lambda: followed.taken == 1 << 16)
        for number in range(1, 20):
            self.driver.stdin("a", chunk, number << 16)
        self.driver.bash("a", "")
        running = self.driver.wait_for(lambda: len(followed.statuses) == 2 and followed.statuses[1])
        self.assertEqual(running["stdin"], (1 << 16) + (1 << 20))
        self.driver.kill("a")
        self.driver.status("a", "_DONE")

    def test_a_process_that_closes_its_stdin_refuses_waiting_input_at_once(self):
        followed = self.driver.bash("a", "read -n 1 x; exec <&-; echo closed; sleep 1000")
        self.driver.stdin("a", b"x" * 500_000)
        error = self.driver.status("a", "_STDIN_ERROR")
        self.assertIn("closed its standard input", error["message"])
        self.driver.wait_for(lambda: followed.stdout == b"closed\n")
        self.driver.stdin("a", b"y", 500_000)
        self.ping()
        self.assertEqual(len(self.errors("a")), 1, "once on each link")
        self.driver.hello()
        self.driver.reconnect("a")
        self.driver.wait_for(lambda: len(self.errors("a")) == 2)
        self.driver.kill("a")
        self.driver.status("a", "_DONE")

    def test_a_process_that_closed_its_stdin_refuses_the_next_input(self):
        followed = self.driver.bash("a", "exec <&-; echo closed; sleep 1000")
        self.driver.wait_for(lambda: followed.stdout)
        self.ping()
        self.assertEqual(self.errors("a"), [])
        self.driver.stdin("a", b"x")
        self.driver.status("a", "_STDIN_ERROR")
        self.driver.kill("a")
        self.driver.status("a", "_DONE")

    def test_input_after_the_end_is_refused(self):
        self.driver.exec("a", argv=["sleep", "1000"])
        self.driver.stdin("a", b"x", eof=True)
        self.driver.stdin("a", b"", 1, eof=True)
        self.ping()
        self.assertEqual(self.errors("a"), [], "a repeated end is no error")
        self.driver.stdin("a", b"y", 1)
        self.driver.status("a", "_STDIN_ERROR")
        self.driver.kill("a")
        self.driver.status("a", "_DONE")
        self.driver.run("b", "bash", ":")
        self.driver.stdin("b", b"x")
        self.driver.status("b", "_STDIN_ERROR")

    def test_input_for_an_unknown_exec_and_malformed_input_are_refused(self):
        self.driver.stdin("u", b"", eof=True)
        self.assertIn("no such execution", self.driver.status("u", "_STDIN_ERROR")["message"])
        self.driver.exec("a", argv=["cat"])
        malformed = [
            {"data": "x"},
            {"offset": -1, "data": "x"},
            {"offset": "0", "data": "x"},
            {"offset": 0, "data": "x", "data_b64": "eA=="},
            {"offset": 0, "data_b64": "eA="},
            {"offset": 0, "data_b64": "e!A=="},
            {"offset": 0, "data": 5},
            {"offset": 0, "data": "\ud800"},
        ]
        for count, keys in enumerate(malformed, 1):
            self.driver.send(dict(keys, event="stdin", exec="a"))
            self.driver.wait_for(lambda: len(self.errors("a")) == count)
        self.driver.stdin("a", b"fine", 0, eof=True)
        self.driver.done("a")
        self.assertEqual(self.driver.followed["a"].stdout, b"fine")

    def test_a_new_link_continues_the_input(self):
        followed = self.driver.exec("a", argv=["cat"])
        self.driver.status("a", "_RUNNING")
        self.driver.stdin("a", b"abc")
        self.driver.wait_for(lambda: followed.stdout == b"abc")
        self.driver.hello()
        followed.taken = 0
        self.driver.reconnect("a")
        self.driver.wait_for(lambda: followed.taken == 3)
        self.driver.stdin("a", b"def", 3, eof=True)
        self.driver.done("a")
        self.assertEqual(followed.stdout, b"abcdef")
        self.assertEqual([it["stdin"] for it in followed.statuses[:2]], [0, 3])

    def test_a_slow_reader_of_input_delays_no_other(self):
        self.driver.exec("slow", argv=["sleep", "1000"])
        for number in range(16):
            self.driver.stdin("slow", b"x" * (1 << 16), number << 16)
        self.assertEqual(self.driver.run("b", "bash", "echo quick")[1], b"quick\n")
        self.driver.kill("slow")
        self.driver.status("slow", "_DONE")


if __name__ == "__main__":
    unittest.main()
