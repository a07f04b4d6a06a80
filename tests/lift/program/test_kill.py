"""Kills end to end: of processes that resist, that escape, and that have ended."""

import os
import time
import unittest

from driver import LONG_ENOUGH_TO_BEGIN_MS, DriverCase


def is_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


class KillTest(DriverCase):
    def start(self, name, code, **options):
        """Starts code that prints the ids of its processes. Returns them."""
        followed = self.driver.bash(name, code, **options)
        self.driver.wait_for(lambda: followed.stdout.endswith(b"ready\n"))
        return [int(word) for word in followed.stdout.split()[:-1]]

    def kill(self, name):
        self.driver.kill(name)
        return self.driver.status(name, "_FORCE_KILLED")

    def test_a_kill_ends_a_process_and_its_children(self):
        pids = self.start("a", "sleep 1000 & echo $$ $! ready; wait")
        self.kill("a")
        self.assertEqual([is_alive(pid) for pid in pids], [False, False])
        done = self.driver.done("a")
        self.assertEqual((done["reason"], done["signal"]), ("killed", 9))
        self.assertNotIn("output_cut", done)

    def test_processes_that_resist_are_killed(self):
        codes = [
            "trap '' TERM INT HUP; echo $$ ready; while :; do sleep 0.1; done",
            "sleep 1000 & kill -STOP $!; echo $$ $! ready; wait",
            "(trap '' TERM; exec setsid sleep 1000) & echo $$ $! ready; wait",
            "sleep 1000 & echo $$ $! ready; kill -STOP $$",
        ]
        for number, code in enumerate(codes):
            name = "e%d" % number
            pids = self.start(name, code)
            self.kill(name)
            self.assertFalse(any(is_alive(pid) for pid in pids), code)
            self.assertEqual(self.driver.done(name)["reason"], "killed")

    def test_a_daemon_without_environment_and_parent_is_killed(self):
        self.start("other", "sleep 1000 & echo $! ready; wait")
        # Both forks happen long before the kill, so nothing leads from the daemon to the exec.
        daemon = "setsid env -i /bin/sh -c '/bin/sleep 1000 < /dev/null > /dev/null 2>&1 & echo $!'"
        pids = self.start("a", "%s; echo $$ ready; sleep 1000" % daemon)
        self.assertTrue(is_alive(pids[0]))
        self.kill("a")
        self.assertFalse(any(is_alive(pid) for pid in pids))
        other = int(self.driver.followed["other"].stdout.split()[0])
        self.assertTrue(is_alive(other), "the processes of other execs live")
        self.kill("other")
        self.assertFalse(is_alive(other))

    def test_processes_that_fork_while_they_are_killed_are_killed(self):
        # Each process starts the next one in a new session, and ends.
        with open(self.path("chain"), "w") as file:
            file.write("echo $$ >> pids\nsetsid sh chain > /dev/null 2>&1 &\n")
        self.start("a", "sh chain; sh chain; echo ready; sleep 1000")
        self.kill("a")
        with open(self.path("pids")) as file:
            before = file.read()
        time.sleep(0.2)
        with open(self.path("pids")) as file:
            self.assertEqual(file.read(), before)

    def test_a_kill_after_the_exit_kills_what_holds_the_output(self):
        pids = self.start("a", "sleep 1000 & echo $! ready", output_grace_ms=60_000)
        self.driver.status("a", "_EXITED")
        self.assertTrue(is_alive(pids[0]))
        self.kill("a")
        done = self.driver.done("a")
        self.assertFalse(is_alive(pids[0]))
        self.assertEqual((done["reason"], done["exit_code"]), ("exited", 0))
        self.assertNotIn("output_cut", done)

    def test_a_kill_of_what_is_done_or_unknown_is_answered_at_once(self):
        pids = self.start("a", "sleep 1000 > /dev/null 2>&1 & echo $! ready")
        self.driver.done("a")
        self.kill("a")
        self.assertTrue(is_alive(pids[0]), "its processes in the background live")
        os.kill(pids[0], 9)
        answer = self.kill("unknown")
        self.assertEqual(answer["exec"], "unknown")

    def test_each_kill_is_answered(self):
        self.start("a", "echo ready; sleep 1000")
        for _ in range(3):
            self.driver.kill("a")
        followed = self.driver.followed["a"]
        self.driver.wait_for(lambda: followed.names().count("FORCE_KILLED") == 3)
        self.driver.done("a")

    def test_a_kill_is_answered_without_reconnect(self):
        self.start("a", "echo ready; sleep 1000")
        self.driver.hello()
        self.kill("a")
        self.assertEqual(self.driver.followed["a"].names(), ["RUNNING", "FORCE_KILLED"])
        self.driver.reconnect("a")
        self.assertEqual(self.driver.done("a")["reason"], "killed")

    def test_output_before_a_kill_is_kept(self):
        followed = self.driver.followed["a"]
        followed.acks = False
        self.driver.bash("a", "head -c 20000 /dev/zero; echo >&2; sleep 1000", window=1024)
        self.driver.wait_for(lambda: followed.stdout)
        self.kill("a")
        done = self.driver.status("a", "_DONE")
        self.assertGreater(done["stdout"], len(followed.stdout))
        followed.acks = True
        self.driver.ack("a")
        self.driver.done("a")

    def test_the_time_limit_kills_daemons_too(self):
        code = "setsid sleep 1000 & echo $! ready; sleep 1000"
        followed = self.driver.bash("a", code, timeout_ms=LONG_ENOUGH_TO_BEGIN_MS)
        self.assertEqual(self.driver.done("a")["reason"], "timed_out")
        self.assertFalse(is_alive(int(followed.stdout.split()[0])))


if __name__ == "__main__":
    unittest.main()
