"""Tests of measuring processes and files."""

import os
import resource
import select
import subprocess
import sys
import unittest
from unittest import mock

from fake_io import FakeIO, Home

from program import metrics
from program.builtins import BuiltinError, Cancelled

MIB = 1 << 20

# Uses memory, then a second of CPU time. Then waits for the end of its input.
BUSY = """
import sys, time
memory = bytearray(100 << 20)
for at in range(0, len(memory), 4096): memory[at] = 1
while time.process_time() < 1: pass
print('ready', flush=True)
sys.stdin.read()
"""


class MetricsCase(unittest.TestCase):
    def setUp(self):
        self.home = Home()
        self.addCleanup(self.home.remove)
        # Other tests have files in the directory for temporary files.
        patch = mock.patch.dict(os.environ, TMPDIR=os.fsdecode(self.home.path))
        patch.start()
        self.addCleanup(patch.stop)

    def measure(self):
        return metrics.OPERATIONS["metrics"]({}, FakeIO(self.home.path))


class ProcessesTest(MetricsCase):
    def test_cpu_memory_and_processes_are_measured(self):
        # The processes of the machine would disturb the test.
        with mock.patch.object(metrics, "is_on_the_machine", return_value=True):
            before = self.measure()
            command = [sys.executable, "-c", BUSY]
            pipe = subprocess.PIPE
            with subprocess.Popen(command, stdin=pipe, stdout=pipe) as busy:
                self.assertEqual(busy.stdout.readline(), b"ready\n")
                during = self.measure()
                busy.stdin.close()
                # Dead, but its parent has not waited for it yet.
                os.waitid(os.P_PID, busy.pid, os.WEXITED | os.WNOWAIT)
                dead = self.measure()
            after = self.measure()
        self.assertGreaterEqual(during["cpu_ms"] - before["cpu_ms"], 990)
        memory = during["memory_bytes"] - before["memory_bytes"]
        self.assertTrue(100 * MIB <= memory < 300 * MIB, memory)
        self.assertEqual(during["processes"], before["processes"] + 1)
        if "peak_memory_bytes" in during:
            self.assertGreaterEqual(during["peak_memory_bytes"], during["memory_bytes"] - MIB)
        for later in (dead, after):
            self.assertEqual(later["processes"], before["processes"])
            self.assertLess(later["memory_bytes"], during["memory_bytes"] - 90 * MIB)
            # The CPU time of a process that has ended stays.
            self.assertGreaterEqual(later["cpu_ms"], during["cpu_ms"])

    def test_all_processes_count_except_in_the_namespace_of_the_machine(self):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        # Seen from the child, this process is one of the others.
        with child, mock.patch.object(os, "getpid", return_value=child.pid):
            for link, count in (("pid:[4026531836]", 1), ("pid:[4026532000]", None)):
                with mock.patch.object(os, "readlink", return_value=link):
                    processes = self.measure()["processes"]
                if count is None:
                    self.assertGreaterEqual(processes, 2)
                else:
                    self.assertEqual(processes, count)
            child.stdin.close()

    def test_descendants_are_found_at_every_depth(self):
        def stat(pid, parent):
            line = b"%d (a) b) S %d 0 0 0 0 0 0 0 0 0 1 2 3 4 0 0 1 0 5 0 6" % (pid, parent)
            return metrics.Stat(pid, line)

        stats = {pid: stat(pid, parent) for pid, parent in ((1, 0), (5, 1), (7, 5), (9, 7), (8, 1))}
        self.assertEqual(sorted(metrics.descendants(stats, 5)), [5, 7, 9])
        self.assertEqual((stats[5].ticks, stats[5].start_ticks, stats[5].pages), (10, 5, 6))

    def test_a_peak_that_the_kernel_does_not_report_is_absent(self):
        stats = {os.getpid(): metrics.read_stats()[os.getpid()]}
        with mock.patch.object(metrics, "read_process_file", return_value=b"Name:\tpython3\n"):
            used = metrics.usage(stats)
        self.assertNotIn("peak_memory_bytes", used)
        self.assertEqual(used["processes"], 1)

    def test_the_uptime_grows(self):
        for is_on_the_machine in (False, True):
            with mock.patch.object(metrics, "is_on_the_machine", return_value=is_on_the_machine):
                before = self.measure()["uptime_ms"]
                select.select([], [], [], 0.05)
                self.assertGreater(self.measure()["uptime_ms"], before)


