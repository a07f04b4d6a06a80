"""Builtins end to end: their turns and limits, kills, outcomes, and those that act on execs."""

import os
import signal
import socket
import unittest

from driver import DriverCase


class BuiltinTest(DriverCase):
    def test_a_builtin_reads_input_and_commits_at_its_end(self):
        followed = self.driver.exec("w", builtin={"op": "write", "path": "f"}, binary=True)
        self.driver.stdin("w", b"content")
        self.driver.wait_for(lambda: followed.taken == 7)
        self.assertFalse(os.path.exists(self.path("f")))
        self.driver.stdin("w", b"", 7, eof=True)
        done = self.driver.done("w")
        self.assertEqual((done["reason"], done["result"]["bytes"]), ("exited", 7))
        self.assertNotIn("exit_code", done)
        outcome, data = self.driver.builtin("r", "read", path="f")
        self.assertEqual((outcome["bytes"], data), (7, b"content"))

    def test_a_kill_commits_nothing(self):
        followed = self.driver.exec("w", builtin={"op": "write", "path": "f"})
        self.driver.stdin("w", b"content")
        self.driver.wait_for(lambda: followed.taken == 7)
        self.driver.kill("w")
        self.driver.status("w", "_FORCE_KILLED")
        done = self.driver.done("w")
        self.assertEqual(done["reason"], "killed")
        self.assertFalse({"result", "error", "exit_code", "signal"} & set(done))
        self.assertEqual(os.listdir(self.home), [])

    def test_a_kill_never_hides_a_success(self):
        for number in range(20):
            name = "m%d" % number
            self.driver.exec(name, builtin={"op": "create_dir", "path": name})
            self.driver.kill(name)
            done = self.driver.done(name)
            self.driver.status(name, "_FORCE_KILLED")
            if done["reason"] == "exited":
                self.assertEqual(done["result"], {})
            else:
                self.assertEqual(done["reason"], "killed")
            if not os.path.exists(self.path(name)):
                self.assertEqual(done["reason"], "killed")

    def test_an_error_has_a_kind_and_a_path(self):
        error, _ = self.driver.builtin("r", "read", path="no/such")
        self.assertEqual((error["kind"], error["path"]), ("not_found", "no/such"))
        self.assertIn("cannot read 'no/such'", error["message"])

    def test_a_builtin_waits_for_the_window_and_can_be_killed_there(self):
        with open(self.path("f"), "wb") as file:
            file.write(bytes(3 << 20))
        for name in ("a", "b"):
            self.driver.followed[name].acks = False
            builtin = {"op": "read", "path": "f"}
            self.driver.exec(name, builtin=builtin, binary=True, window=1024)
            self.driver.wait_for(lambda: len(self.driver.followed[name].stdout) >= 1020)
        self.driver.kill("a")
        self.driver.status("a", "_FORCE_KILLED")
        done = self.driver.status("a", "_DONE")
        self.assertEqual(done["reason"], "killed")
        self.assertLess(done["stdout"], 1 << 20)
        self.driver.followed["b"].acks = True
        self.driver.ack("b")
        self.assertEqual(self.driver.done("b")["result"]["bytes"], 3 << 20)

    def test_builtins_wait_for_their_turn_and_can_be_killed_there(self):
        for number in range(18):
            name = "w%d" % number
            self.driver.exec(name, builtin={"op": "write", "path": name})
            self.driver.stdin(name, b"x")
        # All are answered at once, but two wait.
        for number in range(18):
            self.driver.status("w%d" % number, "_RUNNING")
        self.driver.wait_for(
            lambda: sum(self.driver.followed["w%d" % it].taken for it in range(18)) == 16
        )
        self.assertEqual(self.driver.builtin("m", "metadata", path=".")[0]["kind"], "directory")
        self.driver.kill("w17")
        self.driver.status("w17", "_FORCE_KILLED")
        self.assertEqual(self.driver.done("w17")["reason"], "killed")
        self.driver.stdin("w0", b"", 1, eof=True)
        self.driver.done("w0")
        self.driver.wait_for(lambda: self.driver.followed["w16"].taken == 1)
        for number in range(1, 17):
            name = "w%d" % number
            self.driver.stdin(name, b"", 1, eof=True)
            self.assertIn("result", self.driver.done(name))

    def test_a_watch_ends_with_its_input(self):
        followed = self.driver.exec("w", builtin={"op": "watch", "path": ""})
        self.driver.wait_for(lambda: b"ready" in followed.stdout)
        self.driver.bash("a", "touch new")
        self.driver.wait_for(lambda: b"new" in followed.stdout)
        self.driver.stdin("w", b"", eof=True)
        self.assertEqual(self.driver.done("w")["result"], {})

    def test_a_connection_moves_bytes_and_ends_in_each_direction(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            connect = {"op": "connect", "port": listener.getsockname()[1]}
            followed = self.driver.exec("c", builtin=connect, binary=True)
            peer, _ = listener.accept()
        with peer:
            peer.sendall(b"pong")
            peer.shutdown(socket.SHUT_WR)
            self.driver.wait_for(lambda: "stdout" in followed.ended_streams)
            self.assertEqual(followed.stdout, b'{"event":"connected"}\npong')
            self.assertEqual(followed.names(), ["RUNNING"])
            self.driver.stdin("c", b"ping", eof=True)
            received = b""
            while len(received) < 4:
                received += peer.recv(10)
            self.assertEqual((received, peer.recv(1)), (b"ping", b""))
            done = self.driver.done("c")
        self.assertEqual(done["result"], {})

    def test_a_refused_connection_is_an_error(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            error, output = self.driver.builtin("c", "connect", port=unused.getsockname()[1])
        self.assertEqual((error["kind"], output), ("connection_refused", b""))

    def test_builtins_do_not_count_as_running_execs(self):
        for number in range(70):
            self.driver.exec("w%d" % number, builtin={"op": "wait_for_port", "port": 1})
        self.assertEqual(self.driver.run("a", "bash", "echo ok")[1], b"ok\n")


class SteeringTest(DriverCase):
    def test_a_signal_reaches_the_main_process_or_its_group(self):
        code = "trap 'echo usr1' USR1; sleep 1000 & echo ready; while :; do wait; done"
        followed = self.driver.bash("a", code)
        self.driver.wait_for(lambda: b"ready" in followed.stdout)
        result, _ = self.driver.builtin("s", "signal", exec="a", signal=signal.SIGUSR1)
        self.assertEqual(result, {})
        self.driver.wait_for(lambda: b"usr1" in followed.stdout)
        result, _ = self.driver.builtin("g", "signal", exec="a", signal=9, group=True)
        self.assertEqual(result, {})
        done = self.driver.done("a")
        self.assertEqual((done["reason"], done["signal"]), ("exited", 9))
        self.assertNotIn("output_cut", done, "the child had the output open")

    def test_errors_of_a_signal_name_the_reason(self):
        self.driver.run("ended", "bash", ":")
        self.driver.exec("w", builtin={"op": "watch", "path": ""})
        table = [
            ("ended", 15, "not_found", "it has ended"),
            ("unknown", 15, "not_found", "no process with this id"),
            ("w", 15, "invalid_input", "builtin"),
            ("ended", 65, "invalid_input", "use 1 to 64"),
            ("ended", 0, "invalid_input", "use 1 to 64"),
        ]
        for number, (name, sent, kind, message) in enumerate(table):
            error, _ = self.driver.builtin("s%d" % number, "signal", exec=name, signal=sent)
            self.assertEqual(error["kind"], kind)
            self.assertIn(message, error["message"])

    def test_processes_lists_programs_the_oldest_first(self):
        self.driver.exec("first", argv=["sleep", "1000"])
        self.driver.python("second", "print('x'); input()", window=5000)
        self.driver.exec("w", builtin={"op": "watch", "path": ""})
        self.driver.wait_for(lambda: self.driver.followed["second"].stdout == b"x\n")
        self.driver.ack("second")
        result, _ = self.driver.builtin("p", "processes")
        self.assertEqual(result["omitted"], 0)
        first, second = result["execs"]
        self.assertEqual((first["exec"], first["program"]), ("first", "sleep"))
        self.assertEqual((second["exec"], second["program"]), ("second", "python3"))
        self.assertEqual((second["stdout"], second["window"]), (2, 5000))
        self.assertGreaterEqual(first["running_ms"], second["running_ms"])


if __name__ == "__main__":
    unittest.main()
