import os
import resource
import stat

from fake_io import FakeIO
from file_case import FileCase, as_user

from program import files
from program.builtins import BuiltinError, Cancelled
from program.new_file import NewFile
from program.places import Place
from program.requests import BadRequest, Repeating

IN_PLACE = ("append", {"at": 3})


class WriteTest(FileCase):
    def write(self, data, **request):
        result, output = self.call("write", data, **request)
        self.assertEqual((result, output), ({"bytes": len(data), "entries": 1}, b""))

    def test_replace_writes_a_whole_file_with_its_parents(self):
        content = bytes(range(256)) * 4000
        self.write(content, path="a/b/c")
        self.assertEqual(self.home.get("a/b/c"), content)
        self.write(b"", path="a/b/c", mode="replace")
        self.assertEqual(self.home.get("a/b/c"), b"")
        self.assertEqual(self.home.names("a/b"), ["c"])
        self.write(b"1", path="a/" + "ü" * 127 + "x")
        self.assertEqual(self.home.names("a"), ["b", "ü" * 127 + "x"])
        self.write(b"bytes", path={"b64": "/w=="})
        self.assertEqual(self.home.get(b"\xff"), b"bytes")

    def test_replace_keeps_permissions_unless_others_are_given(self):
        self.write(b"1", path="a")
        umask = os.umask(0)
        os.umask(umask)
        self.assertEqual(self.home.mode("a"), 0o644 & ~umask)
        os.chmod(self.home.at("a"), 0o751)
        self.write(b"new", path="a")
        self.assertEqual((self.home.get("a"), self.home.mode("a")), (b"new", 0o751))
        self.write(b"3", path="a", permissions=0o604)
        self.assertEqual(self.home.mode("a"), 0o604)

    def test_permissions_that_no_file_has_are_invalid(self):
        self.home.put("a", b"old")
        for permissions in (0o10000, 2**32 - 1):
            for mode in ("replace", "create", *IN_PLACE):
                request = {"path": "a", "mode": mode, "permissions": permissions}
                self.assert_fails("invalid_input", "a", "write", b"new", **request)
        self.assertEqual(self.home.get("a"), b"old")

    def test_replace_keeps_links_and_writes_their_target(self):
        os.mkdir(self.home.at("d"))
        os.symlink("d/second", self.home.at("first"))
        os.symlink("target", self.home.at("d/second"))
        self.write(b"new", path="first")
        self.assertEqual(self.home.get("d/target"), b"new")
        self.assertEqual(os.readlink(self.home.at("first")), b"d/second")
        os.symlink(self.home.at("d/target"), self.home.at("absolute"))
        self.write(b"newer", path="absolute")
        self.assertEqual(self.home.get("d/target"), b"newer")

    def test_create_never_replaces(self):
        self.write(b"1", path="a", mode="create")
        os.symlink("nowhere", self.home.at("link"))
        os.mkfifo(self.home.at("fifo"))
        for path in ("a", "link", "fifo"):
            self.assert_fails("already_exists", path, "write", b"2", path=path, mode="create")
        self.assertEqual(self.home.get("a"), b"1")
        self.assertEqual(self.home.names(), ["a", "fifo", "link"])

    def test_create_fails_if_the_file_appears_meanwhile(self):
        for appear in (lambda path: self.home.put(path, b"other"), self.make_dangling):
            io = FakeIO(self.home.path, is_open=True)
            running = self.start(io, "write", path="a", mode="create")
            self.wait_for_names("", 1)
            appear("a")
            io.feed(b"new")
            io.end_input()
            with self.assertRaises(BuiltinError) as caught:
                running.result()
            self.assertEqual(caught.exception.kind, "already_exists")
            self.assertEqual(self.home.names(), ["a"])
            os.unlink(self.home.at("a"))

    def make_dangling(self, path):
        os.symlink("nowhere", self.home.at(path))

    def test_a_cancellation_keeps_the_old_file_and_removes_the_new_one(self):
        for size in (0, 1, 1_000_000):
            self.home.put("a", b"old")
            io = FakeIO(self.home.path, is_open=True)
            running = self.start(io, "write", path="a")
            self.wait_for_names("", 2)
            io.feed(b"x" * size)
            io.cancel()
            with self.assertRaises(Cancelled):
                running.result()
            self.assertEqual(self.home.get("a"), b"old")
            self.assertEqual(self.home.names(), ["a"])

    def test_a_cancellation_before_the_commit_discards_the_input(self):
        self.home.put("a", b"old")
        io = FakeIO(self.home.path)
        for is_exclusive in (False, True):
            with Place.open(self.home.at("a")) as place:
                with self.assertRaises(Cancelled), NewFile(place, None) as new:
                    os.write(new.fd, b"new")
                    io.cancel()
                    new.commit(is_exclusive, io)
            self.assertEqual(self.home.get("a"), b"old")
            self.assertEqual(self.home.names(), ["a"])

    def test_a_cancellation_after_the_rename_changes_nothing(self):
        io = FakeIO(self.home.path, b"new")
        rename = os.rename

        def rename_and_cancel(*args, **options):
            rename(*args, **options)
            io.cancel()

        os.rename = rename_and_cancel
        try:
            result = files.OPERATIONS["write"]({"path": "a"}, io)
        finally:
            os.rename = rename
        self.assertEqual(result, {"bytes": 3, "entries": 1})
        self.assertEqual(self.home.get("a"), b"new")

    def test_a_new_file_is_private_until_it_has_its_permissions(self):
        io = FakeIO(self.home.path, is_open=True)
        running = self.start(io, "write", path="a", permissions=0o644)
        self.wait_for_names("", 1)
        (name,) = self.home.names()
        self.assertTrue(name.startswith(".actix-sandbox-"), name)
        self.assertEqual(self.home.mode(name), 0o600)
        io.end_input()
        running.result()
        self.assertEqual(self.home.mode("a"), 0o644)

    def test_a_failed_write_removes_the_parents_that_it_created(self):
        os.mkdir(self.home.at("a"))
        for mode in ("replace", "create"):
            io = FakeIO(self.home.path, is_open=True)
            running = self.start(io, "write", path="a/b/c/d", mode=mode)
            self.wait_for_names("a/b/c", 1)
            io.cancel()
            with self.assertRaises(Cancelled):
                running.result()
            self.assertEqual(self.home.names("a"), [])

    def test_parents_that_got_other_files_stay(self):
        io = FakeIO(self.home.path, is_open=True)
        running = self.start(io, "write", path="a/b/c")
        self.wait_for_names("a/b", 1)
        self.home.put("a/other")
        io.cancel()
        with self.assertRaises(Cancelled):
            running.result()
        self.assertEqual(self.home.names("a"), ["other"])

    def test_a_renamed_parent_gets_the_file_and_keeps_no_temporary_one(self):
        for is_cancelled in (True, False):
            os.mkdir(self.home.at("d"))
            io = FakeIO(self.home.path, b"new", is_open=True)
            running = self.start(io, "write", path="d/a")
            self.wait_for_names("d", 1)
            os.rename(self.home.at("d"), self.home.at("e"))
            if is_cancelled:
                io.cancel()
                with self.assertRaises(Cancelled):
                    running.result()
                self.assertEqual(self.home.names("e"), [])
                os.rmdir(self.home.at("e"))
            else:
                io.end_input()
                running.result()
                self.assertEqual(self.home.get("e/a"), b"new")

    def test_bad_paths_are_refused_before_input_is_read(self):
        os.mkfifo(self.home.at("fifo"))
        os.mkdir(self.home.at("dir"))
        os.symlink("loop", self.home.at("loop"))
        os.symlink("/dev/null", self.home.at("device"))
        self.home.put("file")
        before = self.home.names()
        bad = [
            ("fifo", "not_a_file"),
            ("/dev/null", "not_a_file"),
            ("/dev/full", "not_a_file"),
            ("device", "not_a_file"),
            ("dir", "is_a_directory"),
            ("dir/", "is_a_directory"),
            ("dir/..", "is_a_directory"),
            ("new/", "is_a_directory"),
            ("/", "is_a_directory"),
            ("file/x", "not_a_directory"),
            ("file/x/y", "not_a_directory"),
            ("loop", "other"),
            ("", "invalid_input"),
            ("a\0", "invalid_input"),
            ("n" * 300, "invalid_input"),
            ("new/" + "n" * 300, "invalid_input"),
            ("d/" * 2_499 + "ab", "invalid_input"),
        ]
        for mode in ("replace", "create", *IN_PLACE):
            for path, kind in bad:
                exists = path in ("fifo", "/dev/null", "/dev/full", "device", "loop")
                if mode == "create" and exists:
                    kind = "already_exists"
                # The input never ends, so a write that reads it would not return.
                io = FakeIO(self.home.path, is_open=True)
                with self.assertRaises(BuiltinError, msg="%s %s" % (mode, path[:20])) as caught:
                    self.start(io, "write", path=path, mode=mode).result()
                error = caught.exception
                self.assertEqual((error.kind, error.path), (kind, path.encode()), error.message)
        self.assertEqual(self.home.names(), before)

    def test_append_and_at_write_in_place(self):
        self.write(b"0123", path="d/a", mode="append")
        self.write(b"456789", path="d/a", mode="append")
        self.write(b"xy", path="d/a", mode={"at": 2})
        self.assertEqual(self.home.get("d/a"), b"01xy456789")
        self.write(b"z", path="d/b", mode={"at": 3})
        self.assertEqual(self.home.get("d/b"), b"\0\0\0z")
        self.write(b"", path="d/b", mode={"at": 9}, permissions=0o640)
        self.assertEqual((self.home.get("d/b"), self.home.mode("d/b")), (b"\0\0\0z", 0o640))
        for offset in (2**63 - 1, 2**63, 2**64 - 1):
            mode = {"at": offset}
            self.assert_fails("invalid_input", "d/b", "write", b"z", path="d/b", mode=mode)

    def test_a_cancelled_append_keeps_what_it_wrote(self):
        self.home.put("a", b"old")
        io = FakeIO(self.home.path, b"12345", is_open=True)
        running = self.start(io, "write", path="a", mode="append")
        while len(self.home.get("a")) < 8:
            pass
        io.cancel()
        with self.assertRaises(Cancelled):
            running.result()
        self.assertEqual(self.home.get("a"), b"old12345")

    def test_the_kernels_files_are_refused(self):
        os.symlink("/proc/self/mem", self.home.at("mem"))
        for path in ("/proc/self/mem", "mem", "/proc/self/comm"):
            for mode in IN_PLACE:
                self.assert_fails("not_a_file", path, "write", b"x", path=path, mode=mode)
        # A pipe, because the standard output may be a file, which can be replaced.
        reader, writer = os.pipe()
        for path in ("/proc/self/mem", "/proc/self/fd/%d" % writer):
            self.error_of("write", b"x", path=path)
        os.close(reader)
        os.close(writer)

    def test_a_limit_on_the_size_keeps_the_old_file(self):
        def write_with_limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
            kinds = []
            for mode in ("replace", "append", {"at": 998}):
                error = self.error_of("write", b"x" * 2_000, path="a", mode=mode)
                kinds.append([error.kind, error.message.partition("; ")[2]])
            error = self.error_of("write", b"x" * 2_000, path="d/new")
            return kinds + [[error.kind, ""]]

        self.home.put("a", b"old")
        for path, mode in (("", 0o777), ("a", 0o666)):
            os.chmod(self.home.at(path), mode)
        kinds = as_user(write_with_limit)
        self.assertEqual([kind for kind, _ in kinds], ["too_large"] * 4)
        counts = [count for _, count in kinds[:3]]
        self.assertEqual(counts, ["", "997 bytes were written", "2 bytes were written"])
        self.assertEqual(self.home.names(), ["a"])
        self.assertEqual(self.home.get("a"), b"old" + b"x" * 997)

    def test_a_full_disk_keeps_the_old_file(self):
        if not mount_small_disk(self.home.path):
            self.skipTest("only root can mount a disk")
        self.addCleanup(os.system, "umount -l '%s'" % os.fsdecode(self.home.path))
        self.write(b"old", path="a")
        content = b"x" * (2 << 20)
        self.assert_fails("no_space", "a", "write", content, path="a")
        self.assert_fails("no_space", "d/new", "write", content, path="d/new")
        self.assertEqual((self.home.names(), self.home.get("a")), (["a"], b"old"))
        error = self.assert_fails("no_space", "b", "write", content, path="b", mode="append")
        written = len(self.home.get("b"))
        self.assertTrue(error.message.endswith("; %d bytes were written" % written), error)
        error = self.assert_fails("no_space", "c", "copy", path="b", to="c")
        self.assertTrue(error.message.startswith("cannot copy 'b' to 'c': "), error.message)
        self.assertEqual(self.home.names(), ["a", "b"])

    def test_what_code_may_not_write_is_denied(self):
        self.home.put("closed", b"1")
        os.mkdir(self.home.at("locked"))
        for path in ("closed", "locked"):
            os.chmod(self.home.at(path), 0o500)
        os.chmod(self.home.path, 0o555)
        requests = [{"path": path} for path in ("new", "closed", "locked/new", "new/below")]
        requests += [{"path": "closed", "mode": mode} for mode in IN_PLACE]
        kinds = as_user(lambda: [self.error_of("write", b"x", **it).kind for it in requests])
        os.chmod(self.home.path, 0o755)
        self.assertEqual(kinds, ["permission_denied"] * len(requests))

    def test_values_of_a_wrong_type_are_bad_requests(self):
        bad = [5, "truncate", {}, {"at": -1}, {"at": 1, "to": 2}, {"at": None}, ["at"], True]
        for mode in (*bad, Repeating({"at": 1})):
            with self.assertRaises(BadRequest, msg=mode):
                files.CHECKS["write"]({"path": "a", "mode": mode})
        for permissions in (-1, 2**32, "644", 1.5, True):
            with self.assertRaises(BadRequest, msg=permissions):
                files.CHECKS["write"]({"path": "a", "permissions": permissions})

    def wait_for_names(self, directory, count):
        """Waits for the temporary file, which a write creates before it reads."""
        while True:
            try:
                if len(self.home.names(directory)) >= count:
                    return
            except FileNotFoundError:
                pass


