"""Tests of watching files."""

import collections
import json
import os
import shutil
import subprocess
import sys
import unittest
from unittest import mock

from fake_io import FakeIO, Home, Running

from program import inotify, moves, watch
from program.builtins import BuiltinError, Cancelled
from program.requests import BadRequest


def created(path):
    return {"event": "created", "path": path}


def modified(path):
    return {"event": "modified", "path": path}


def removed(path):
    return {"event": "removed", "path": path}


def renamed(path, to):
    return {"event": "renamed", "path": path, "to": to}


READY = {"event": "ready"}
OVERFLOW = {"event": "overflow"}


class Watching:
    """A watch that runs in a thread."""

    def __init__(self, home, path, recursive, window=None):
        request = {"path": path, "recursive": recursive}
        watch.CHECKS["watch"](request)
        self.io = FakeIO(home.path, is_open=True, window=window)
        self.running = Running(watch.OPERATIONS["watch"], request, self.io)
        # Lines that a test has not looked at.
        self._lines = collections.deque()
        self._read = 0
        assert self.next() == READY

    def next(self):
        """Waits for the next event."""
        while not self._lines:
            self._read_lines()
            if not self._lines:
                self.io.wait_for_output(len(self.io.output) + 1)
        return json.loads(self._lines.popleft())

    def _read_lines(self):
        end = self.io.output.rfind(b"\n", self._read) + 1
        if end > 0:
            self._lines.extend(bytes(self.io.output[self._read : end]).splitlines())
            self._read = end

    def until(self, event):
        """Waits for an event. Returns those up to it."""
        events = [self.next()]
        while events[-1] != event:
            events.append(self.next())
        return events

    def rest(self):
        """Waits for the end of the watch. Returns the events that were not read."""
        assert self.running.result() == {}
        self._read_lines()
        return [json.loads(line) for line in self._lines]

    def finish(self):
        """Ends the watch. Returns the events that were not read."""
        self.io.end_input()
        return self.rest()


class WatchCase(unittest.TestCase):
    def setUp(self):
        self.home = self.new_home()
        # On a busy machine, the second half of a rename may come late.
        patch = mock.patch.object(moves, "WAIT", 1)
        patch.start()
        self.addCleanup(patch.stop)

    def new_home(self):
        home = Home()
        self.addCleanup(home.remove)
        return home

    def watch(self, path="", recursive=True, window=None):
        watching = Watching(self.home, path, recursive, window)
        self.addCleanup(watching.io.cancel)
        return watching

    def make(self, *paths):
        for path in paths:
            os.makedirs(self.home.at(path))

    def move(self, path, to):
        os.rename(self.home.at(path), self.home.at(to))

    def error_of(self, path, recursive=False):
        with self.assertRaises(BuiltinError) as caught:
            request = {"path": path, "recursive": recursive}
            watch.OPERATIONS["watch"](request, FakeIO(self.home.path))
        return caught.exception


