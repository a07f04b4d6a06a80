import os
import shutil
import subprocess
import unittest

import hand_made
from fake_io import FakeIO
from file_case import FileCase, as_user, facts
from hand_made import DIRECTORY, FILE, SYMLINK
from test_pack import fill

from program import unpack
from program.builtins import BuiltinError, Cancelled
from program.requests import BadRequest


class UnpackTest(FileCase):
    def unpack(self, archive, path="to", **request):
        result, output = self.call("unpack", archive, path=path, **request)
        self.assertEqual(output, b"")
        return result

    def assert_same_tree(self, one, other):
        found, expected = facts(other), facts(one)
        self.assertEqual(sorted(found), sorted(expected))
        for name in expected:
            self.assertEqual(found[name][:2], expected[name][:2], name)
            self.assertTrue(found[name][2] == expected[name][2], name)

    def test_a_tree_survives_a_round_trip(self):
        count = fill(self.home)
        packed, archive = self.call("pack", path="")
        other = self.home = self.new_home()
        for _ in range(2):
            # The second time, everything exists.
            self.assertEqual(self.unpack(archive), packed)
            self.assertEqual(packed["entries"], count)
        source = self.new_home()
        fill(source)
        found, expected = facts(other.at("to")), facts(source.path)
        self.assertEqual(sorted(found), sorted(expected))

    def test_times_permissions_content_and_holes_survive(self):
        fill(self.home)
        source = self.home
        _, archive = self.call("pack", path="")
        self.home = self.new_home()
        for _ in range(2):
            self.unpack(archive, path="")
            self.assert_same_tree(source.path, self.home.path)
        for name in ("only a hole", "ends with data", "many holes"):
            taken = os.stat(self.home.at(name)).st_blocks * 512
            self.assertLessEqual(taken, os.stat(source.at(name)).st_blocks * 512 + 8192, name)

    @unittest.skipUnless(shutil.which("tar"), "needs tar")
    def test_archives_of_gnu_tar_are_unpacked(self):
        source = self.new_home()
        fill(source)
        for options in (["--format=gnu"], ["--format=gnu", "-S"], ["--format=posix"]):
            command = ["tar", "-c", *options, "--sort=name", "-f", "-", "."]
            archive = subprocess.run(
                command, cwd=source.path, stdout=subprocess.PIPE, check=True
            ).stdout
            self.home = self.new_home()
            self.unpack(archive, path="")
            if options == ["--format=posix"]:
                self.assert_same_tree(source.path, self.home.path)
            found, expected = facts(self.home.path), facts(source.path)
            self.assertEqual(sorted(found), sorted(expected))
            for name, (mode, time, content) in expected.items():
                fact = found[name]
                self.assertEqual((fact[0], fact[1] // 10**9), (mode, time // 10**9), name)
                self.assertTrue(fact[2] == content, name)

    def test_files_and_links_are_replaced_and_other_entries_are_kept(self):
        os.makedirs(self.home.at("to/d"))
        self.home.put("to/d/kept", b"kept")
        self.home.put("to/file", b"old")
        os.link(self.home.at("to/file"), self.home.at("other name"))
        os.symlink("../other name", self.home.at("to/link"))
        os.mkfifo(self.home.at("to/pipe"))
        archive = hand_made.archive(
            (b"d", DIRECTORY),
            (b"d/new", FILE, b"1"),
            (b"file", SYMLINK, b"d"),
            (b"link", FILE, b"2"),
            (b"pipe", FILE, b"3"),
        )
        self.assertEqual(self.unpack(archive), {"bytes": 3, "entries": 5})
        self.assertEqual(self.home.names("to/d"), ["kept", "new"])
        self.assertEqual(self.home.get("other name"), b"old")
        self.assertEqual(os.readlink(self.home.at("to/file")), b"d")
        self.assertEqual((self.home.get("to/link"), self.home.get("to/pipe")), (b"2", b"3"))

    def test_the_last_of_two_entries_with_one_name_stays(self):
        archive = hand_made.archive((b"name", FILE, b"first"), (b"name", FILE, b"second"))
        self.assertEqual(self.unpack(archive), {"bytes": 11, "entries": 2})
        self.assertEqual(self.home.get("to/name"), b"second")

    def test_names_may_begin_with_a_dot_as_other_programs_write_them(self):
        items = [(b"./", DIRECTORY), (b"./d/", DIRECTORY), (b"././d//file", FILE, b"text")]
        self.assertEqual(self.unpack(hand_made.archive(*items))["entries"], 2)
        self.assertEqual(self.home.get("to/d/file"), b"text")
        # The top directory keeps its permissions.
        self.assertEqual(self.home.mode("to") & 0o700, 0o700)
        self.assertNotEqual(self.home.mode("to"), 0o777)

    def test_set_id_bits_are_not_restored(self):
        headers = [hand_made.header(b"d", DIRECTORY, mode=b"0007755\0")]
        headers += [hand_made.header(b"d/f", FILE, mode=b"0106755\0")]
        self.unpack(b"".join(headers) + hand_made.END)
        self.assertEqual((self.home.mode("to/d"), self.home.mode("to/d/f")), (0o755, 0o755))

    def test_closed_directories_get_entries_first(self):
        def headers(text):
            parts = [hand_made.header(b"d", DIRECTORY, mode=b"0000000\0", time=b"%011o\0" % 5)]
            parts += [hand_made.header(b"d/e", DIRECTORY, mode=b"0000500\0", time=b"%011o\0" % 6)]
            return b"".join(parts) + hand_made.entry(b"d/e/f", FILE, text) + hand_made.END

        def unpack_twice():
            # The second time, the directories exist and are closed.
            for text in (b"first", b"second"):
                self.unpack(headers(text))
            return None

        os.chmod(self.home.path, 0o777)
        as_user(unpack_twice)
        self.assertEqual((self.home.mode("to/d"), os.stat(self.home.at("to/d")).st_mtime), (0, 5))
        if os.geteuid() != 0:
            os.chmod(self.home.at("to/d"), 0o700)
        self.assertEqual(self.home.mode("to/d/e"), 0o500)
        self.assertEqual(os.stat(self.home.at("to/d/e")).st_mtime, 6)
        self.assertEqual(self.home.get("to/d/e/f"), b"second")

    def test_deep_directories_are_closed_after_their_entries(self):
        names = [b"/".join([b"d"] * depth) for depth in range(1, 41)]
        headers = [hand_made.header(name, DIRECTORY, mode=b"0000000\0") for name in names]
        archive = b"".join(headers) + hand_made.entry(b"e", FILE, b"last") + hand_made.END
        os.chmod(self.home.path, 0o777)
        self.assertEqual(as_user(lambda: self.unpack(archive))["entries"], 41)
        self.assertEqual(self.home.mode("to/d"), 0)
        os.chmod(self.home.at("to/d"), 0o700)
        self.assertEqual(self.home.mode("to/d/d"), 0)

    def test_a_destination_through_a_link_is_followed(self):
        os.makedirs(self.home.at("real"))
        os.symlink("real", self.home.at("link"))
        self.unpack(hand_made.archive((b"f", FILE, b"x")), path="link/new/to")
        self.assertEqual(self.home.get("real/new/to/f"), b"x")

    def test_impossible_times_are_ignored(self):
        huge = b"\x80" + b"\x7f" * 11
        archive = hand_made.header(b"f", FILE, time=huge) + hand_made.header(b"g", DIRECTORY)
        self.assertEqual(self.unpack(archive + hand_made.END)["entries"], 2)

    def test_an_archive_without_entries_creates_the_destination(self):
        self.assertEqual(self.unpack(hand_made.END, path="a/b"), {"bytes": 0, "entries": 0})
        self.assertEqual(self.home.names("a/b"), [])

    def test_bad_destinations_are_refused(self):
        self.home.put("file", b"old")
        os.makedirs(self.home.at("to/name"))
        archive = hand_made.archive((b"name", FILE, b"x"))
        for path, kind, about in [
            ("file", "already_exists", "file"),
            ("file/x", "not_a_directory", "file/x"),
            ("to", "is_a_directory", "to/name"),
            ("a\0", "invalid_input", "a\0"),
            ("n" * 300, "invalid_input", "n" * 300),
            ("d/" * 2_499 + "ab", "invalid_input", "d/" * 2_499 + "ab"),
            ("missing/../file/x", "not_a_directory", "missing/../file/x"),
        ]:
            self.assert_fails(kind, about, "unpack", archive, path=path)
        self.assertEqual(self.home.get("file"), b"old")
        with self.assertRaises(BadRequest):
            unpack.check_unpack({"path": "a", "file": 1})

    def test_what_code_may_not_write_is_denied(self):
        self.home.put("locked")
        os.chmod(self.home.path, 0o555)
        archive = hand_made.archive((b"f", FILE, b"x"))

        def failed():
            error = self.error_of("unpack", archive, path=".")
            return [error.kind, error.path.decode(), error.message]

        found = as_user(failed)
        os.chmod(self.home.path, 0o755)
        message = "cannot unpack './f': Permission denied"
        self.assertEqual(found, ["permission_denied", "./f", message])

    def test_a_cancellation_leaves_no_partial_file(self):
        archive = hand_made.archive((b"a", FILE, b"1"), (b"file", FILE, b"x" * 1_000_000))
        io = FakeIO(self.home.path, archive[:500_000], is_open=True)
        running = self.start(io, "unpack", path="to")
        while not os.path.exists(self.home.at("to/file")):
            pass
        self.assertEqual(self.home.mode("to/file"), 0o600)
        io.cancel()
        with self.assertRaises(Cancelled):
            running.result()
        self.assertEqual(self.home.names("to"), ["a"])

    def test_a_deep_tree_survives_a_round_trip(self):
        names = [b"d/" * depth + b"d" for depth in range(300)]
        items = [(name, DIRECTORY) for name in names if len(name) <= 100]
        blocks = b"".join(hand_made.entry(*item) for item in items)
        for name in names[len(items) :]:
            blocks += hand_made.header(b"././@LongLink", b"L", size=len(name))
            blocks += hand_made.data(name) + hand_made.entry(name[:100], DIRECTORY)
        blocks += hand_made.entry(b"e", FILE, b"last")
        self.assertEqual(self.unpack(blocks + hand_made.END)["entries"], 301)
        self.assertEqual(self.home.names("to"), ["d", "e"])
        self.assertTrue(os.path.isdir(self.home.at(b"to/" + names[-1])))
        self.assertEqual(self.home.mode(b"to/" + names[50]), 0o777)


class UnpackFileTest(FileCase):
    def unpack(self, archive, path):
        result, output = self.call("unpack", archive, path=path, file=True)
        self.assertEqual(output, b"")
        return result

    def test_one_file_becomes_the_file_at_a_path(self):
        archive = hand_made.entry(b"any/name", FILE, b"new", mode=b"0000640\0") + hand_made.END
        self.assertEqual(self.unpack(archive, "a/two"), {"bytes": 3, "entries": 1})
        self.assertEqual((self.home.get("a/two"), self.home.mode("a/two")), (b"new", 0o640))
        self.assertEqual(os.stat(self.home.at("a/two")).st_mtime, 1)
        self.home.put("a/two", b"old")
        os.symlink("two", self.home.at("a/link"))
        for path in ("a/two", "a/link", "a/./three"):
            self.unpack(archive, path)
        self.assertEqual(self.home.names("a"), ["link", "three", "two"])
        self.assertFalse(os.path.islink(self.home.at("a/link")))

    def start_replacing(self):
        """Starts to replace a file with one of an archive whose input hasn't ended."""
        self.home.put("file", b"old")
        archive = hand_made.archive((b"f", FILE, b"new"))
        io = FakeIO(self.home.path, archive, is_open=True)
        running = self.start(io, "unpack", path="file", file=True)
        while len(self.home.names()) < 2:
            pass
        return io, running

    def test_the_old_file_stays_until_the_end_of_the_archive(self):
        io, running = self.start_replacing()
        self.assertEqual(self.home.get("file"), b"old")
        io.end_input()
        running.result()
        self.assertEqual((self.home.names(), self.home.get("file")), (["file"], b"new"))

    def test_other_archives_are_refused_and_leave_no_file(self):
        self.home.put("file", b"old")
        two = hand_made.archive((b"f", FILE, b"1"), (b"g", FILE, b"2"))
        only = "exactly one file"
        for archive, why in [
            (hand_made.END, "contains no file"),
            (hand_made.archive((b"d", DIRECTORY)), only),
            (hand_made.archive((b"l", SYMLINK, b"x")), only),
            (two, only),
            (hand_made.archive((b"f", FILE, b"1"), (b"d", DIRECTORY)), only),
            (two[:700], "ended too early"),
            (hand_made.archive((b"f", FILE, b"1"))[:-512], "ended too early"),
            (hand_made.archive((b"f", FILE, b"1")) + b"x", "data follows"),
        ]:
            request = {"path": "file", "file": True}
            error = self.assert_fails("invalid_input", "file", "unpack", archive, **request)
            self.assertIn(why, error.message)
        self.assertEqual((self.home.names(), self.home.get("file")), (["file"], b"old"))

    def test_a_cancellation_keeps_the_old_file(self):
        io, running = self.start_replacing()
        io.cancel()
        with self.assertRaises(Cancelled):
            running.result()
        self.assertEqual((self.home.names(), self.home.get("file")), (["file"], b"old"))

    def test_a_cancellation_after_the_input_keeps_the_old_file(self):
        class CancelledAtTheEnd(FakeIO):
            def read(self, limit):
                piece = super().read(limit)
                if not piece:
                    self.cancel()
                return piece

        self.home.put("file", b"old")
        io = CancelledAtTheEnd(self.home.path, hand_made.archive((b"f", FILE, b"new")))
        with self.assertRaises(Cancelled):
            unpack.unpack({"path": "file", "file": True}, io)
        self.assertEqual((self.home.names(), self.home.get("file")), (["file"], b"old"))

    def test_bad_paths_are_refused(self):
        os.makedirs(self.home.at("d"))
        os.mkfifo(self.home.at("fifo"))
        self.home.put("file")
        archive = hand_made.archive((b"f", FILE, b"new"))
        for path, kind in [
            ("", "invalid_input"),
            ("/", "is_a_directory"),
            ("d/..", "invalid_input"),
            ("new/", "is_a_directory"),
            ("new/.", "is_a_directory"),
            ("d", "is_a_directory"),
            ("d/", "is_a_directory"),
            ("fifo", "not_a_file"),
            ("file/x", "not_a_directory"),
        ]:
            self.assert_fails(kind, path, "unpack", archive, path=path, file=True)
        self.assertEqual(self.home.names(), ["d", "fifo", "file"])


class ErrorTest(FileCase):
    def test_errors_name_the_entry_if_one_is_to_blame(self):
        one_file = hand_made.archive((b"a", FILE))
        two_files = hand_made.archive((b"a", FILE), (b"a/b", FILE))
        for archive, about in [
            (two_files, "to/a/b"),
            (hand_made.archive((b"../a", FILE)), "to/../a"),
            (hand_made.archive((b"/a", FILE)), "to"),
            (one_file[:-512], "to"),
            (hand_made.archive((b"a", FILE, b"x" * 2_000))[:1_500], "to"),
            (b"x" * 2_000, "to"),
            (one_file + b"x", "to"),
        ]:
            self.assert_fails("invalid_input", about, "unpack", archive, path="to")
        name = b"n" * 100_000
        long_name = hand_made.header(b"././@LongLink", b"L", size=len(name)) + hand_made.data(name)
        archive = long_name + hand_made.archive((b"f", FILE))
        error = self.assert_fails("invalid_input", "to", "unpack", archive, path="to")
        self.assertLess(len(error.message), 1_000)

    def test_a_failure_of_the_input_is_not_hidden(self):
        class Broken(FakeIO):
            def read(self, limit):
                raise BuiltinError("other", "the input failed")

        with self.assertRaisesRegex(BuiltinError, "the input failed"):
            unpack.unpack({"path": "to"}, Broken(self.home.path))