class CopyTest(FileCase):
    def test_a_copy_has_the_content_the_permissions_and_the_holes(self):
        with open(self.home.at("a"), "wb") as file:
            file.write(b"start")
            file.seek(8 << 20)
            file.write(b"end")
            file.truncate(20 << 20)
        os.chmod(self.home.at("a"), 0o4751)
        os.symlink("a", self.home.at("link"))
        result, output = self.call("copy", path="link", to="new/b")
        self.assertEqual((result, output), ({"bytes": 20 << 20, "entries": 1}, b""))
        self.assertEqual(self.home.get("new/b"), self.home.get("a"))
        self.assertEqual(self.home.mode("new/b"), 0o4751)
        if os.stat(self.home.at("a")).st_blocks * 512 < 1 << 20:
            self.assertLess(os.stat(self.home.at("new/b")).st_blocks * 512, 1 << 20)

    def test_a_copy_replaces_files_and_targets_of_links(self):
        self.home.put("a", b"new" * 100_000)
        self.home.put("b", b"old")
        os.symlink("b", self.home.at("link"))
        self.call("copy", path="a", to="link")
        self.assertEqual(self.home.get("b"), b"new" * 100_000)
        self.assertTrue(stat.S_ISLNK(os.lstat(self.home.at("link")).st_mode))
        self.call("copy", path="a", to="a")
        self.assertEqual(self.home.get("a"), b"new" * 100_000)

    def test_files_without_a_size_are_copied(self):
        result, _ = self.call("copy", path="/proc/self/mounts", to="mounts")
        self.assertEqual(result["bytes"], len(self.home.get("mounts")))
        self.assertGreater(result["bytes"], 0)
        self.home.put("empty")
        self.assertEqual(self.call("copy", path="empty", to="e")[0], {"bytes": 0, "entries": 1})

    def test_bad_paths_are_refused(self):
        self.home.put("a", b"1")
        os.mkdir(self.home.at("d"))
        os.mkfifo(self.home.at("fifo"))
        for path, to, kind, about in [
            ("missing", "b", "not_found", "missing"),
            ("/dev/zero", "b", "not_a_file", "/dev/zero"),
            ("fifo", "b", "not_a_file", "fifo"),
            ("d", "b", "is_a_directory", "d"),
            ("a", "d", "is_a_directory", "d"),
            ("a", "new/", "is_a_directory", "new/"),
            ("a", "fifo", "not_a_file", "fifo"),
            ("a", "a/b", "not_a_directory", "a/b"),
            ("", "new/b", "invalid_input", ""),
            ("a", "", "invalid_input", ""),
        ]:
            self.assert_fails(kind, about, "copy", path=path, to=to)
        self.assertEqual(self.home.names(), ["a", "d", "fifo"])

    def test_a_file_that_shrinks_is_copied_up_to_its_new_end(self):
        self.home.put("a", b"x" * 3_000_000)
        io = FakeIO(self.home.path)
        io.check = lambda: os.truncate(self.home.at("a"), 1_000)
        result = files.OPERATIONS["copy"]({"path": "a", "to": "b"}, io)
        self.assertEqual(result["bytes"], len(self.home.get("b")))
        self.assertLess(result["bytes"], 3_000_000)

    def test_a_cancellation_leaves_no_copy(self):
        self.home.put("a", b"x" * 1_000_000)
        io = FakeIO(self.home.path)
        io.cancel()
        with self.assertRaises(Cancelled):
            self.start(io, "copy", path="a", to="new/b").result()
        self.assertEqual(self.home.names(), ["a"])


def mount_small_disk(path):
    if os.geteuid() != 0:
        return False
    return os.system("mount -t tmpfs -o size=1m tmpfs '%s' 2>/dev/null" % os.fsdecode(path)) == 0
