import json
import os
import threading
import time

from fake_io import FakeIO
from file_case import FileCase, as_user

from program import files
from program.builtins import Cancelled
from program.listing import MAX_LEVELS, matches
from program.requests import BadRequest


class ListTest(FileCase):
    def paths(self, **request):
        return [entry["path"] for entry in self.listed(**request)]

    def test_entries_are_sorted_and_described(self):
        os.mkdir(self.home.at("d"))
        self.home.put("b", b"12")
        os.chmod(self.home.at("b"), 0o4751)
        os.utime(self.home.at("b"), ns=(5, -1_500_000_001))
        os.symlink(b"\xfe", self.home.at("c"))
        os.mkfifo(self.home.at("e"))
        self.home.put(b"a\xff")
        entries = self.listed(path="")
        names = ["b", "c", "d", "e"]
        self.assertEqual([it["path"] for it in entries], [{"b64": "Yf8="}] + names)
        kinds = [it["kind"] for it in entries]
        self.assertEqual(kinds, ["file", "file", "symlink", "directory", "other"])
        described = {"kind": "file", "size": 2, "permissions": 0o4751}
        described["modified_ns"] = -1_500_000_001
        self.assertEqual(entries[1], {"path": "b", **described})
        self.assertEqual(entries[2]["target"], {"b64": "/g=="})
        for entry, name in zip(entries[1:], names):
            status = os.lstat(self.home.at(name))
            self.assertEqual(entry["modified_ns"], status.st_mtime_ns)
            result, _ = self.call("metadata", path=name)
            self.assertEqual({"path": name, **result}, entry)

    def test_names_are_sorted_by_their_bytes(self):
        names = [b"Z", b"a", b"a\x80", "é".encode(), "\U0001f600".encode(), b"\xff", b"z"]
        for name in names:
            self.home.put(name)
        found = [files.paths.decode(path) for path in self.paths(path=".")]
        self.assertEqual(found, sorted(names))

    def test_depth_and_pattern_limit_the_entries(self):
        os.makedirs(self.home.at("d/e"))
        os.mkdir(self.home.at("a"))
        for path in ("d/x.rs", "d/e/y.rs", "z.rs", "d-1"):
            self.home.put(path)
        os.symlink("d", self.home.at("link"))
        one = ["a", "d", "d-1", "link", "z.rs"]
        for depth in (None, 0, 1):
            self.assertEqual(self.paths(path=".", depth=depth), one)
        two = ["a", "d", "d/e", "d/x.rs", "d-1", "link", "z.rs"]
        self.assertEqual(self.paths(path=".", depth=2), two)
        rust = self.paths(path="", depth=2**32 - 1, pattern="*.rs")
        self.assertEqual(rust, ["d/e/y.rs", "d/x.rs", "z.rs"])
        self.assertEqual(self.paths(path="", depth=2, pattern="?"), ["a", "d", "d/e"])
        # The listed path itself is followed.
        self.assertEqual(self.paths(path="link"), ["e", "x.rs"])

    def test_patterns_match_whole_names(self):
        for pattern, name, is_match in [
            ("", "", True),
            ("", "a", False),
            ("*", "", True),
            ("*", "abc", True),
            ("a*c", "abbc", True),
            ("a*c", "abcd", False),
            ("*a*b*", "xxaybz", True),
            ("a**", "a", True),
            ("??", "üb", True),
            ("?", "ab", False),
            ("*?", "", False),
            ("*.tar.*", "a.tar.tar.gz", True),
            ("[a]", "a", False),
            ("[a]", "[a]", True),
            ("\\*", "\\x", True),
            ("a?", "a\udcff", True),
            ("*a" * 127, "a" * 126, False),
        ]:
            self.assertEqual(matches(pattern, name), is_match, (pattern, name))

    def test_a_hostile_pattern_takes_no_exponential_time(self):
        started = time.thread_time()
        self.assertFalse(matches("*a" * 500 + "b", "a" * 255))
        self.assertLess(time.thread_time() - started, 5)

    def test_bad_requests_are_refused(self):
        self.home.put("file")
        os.mkfifo(self.home.at("fifo"))
        os.symlink("loop", self.home.at("loop"))
        for path, kind in [
            ("missing", "not_found"),
            ("file", "not_a_directory"),
            ("file/x", "not_a_directory"),
            ("fifo", "not_a_directory"),
            ("/dev/zero", "not_a_directory"),
            ("loop", "other"),
            ("a\0b", "invalid_input"),
            ("n" * 300, "invalid_input"),
            ("d/" * 2_499 + "ab", "invalid_input"),
        ]:
            self.assert_fails(kind, path, "list", path=path)
        self.assert_fails("invalid_input", "", "list", path="", pattern="x" * 1025)
        for key, value in (("depth", -1), ("depth", 2**32), ("pattern", 5), ("pattern", "\ud800")):
            with self.assertRaises(BadRequest, msg=key):
                files.CHECKS["list"]({"path": "", key: value})

    def test_too_many_levels_are_an_error(self):
        os.makedirs(self.home.at("d/" * MAX_LEVELS))
        self.assertEqual(len(self.paths(path="", depth=MAX_LEVELS)), MAX_LEVELS)
        self.assert_fails("unsupported", "", "list", path="", depth=MAX_LEVELS + 1)

    def test_many_entries_are_complete_and_come_in_pieces(self):
        names = sorted(str(number) for number in range(3_000))
        for name in names:
            self.home.put(name)
        pieces = []
        io = FakeIO(self.home.path, on_write=pieces.append)
        started = time.thread_time()
        files.OPERATIONS["list"]({"path": ""}, io)
        self.assertLess(time.thread_time() - started, 5)
        found = [json.loads(line)["path"] for line in io.output.splitlines()]
        self.assertEqual(found, names)
        self.assertGreater(len(pieces), 2)
        self.assertTrue(all(64_000 < len(piece) < 100_000 for piece in pieces[:-1]))

    def test_a_cancellation_ends_a_list(self):
        io = FakeIO(self.home.path)
        io.cancel()
        with self.assertRaises(Cancelled):
            files.OPERATIONS["list"]({"path": ""}, io)

    def test_unreadable_directories_are_listed_and_not_entered(self):
        os.makedirs(self.home.at("d/e"))
        self.home.put("z")
        os.chmod(self.home.at("d"), 0)
        listed = as_user(lambda: self.paths(path="", depth=3))
        self.assertEqual(listed, ["d", "z"])
        kind = as_user(lambda: self.error_of("list", path="d").kind)
        self.assertEqual(kind, "permission_denied")

    def test_a_directory_swapped_for_a_link_is_not_followed(self):
        elsewhere = self.new_home()
        elsewhere.put("secret")
        os.mkdir(self.home.at("d"))
        os.symlink(elsewhere.path, self.home.at("link"))
        is_done = threading.Event()

        def swap():
            moves = [("d", "e"), ("link", "d"), ("d", "link"), ("e", "d")]
            while not is_done.is_set():
                for old, new in moves:
                    os.rename(self.home.at(old), self.home.at(new))

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(100):
                listed = self.paths(path="", depth=3)
                self.assertFalse([path for path in listed if "secret" in path])
        finally:
            is_done.set()
            thread.join()


class MetadataTest(FileCase):
    def test_a_link_is_described_itself_unless_it_is_followed(self):
        self.home.put("a", b"123")
        os.symlink("a", self.home.at("link"))
        os.symlink("nowhere", self.home.at("dangling"))
        described, output = self.call("metadata", path="link")
        self.assertEqual(output, b"")
        self.assertEqual((described["kind"], described["target"]), ("symlink", "a"))
        described, _ = self.call("metadata", path="link", follow=True)
        self.assertEqual((described["kind"], described["size"]), ("file", 3))
        self.assertNotIn("target", described)
        self.assert_fails("not_found", "dangling", "metadata", path="dangling", follow=True)
        self.assertEqual(self.call("metadata", path="")[0]["kind"], "directory")
        self.assertEqual(self.call("metadata", path="/dev/null")[0]["kind"], "other")

    def test_bad_paths_are_refused(self):
        self.home.put("file")
        for path, kind in [
            ("missing", "not_found"),
            ("file/below", "not_a_directory"),
            ("n" * 300, "invalid_input"),
        ]:
            self.assert_fails(kind, path, "metadata", path=path)
        with self.assertRaises(BadRequest):
            files.CHECKS["metadata"]({"path": "a", "follow": 1})
