import errno
import json
import os
import shutil
import socket
import subprocess
import unittest

from fake_io import FakeIO
from file_case import FileCase, as_user, facts

from program import pack, paths
from program.builtins import BuiltinError, Cancelled

HAS_TAR = shutil.which("tar") is not None


def fill(home):
    """Creates files with unusual names, permissions, times and holes. Returns how many."""
    for path in ("a/b/empty directory", "locked", "d" * 100):
        os.makedirs(home.at(path))
    deep = b"d" * 100
    for _ in range(8):
        deep += b"/" + b"d" * 100
        os.mkdir(home.at(deep))
    home.put(deep + b"/file", b"deep")
    home.put("locked/file", b"x")
    home.put("empty")
    home.put("large", b"\7" * 3_000_001)
    home.put("with \n line", b"x")
    home.put("n" * 255, b"255")
    home.put("n" * 100, b"100")
    home.put(b"\xff\xfe", b"bytes")
    for target, name in [
        ("/etc/passwd", "absolute"),
        ("nowhere", "dangling"),
        ("a", "to directory"),
        ("./a//b", "not normal"),
        (deep, "long target"),
        ("t" * 100, "target of 100"),
        (b"\xff", "target that is not text"),
    ]:
        os.symlink(os.fsencode(target), home.at(name))
    for name, ranges, size in [
        ("only a hole", [], 1 << 20),
        ("ends with a hole", [(0, 4096)], 1 << 20),
        ("ends with data", [(8 << 20, 3)], (8 << 20) + 3),
        ("many holes", [(n << 16, 4096) for n in range(60)], 60 << 16),
    ]:
        with open(home.at(name), "wb") as file:
            file.truncate(size)
            for offset, length in ranges:
                file.seek(offset)
                file.write(b"x" * length)
    root = os.geteuid() == 0
    for name, mode in [("empty", 0), ("large", 0o777), ("a/b", 0o1), ("locked", 0o500)]:
        # Another user can't pack what it can't read.
        os.chmod(home.at(name), mode if root else mode | 0o500)
    for name, time in [
        ("empty", 10**9),
        ("large", -4_250_000_000),
        ("dangling", 10**18 + 123_456_789),
        ("a/b", 15 * 10**17 + 1),
        ("locked", 0),
        ("many holes", -(10**9)),
    ]:
        os.utime(home.at(name), ns=(time, time), follow_symlinks=False)
    return len(facts(home.path))