class ChangesTest(WatchCase):
    def test_changes_are_reported_in_order(self):
        self.make("d")
        watching = self.watch()
        self.home.put("a", b"1")
        self.move("a", "d/b")
        os.remove(self.home.at("d/b"))
        expected = [created("a"), modified("a"), renamed("a", "d/b"), removed("d/b")]
        self.assertEqual(watching.finish(), expected)

    def test_a_change_of_permissions_is_a_modification(self):
        self.make("d")
        self.home.put("a")
        watching = self.watch()
        os.chmod(self.home.at("a"), 0o600)
        os.chmod(self.home.at("d"), 0o700)
        self.assertEqual(watching.finish(), [modified("a"), modified("d")])

    def test_without_recursion_only_direct_entries_are_reported(self):
        self.make("d")
        watching = self.watch(".", recursive=False)
        self.home.put("d/a")
        self.home.put("b")
        self.assertEqual(watching.finish(), [created("b")])

    def test_links_are_reported_but_not_followed(self):
        outside = self.new_home()
        os.symlink(outside.path, self.home.at("old"))
        watching = self.watch()
        os.symlink(outside.path, self.home.at("new"))
        outside.put("a")
        self.assertEqual(watching.finish(), [created("new")])

    def test_a_watched_path_may_be_a_link(self):
        self.make("d/e")
        os.symlink("d", self.home.at("link"))
        watching = self.watch("link")
        self.home.put("d/e/a")
        self.assertEqual(watching.finish(), [created("e/a")])

    def test_names_that_are_not_utf_8_are_reported(self):
        watching = self.watch()
        self.home.put(b"\xff")
        self.assertEqual(watching.finish(), [created({"b64": "/w=="})])

    def test_changes_of_a_watched_file_are_reported(self):
        self.home.put("a", b"1")
        with open(self.home.at("a"), "ab") as file:
            watching = self.watch("a", recursive=False)
            file.write(b"2")
            file.flush()
            self.assertEqual(watching.next(), modified(""))
            # The file is still open, so the kernel doesn't report its deletion.
            os.remove(self.home.at("a"))
            self.assertEqual(watching.next(), removed(""))
            self.assertEqual(watching.rest(), [])

    def test_a_watch_ends_when_its_path_is_removed_or_moved(self):
        self.make("d", "e")
        self.home.put("a")
        for path, change in (
            ("d", lambda: os.rmdir(self.home.at("d"))),
            ("e", lambda: self.move("e", "f")),
            ("a", lambda: self.move("a", "b")),
        ):
            for_path = self.watch(path)
            change()
            self.assertEqual(for_path.rest(), [removed("")])

    def test_removing_a_tree_reports_each_entry(self):
        self.make("w/d/e")
        self.home.put("w/d/a")
        watching = self.watch("w")
        shutil.rmtree(self.home.at("w"))
        events = [it for it in watching.rest() if it["event"] != "modified"]
        self.assertEqual(events[-1], removed(""))
        self.assertCountEqual(events[:-1], [removed("d/e"), removed("d/a"), removed("d")])

    def test_unfinished_files_of_a_write_are_not_reported(self):
        watching = self.watch()
        self.home.put(".actix-sandbox-0123456789abcdef", b"1")
        self.move(".actix-sandbox-0123456789abcdef", "a")
        self.home.put(".actix-sandbox-0123456789abcdefg")
        expected = [created("a"), created(".actix-sandbox-0123456789abcdefg")]
        self.assertEqual(watching.finish(), expected)


class MovesTest(WatchCase):
    def test_moves_into_and_out_of_a_watch_are_reported(self):
        elsewhere = self.new_home()
        self.make("d/e")
        watching = self.watch()
        os.rename(self.home.at("d"), elsewhere.at("d"))
        # No other event follows, so this comes when the wait for the second half times out.
        self.assertEqual(watching.next(), removed("d"))
        elsewhere.put("d/e/silent")
        os.rename(elsewhere.at("d"), self.home.at("f"))
        expected = [created("f"), created("f/e"), created("f/e/silent")]
        self.assertEqual([watching.next() for _ in expected], expected)
        self.home.put("f/e/new")
        self.assertEqual(watching.finish(), [created("f/e/new")])

    def test_a_renamed_directory_stays_watched(self):
        self.make("d/e")
        watching = self.watch()
        self.move("d", "f")
        self.home.put("f/e/a")
        self.make("d")
        self.home.put("d/b")
        expected = [renamed("d", "f"), created("f/e/a"), created("d"), created("d/b")]
        self.assertEqual(watching.finish(), expected)

    def test_a_rename_over_a_file_is_one_event(self):
        self.home.put("a")
        self.home.put("b")
        watching = self.watch()
        self.move("a", "b")
        self.assertEqual(watching.finish(), [renamed("a", "b")])

    def test_a_move_out_is_reported_before_a_new_file_of_that_name(self):
        elsewhere = self.new_home()
        self.home.put("a")
        watching = self.watch()
        os.rename(self.home.at("a"), elsewhere.at("a"))
        self.home.put("a")
        self.assertEqual(watching.finish(), [removed("a"), created("a")])


