"""Output end to end: windows, acknowledgements, the end of streams, and the grace period."""

import base64
import hashlib
import os
import signal
import time
import unittest

from driver import DriverCase

from program.loop import Loop
from program.output import Drains, Output


class OutputTest(DriverCase):
    def follow(self, name, acks):
        followed = self.driver.followed[name]
        followed.acks = acks
        return followed

    def wait_for_bytes(self, followed, count, stream="stdout"):
        self.driver.wait_for(lambda: len(followed.streams[stream]) >= count)

    def test_at_most_the_window_is_sent_and_the_process_blocks(self):
        followed = self.follow("a", acks=False)
        code = "head -c 300000 /dev/zero; touch written; echo done >&2"
        self.driver.bash("a", code, window=10_000)
        # The program may leave up to 3 bytes of the window free.
        self.wait_for_bytes(followed, 9_997)
        self.driver.read_for(0.2)
        self.assertLessEqual(len(followed.stdout), 10_000)
        self.assertFalse(os.path.exists(self.path("written")), "the process can't go on")
        followed.acks = True
        self.driver.ack("a")
        done = self.driver.done("a")
        self.assertEqual((done["stdout"], done["stderr"]), (300_000, 5))

    def test_an_unread_exec_delays_no_other(self):
        self.follow("a", acks=False)
        self.driver.bash("a", "exec yes")
        self.wait_for_bytes(self.driver.followed["a"], 1_000_000)
        self.assertEqual(self.driver.run("b", "bash", "echo quick")[1], b"quick\n")
        self.driver.kill("a")
        self.driver.status("a", "_FORCE_KILLED")

    def test_memory_is_bounded_while_output_is_not_read(self):
        names = ["e%d" % number for number in range(8)]
        for name in names:
            self.follow(name, acks=False)
            self.driver.exec(name, argv=["yes"], binary=True)
        for name in names:
            self.wait_for_bytes(self.driver.followed[name], 1_000_000)
        with open("/proc/%d/status" % self.driver.process.pid) as file:
            resident = int(file.read().split("VmRSS:")[1].split()[0])
        self.assertLess(resident, 64 * 1024)

    def test_acknowledgements_never_decrease(self):
        followed = self.follow("a", acks=False)
        self.driver.bash("a", "head -c 5000 /dev/zero; read line", window=10_000)
        self.wait_for_bytes(followed, 5_000)
        for offset in (4_000, 1_000, 10**9):
            self.driver.send({"event": "ack", "exec": "a", "stdout": offset})
        self.driver.bash("a", "")
        self.driver.wait_for(lambda: len(followed.statuses) == 2)
        result, _ = self.driver.builtin("p", "processes")
        # An offset beyond the bytes that were sent counts as their end.
        self.assertEqual(result["execs"][0]["stdout"], 5_000)
        self.driver.stdin("a", b"\n")
        self.driver.done("a")

    def test_ten_mebibytes_arrive_unchanged(self):
        code = (
            "import hashlib, os, sys\n"
            "digest = hashlib.sha256()\n"
            "for _ in range(160):\n"
            "    data = os.urandom(65536)\n"
            "    digest.update(data)\n"
            "    sys.stdout.buffer.write(data)\n"
            "sys.stderr.write(digest.hexdigest())\n"
        )
        done, stdout, stderr = self.driver.run("a", "python", code, binary=True)
        self.assertEqual((done["stdout"], len(stdout)), (10 << 20, 10 << 20))
        self.assertEqual(hashlib.sha256(stdout).hexdigest().encode(), stderr)

    def test_a_binary_exec_learns_of_the_end_of_each_stream(self):
        followed = self.driver.bash("a", "echo x; exec >&-; read line; echo y >&2", binary=True)
        self.driver.wait_for(lambda: "stdout" in followed.ended_streams)
        self.assertEqual((followed.stdout, followed.ended_streams), (b"x\n", {"stdout"}))
        self.driver.hello()
        followed.ended_streams.clear()
        self.driver.reconnect("a")
        self.driver.wait_for(lambda: "stdout" in followed.ended_streams)
        self.driver.stdin("a", b"\n")
        self.driver.done("a")
        self.assertEqual(followed.ended_streams, {"stdout", "stderr"})

    def test_other_execs_learn_of_it_by_their_end(self):
        self.driver.run("a", "bash", "echo x; exec >&-; sleep 0.1")
        self.assertEqual(self.driver.followed["a"].ended_streams, set())

    def test_a_code_point_is_split_if_the_process_pauses(self):
        pieces = []
        take = self.driver._take

        def spy(message):
            if message.get("event") == "stdout":
                pieces.append(base64.b64decode(message["data_b64"]))
            take(message)

        self.driver._take = spy
        followed = self.driver.bash("a", "printf 'a\\xe2'; read line; printf '\\x82\\xac'")
        self.driver.wait_for(lambda: followed.stdout == b"a\xe2")
        self.driver.stdin("a", b"\n")
        self.driver.done("a")
        self.assertEqual(pieces, [b"a", b"\xe2", b"\x82\xac"])


class CodePointTest(unittest.TestCase):
    def test_a_code_point_is_not_split_unless_the_process_pauses(self):
        # The loop doesn't run, so the wait for the rest of the code point never ends.
        loop = Loop()
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        os.set_blocking(reader, False)
        output = Output(loop, 1 << 20, False, Drains(loop), lambda: None, lambda cut: None)
        output.open(reader, None)
        self.addCleanup(output.close)
        os.write(writer, b"\xe2")
        output._readable(0)
        self.assertIsNone(output.next_piece())
        os.write(writer, b"\x82\xac")
        output._readable(0)
        self.assertEqual(bytes(output.next_piece()[2]), "€".encode())