class LimitsTest(unittest.TestCase):
    def limits(self, user, **limits):
        infinity = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        found = {getattr(resource, name): (value, value) for name, value in limits.items()}
        with mock.patch.object(resource, "getrlimit", lambda limit: found.get(limit, infinity)):
            with mock.patch.object(os, "geteuid", return_value=user):
                return metrics.limits()

    def test_the_limits_of_the_kernel_are_reported(self):
        limits = self.limits(1000, RLIMIT_DATA=2 << 30, RLIMIT_NPROC=512)
        self.assertEqual(limits, {"process_memory_bytes": 2 << 30, "processes": 512})
        limits = self.limits(1000, RLIMIT_DATA=2 << 30, RLIMIT_AS=1 << 30)
        self.assertEqual(limits, {"process_memory_bytes": 1 << 30})

    def test_limits_that_do_not_exist_are_absent(self):
        self.assertEqual(self.limits(1000), {})
        # The kernel doesn't enforce this one for root.
        self.assertEqual(self.limits(0, RLIMIT_NPROC=512), {})


class FilesTest(MetricsCase):
    def disk_bytes(self):
        return self.measure()["disk_bytes"]

    def write(self, path, size):
        with open(self.home.at(path), "wb") as file:
            file.write(b"1" * size)
            file.flush()
            os.fsync(file.fileno())

    def test_the_space_on_the_disk_is_measured(self):
        before = self.disk_bytes()
        self.write("a", 3 * MIB)
        os.makedirs(self.home.at("d/e"))
        self.write("d/e/b", 2 * MIB)
        added = self.disk_bytes() - before
        self.assertTrue(5 * MIB <= added < 6 * MIB, added)

    def test_a_file_with_several_names_counts_once(self):
        self.write("a", 3 * MIB)
        os.link(self.home.at("a"), self.home.at("b"))
        self.assertTrue(3 * MIB <= self.disk_bytes() < 4 * MIB)

    def test_links_are_not_followed_and_holes_take_no_space(self):
        outside = Home()
        self.addCleanup(outside.remove)
        outside.put("large", b"1" * MIB)
        os.symlink(outside.path, self.home.at("directory"))
        os.symlink(outside.at("large"), self.home.at("file"))
        with open(self.home.at("sparse"), "wb") as file:
            file.truncate(100 * MIB)
        taken = os.stat(self.home.at("sparse")).st_blocks * 512
        # Some file systems count the holes.
        self.assertLess(self.disk_bytes(), taken + MIB // 2)

    def test_each_name_counts_at_least_a_block(self):
        for number in range(10):
            self.home.put("empty%d" % number)
        self.assertGreaterEqual(self.disk_bytes(), 10 * 4096)

    def test_the_directory_for_temporary_files_counts(self):
        temporary = Home()
        self.addCleanup(temporary.remove)
        temporary.put("a", b"1" * MIB)
        with mock.patch.dict(os.environ, TMPDIR=os.fsdecode(temporary.path)):
            self.assertGreaterEqual(self.disk_bytes(), MIB)

    def test_nested_and_equal_directories_count_once(self):
        home = os.path.realpath(self.home.path)
        os.mkdir(self.home.at("tmp"))
        for temporary in (home, home + b"/tmp", home + b"/"):
            with mock.patch.dict(os.environ, TMPDIR=os.fsdecode(temporary)):
                self.assertEqual(metrics.trees(self.home.path), [home])
        with mock.patch.dict(os.environ, TMPDIR="/"):
            self.assertEqual(metrics.trees(self.home.path), [b"/"])

    def test_a_directory_that_does_not_exist_counts_nothing(self):
        with mock.patch.dict(os.environ, TMPDIR="/no/such/directory"):
            self.assertEqual(self.disk_bytes(), 0)

    @unittest.skipIf(os.geteuid() == 0, "root may read every directory")
    def test_a_directory_that_may_not_be_read_is_left_out(self):
        os.mkdir(self.home.at("locked"))
        self.write("locked/a", MIB)
        os.chmod(self.home.at("locked"), 0)
        self.assertLess(self.disk_bytes(), MIB)

    def test_too_many_names_end_the_walk(self):
        for name in ("a", "b", "c"):
            self.home.put(name)
        with mock.patch.object(metrics, "MAX_NAMES", 3):
            self.disk_bytes()
        with mock.patch.object(metrics, "MAX_NAMES", 2):
            with self.assertRaises(BuiltinError) as caught:
                self.disk_bytes()
        self.assertIn("more than 2 files", caught.exception.message)

    def test_a_kill_ends_the_walk(self):
        self.home.put("a")
        io = FakeIO(self.home.path)
        io.cancel()
        with self.assertRaises(Cancelled):
            metrics.OPERATIONS["metrics"]({}, io)