class NewDirectoriesTest(WatchCase):
    def test_each_of_many_creations_is_reported_once(self):
        watching = self.watch()
        paths = ["d%d/%d" % (number // 100, number) for number in range(10000)]
        # In another process, as in a sandbox: a thread would run while the watch pauses.
        code = """
import os, sys
for path in sys.stdin.read().split():
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    open(path, "w").close()
"""
        command = [sys.executable, "-c", code]
        creating = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=self.home.path)
        with creating:
            creating.stdin.write("\n".join(paths + ["last"]).encode())
            creating.stdin.close()
            events = watching.until(created("last")) + watching.finish()
        if OVERFLOW in events:
            return
        expected = paths + ["d%d" % number for number in range(100)] + ["last"]
        counts = collections.Counter(it["path"] for it in events if it["event"] == "created")
        self.assertEqual(counts, collections.Counter(expected))

    def test_a_new_tree_is_watched_at_every_depth(self):
        watching = self.watch()
        self.make("a/b/c/d")
        watching.until(created("a/b/c/d"))
        self.home.put("a/b/c/d/file")
        self.assertEqual(watching.finish(), [created("a/b/c/d/file")])

    @unittest.skipIf(os.geteuid() == 0, "root may read every directory")
    def test_a_directory_that_may_not_be_read_is_not_watched(self):
        self.make("locked", "open")
        os.chmod(self.home.at("locked"), 0)
        watching = self.watch()
        self.home.put("open/a")
        self.assertEqual(watching.finish(), [created("open/a")])


class LimitsTest(WatchCase):
    def test_an_overflow_of_the_queue_is_reported_and_the_watch_goes_on(self):
        limit = queue_limit()
        if limit is None or limit > 100000:
            self.skipTest("the queue of the kernel is too long, or its length is unknown")
        self.make("d")
        # The output is not read, so the queue of the kernel fills up.
        watching = self.watch(window=1)
        for number in range(limit + 5000):
            os.close(os.open(self.home.at("d/%d" % number), os.O_CREAT | os.O_WRONLY))
        watching.io.take(1 << 40)
        watching.until(OVERFLOW)
        self.home.put("d/after")
        self.assertIn(created("d/after"), watching.finish())

    def test_too_many_directories_are_one_overflow(self):
        self.make("a/b", "c", "d")
        with mock.patch.object(watch, "MAX_WATCHES", 2):
            watching = self.watch()
            self.assertEqual(watching.next(), OVERFLOW)
            self.home.put("file")
            self.assertEqual(watching.finish(), [created("file")])

    def test_too_many_names_in_a_new_directory_are_an_overflow(self):
        elsewhere = self.new_home()
        os.makedirs(elsewhere.at("d"))
        for name in ("a", "b", "c"):
            elsewhere.put("d/" + name)
        with mock.patch.object(watch, "MAX_SEEN", 1):
            watching = self.watch()
            os.rename(elsewhere.at("d"), self.home.at("d"))
            events = watching.finish()
        self.assertEqual(events[0], created("d"))
        self.assertEqual([it["event"] for it in events[1:]], ["created", "overflow"])

    def test_a_limit_of_the_kernel_on_watches_is_named(self):
        full = OSError(28, "No space left on device")
        with mock.patch.object(inotify.Inotify, "add_watch", side_effect=full):
            error = self.error_of("")
        self.assertEqual(error.kind, "other")
        self.assertIn("the limit on watches is reached", error.message)


class EndsTest(WatchCase):
    def test_a_kill_ends_a_watch(self):
        watching = self.watch()
        watching.io.cancel()
        with self.assertRaises(Cancelled):
            watching.running.result()

    def test_a_kill_ends_a_watch_whose_output_is_not_read(self):
        watching = self.watch(window=1)
        self.home.put("a")
        watching.io.cancel()
        with self.assertRaises(Cancelled):
            watching.running.result()

    def test_paths_that_cannot_be_watched_are_refused(self):
        self.home.put("file")
        os.symlink("loop", self.home.at("loop"))
        for path, kind in (
            ("missing", "not_found"),
            ("file/below", "not_a_directory"),
            ("n" * 300, "invalid_input"),
            ("a\0b", "invalid_input"),
        ):
            error = self.error_of(path)
            self.assertEqual((error.kind, error.path), (kind, path.encode()), error.message)
            self.assertIn(path, error.message)
        self.assertEqual(
            self.error_of("missing").message,
            "cannot watch 'missing': No such file or directory",
        )
        self.assertEqual(self.error_of("loop").kind, "other")

    def test_requests_that_are_not_valid_are_refused(self):
        check = watch.CHECKS["watch"]
        for request in ({}, {"path": 1}, {"path": {"b64": "?"}}, {"path": "a", "recursive": 1}):
            with self.assertRaises(BadRequest, msg=request):
                check(request)
        check({"path": {"b64": "/w=="}, "recursive": True})


def queue_limit():
    try:
        with open("/proc/sys/fs/inotify/max_queued_events") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