class EndTest(DriverCase):
    def fifo(self, name):
        """A pipe with a name, through which a test lets a process in the background go on."""
        os.mkfifo(self.path(name))
        descriptor = os.open(self.path(name), os.O_RDWR)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_the_exit_comes_before_the_end_of_the_output(self):
        go = self.fifo("go")
        followed = self.driver.bash("a", "(read line < go; echo late) & echo main; exit 3")
        exited = self.driver.status("a", "_EXITED")
        self.assertEqual((exited["exit_code"], exited["reason"]), (3, "exited"))
        self.assertNotIn("DONE", followed.names())
        os.write(go, b"\n")
        done = self.driver.done("a")
        self.assertEqual((done["exit_code"], done["stdout"]), (3, 10))
        self.assertNotIn("output_cut", done)
        self.assertEqual(followed.stdout, b"main\nlate\n")

    def test_output_is_cut_at_the_end_of_the_grace_period(self):
        started = time.monotonic()
        self.driver.bash("a", "sleep 1000 & echo $!", output_grace_ms=300)
        done = self.driver.done("a")
        self.assertTrue(done["output_cut"])
        self.assertGreaterEqual(time.monotonic() - started, 0.3)
        # The process in the background lives on.
        os.kill(int(self.driver.followed["a"].stdout), signal.SIGKILL)

    def test_a_process_in_the_background_is_not_stopped_by_a_full_pipe(self):
        go = self.fifo("go")
        code = "(read line < go; head -c 500000 /dev/zero; touch written) &"
        self.driver.bash("a", code, output_grace_ms=50)
        self.driver.status("a", "_DONE")
        os.write(go, b"\n")
        done, _, _ = self.driver.run("b", "bash", "until test -e written; do sleep 0.01; done")
        self.assertEqual(done["exit_code"], 0)
        self.assertTrue(self.driver.done("a")["output_cut"])

    def test_a_full_window_stops_the_grace_period(self):
        followed = self.driver.followed["a"]
        followed.acks = False
        # More than the window and two full pipes: one is read at the exit, one fills after it.
        code = "(head -c 300000 /dev/zero; echo end) & exit"
        self.driver.bash("a", code, window=1 << 16, output_grace_ms=2000)
        self.driver.status("a", "_EXITED")
        self.driver.wait_for(lambda: len(followed.stdout) > 65_000)
        self.driver.read_for(2.5)
        self.assertEqual(followed.names(), ["RUNNING", "EXITED"])
        followed.acks = True
        self.driver.ack("a")
        done = self.driver.done("a")
        self.assertNotIn("output_cut", done)
        self.assertEqual((done["stdout"], followed.stdout[-4:]), (300_004, b"end\n"))

    def test_what_the_pipe_held_at_the_exit_is_kept_beyond_the_window(self):
        followed = self.driver.followed["a"]
        followed.acks = False
        self.driver.bash("a", "head -c 50000 /dev/zero", window=1024)
        done = self.driver.status("a", "_DONE")
        self.assertEqual(done["stdout"], 50_000)
        self.assertLessEqual(len(followed.stdout), 1024)
        followed.acks = True
        self.driver.ack("a")
        self.driver.done("a")
        self.assertEqual(len(followed.stdout), 50_000)

    def test_the_end_is_kept_until_it_is_acknowledged(self):
        followed = self.driver.followed["a"]
        followed.acks = False
        self.driver.bash("a", "echo x")
        self.driver.status("a", "_DONE")
        for _ in range(2):
            self.driver.hello()
            followed.streams["stdout"] = bytearray()
            del followed.statuses[:]
            self.driver.reconnect("a")
            self.driver.status("a", "_DONE")
            self.assertEqual((followed.names(), followed.stdout), (["RUNNING", "DONE"], b"x\n"))
        self.driver.ack("a", done=True)
        self.driver.hello()
        followed.streams["stdout"] = bytearray()
        del followed.statuses[:]
        self.driver.reconnect("a")
        done = self.driver.status("a", "_DONE")
        # The bytes are gone. An empty piece tells the position.
        self.assertEqual((done["exit_code"], followed.positions), (0, {"stdout": 2}))

    def test_done_before_the_end_acknowledges_output_only(self):
        followed = self.driver.followed["a"]
        self.driver.bash("a", "echo x; read line; echo y")
        self.driver.wait_for(lambda: followed.stdout)
        self.driver.ack("a", done=True)
        self.driver.stdin("a", b"\n")
        self.driver.status("a", "_DONE")
        followed.acks = False
        self.driver.hello()
        self.driver.reconnect("a")
        self.driver.wait_for(lambda: followed.names().count("DONE") == 2)
        self.assertEqual(followed.stdout, b"x\ny\n")

    def test_a_process_that_holds_no_output_delays_no_end(self):
        code = "sleep 1000 > /dev/null 2>&1 & echo $!"
        # Longer than the driver waits for the end.
        _, stdout, _ = self.driver.run("a", "bash", code, output_grace_ms=600_000)
        os.kill(int(stdout), signal.SIGKILL)


if __name__ == "__main__":
    unittest.main()