def reports_holes(file):
    """Whether the file system knows that an empty file is a hole."""
    try:
        os.lseek(file, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


class PackTest(FileCase):
    def pack(self, path=""):
        """Packs a path. Returns the result and the archive."""
        result, archive = self.call("pack", path=path)
        self.assertEqual(len(archive) % 512, 0)
        return result, archive

    def tar(self, archive, *args):
        command = ["tar", *args, "-f", "-"]
        done = subprocess.run(command, input=archive, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def listed_by_tar(self, archive):
        names = self.tar(archive, "-t", "--quoting-style=literal").splitlines()
        return [name.decode().rstrip("/") for name in names]

    @unittest.skipUnless(HAS_TAR, "needs tar")
    def test_gnu_tar_unpacks_the_same_tree(self):
        count = fill(self.home)
        result, archive = self.pack()
        self.assertEqual(result["entries"], count)
        other = self.new_home()
        self.tar(archive, "-x", "-p", "-C", os.fsdecode(other.path))
        found, expected = facts(other.path), facts(self.home.path)
        self.assertEqual(sorted(found), sorted(expected))
        for name in expected:
            self.assertEqual(found[name][:2], expected[name][:2], name)
            self.assertTrue(found[name][2] == expected[name][2], name)
        for name in ("only a hole", "ends with data", "many holes"):
            taken = os.stat(other.at(name)).st_blocks * 512
            self.assertLessEqual(taken, os.stat(self.home.at(name)).st_blocks * 512 + 8192, name)

    @unittest.skipUnless(HAS_TAR, "needs tar")
    def test_entries_are_in_depth_first_order_and_sorted_by_bytes(self):
        for path in ("a/z", "a!", "b/c/d"):
            os.makedirs(self.home.at(path))
        for path in ("a/b", "b/c/e", "b.x", "é"):
            self.home.put(path)
        expected = ["a", "a/b", "a/z", "a!", "b", "b/c", "b/c/d", "b/c/e", "b.x", "é"]
        self.assertEqual(self.listed_by_tar(self.pack()[1]), expected)

    @unittest.skipUnless(HAS_TAR, "needs tar")
    def test_a_file_is_packed_with_its_own_name_also_through_a_link(self):
        os.mkdir(self.home.at("d"))
        self.home.put("d/file", b"text")
        os.symlink("d/file", self.home.at("link"))
        os.symlink("d", self.home.at("to directory"))
        for path, name in (("d/file", "file"), ("link", "link"), ("to directory", "file")):
            result, archive = self.pack(path)
            self.assertEqual(result, {"bytes": 4, "entries": 1})
            self.assertEqual(self.listed_by_tar(archive), [name])
            self.assertEqual(self.tar(archive, "-x", "-O"), b"text")

    def test_holes_take_no_space_in_the_archive(self):
        with open(self.home.at("sparse"), "wb") as file:
            file.truncate(1 << 28)
            if not reports_holes(file.fileno()):
                self.skipTest("the file system doesn't report holes")
            file.truncate(1 << 40)
            file.seek(1 << 39)
            file.write(b"middle")
        result, archive = self.pack()
        self.assertEqual(result, {"bytes": 1 << 40, "entries": 1})
        self.assertLess(len(archive), 64 * 1024)

    def test_a_file_with_too_many_holes_is_stored_without_them(self):
        with open(self.home.at("sparse"), "wb") as file:
            for number in range(5):
                file.seek(number << 16)
                file.write(b"x" * 4096)
        most, pack.MAX_PIECES = pack.MAX_PIECES, 4
        try:
            result, archive = self.pack()
        finally:
            pack.MAX_PIECES = most
        self.assertEqual(result["bytes"], (4 << 16) + 4096)
        self.assertGreater(len(archive), 4 << 16)

    def test_pipes_and_sockets_are_skipped_and_reported(self):
        os.mkfifo(self.home.at("pipe"))
        self.home.put("file")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.home.at(b"socket\xff"))
            result, _ = self.pack()
        self.assertEqual((result["entries"], result["skipped_count"]), (1, 2))
        reason = "it is a pipe, a socket or a device"
        names = ["pipe", paths.encode(b"socket\xff")]
        self.assertEqual(result["skipped"], [{"path": it, "reason": reason} for it in names])

    def test_a_result_with_many_skipped_files_stays_below_its_limit(self):
        for name in ("pipe", "é" * 120):
            for number in range(600):
                os.mkfifo(self.home.at("%s%d" % (name, number)))
            result, _ = self.pack()
            size = len(json.dumps(result))
            self.assertTrue(32 * 1024 < size < 64 * 1024, size)
        self.assertEqual(result["skipped_count"], 1_200)

    def test_bad_paths_are_refused(self):
        os.mkfifo(self.home.at("fifo"))
        self.home.put("file")
        for path, kind in [
            ("missing", "not_found"),
            ("fifo", "not_a_file"),
            ("/dev/zero", "not_a_file"),
            ("file/x", "not_a_directory"),
            ("a\0", "invalid_input"),
            ("n" * 300, "invalid_input"),
        ]:
            error = self.assert_fails(kind, path, "pack", path=path)
            self.assertTrue(error.message.startswith("cannot pack '%s': " % path), error.message)

    def test_an_entry_that_may_not_be_read_is_named(self):
        os.makedirs(self.home.at("from/d/inner"))
        self.home.put("from/file")
        for path in ("from/d", "from/file"):
            os.chmod(self.home.at(path), 0)

            def failed():
                error = self.error_of("pack", path="from")
                return [error.kind, error.path.decode(), error.message]

            message = "cannot pack '%s': Permission denied" % path
            self.assertEqual(as_user(failed), ["permission_denied", path, message])
            os.chmod(self.home.at(path), 0o755)

    def test_a_file_that_shrinks_is_an_error(self):
        os.mkdir(self.home.at("from"))
        self.home.put("from/file", b"x" * 1_000_000)
        shrink = lambda _: os.truncate(self.home.at("from/file"), 10)
        io = FakeIO(self.home.path, on_write=shrink)
        with self.assertRaises(BuiltinError) as caught:
            pack.pack({"path": "from"}, io)
        error = caught.exception
        self.assertEqual((error.kind, error.path), ("other", b"from/file"))
        self.assertIn("became shorter", error.message)

    def test_a_file_that_grows_keeps_its_size_in_the_archive(self):
        self.home.put("file", b"x" * 1_000_000)
        self.home.put("next", b"n")

        def grow(_):
            with open(self.home.at("file"), "ab") as file:
                file.write(b"more")

        io = FakeIO(self.home.path, on_write=grow)
        result = pack.pack({"path": ""}, io)
        self.assertEqual(result, {"bytes": 1_000_001, "entries": 2})
        self.assertEqual(len(io.output) % 512, 0)

    def test_entries_that_are_removed_meanwhile_are_skipped(self):
        for name in ("a", "b", "c/d", "e"):
            os.makedirs(self.home.at("%s/inner" % name))
        self.home.put("f", b"x")
        self.home.put("g", b"x" * 100_000)
        self.home.put("z", b"x")
        changes = [
            lambda: shutil.rmtree(self.home.at("b")),
            lambda: os.rename(self.home.at("c"), self.home.at("elsewhere")),
            lambda: os.symlink("/etc", self.home.at("c")),
            lambda: shutil.rmtree(self.home.at("e")),
            lambda: self.home.put("e"),
            lambda: os.unlink(self.home.at("f")),
            lambda: os.rename(self.home.at("g"), self.home.at("gone")),
            lambda: os.mkfifo(self.home.at("g")),
        ]
        io = FakeIO(self.home.path)
        check, changed = io.check, []

        def check_and_change():
            # The first call comes before the names are read, the second one after that.
            changed.append(None)
            if len(changed) == 2:
                for change in changes:
                    change()
            check()

        io.check = check_and_change
        result = pack.pack({"path": ""}, io)
        skipped = {it["path"]: it["reason"] for it in result["skipped"]}
        removed = "it was removed while the directory was packed"
        special = "it is a pipe, a socket or a device"
        self.assertEqual(skipped, {"b": removed, "f": removed, "g": special})
        # The link in the place of a directory is packed as a link.
        self.assertNotIn(b"passwd", io.output)
        self.assertEqual(result["entries"], len(["a", "a/inner", "c", "e", "z"]))

    def test_a_directory_swapped_for_a_link_is_not_followed(self):
        elsewhere = self.new_home()
        elsewhere.put("secret", b"secret")
        os.makedirs(self.home.at("d/e"))
        self.home.put("f", b"x")
        stat, opened = os.stat, []

        def stat_and_swap(path, **options):
            status = stat(path, **options)
            name = self.home.at(path) if path in (b"d", b"f") else None
            if name is not None:
                opened.append(path)
                os.rename(name, self.home.at("aside-%d" % len(opened)))
                os.symlink(elsewhere.at("secret" if path == b"f" else ""), name)
            return status

        os.stat = stat_and_swap
        try:
            result, archive = self.pack()
        finally:
            os.stat = stat
        self.assertEqual(opened, [b"d", b"f"])
        self.assertEqual([it["path"] for it in result["skipped"]], ["d", "f"])
        self.assertNotIn(b"secret", archive)

    def test_a_cancellation_ends_a_pack(self):
        self.home.put("file", b"x" * 1_000_000)
        io = FakeIO(self.home.path, window=1)
        running = self.start(io, "pack", path="")
        io.wait_for_output(1)
        io.cancel()
        with self.assertRaises(Cancelled):
            running.result()

    def test_a_deep_tree_is_packed(self):
        parent = os.open(self.home.path, os.O_RDONLY)
        for _ in range(200):
            os.mkdir("d", dir_fd=parent)
            child = os.open("d", os.O_RDONLY, dir_fd=parent)
            os.close(os.open("z", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=parent))
            os.close(parent)
            parent = child
        os.close(parent)
        self.assertEqual(self.pack()[0], {"bytes": 0, "entries": 400})
