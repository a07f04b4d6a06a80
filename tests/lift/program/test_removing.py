import os
import threading

from fake_io import FakeIO
from file_case import FileCase, as_user

from program import files
from program.builtins import BuiltinError, Cancelled


class RemoveTest(FileCase):
    def remove(self, path, recursive=False):
        result = self.call("remove", path=path, recursive=recursive)
        self.assertEqual(result, ({}, b""))

    def test_removes_files_links_and_empty_directories(self):
        self.home.put("kept")
        self.home.put(b"\xff")
        os.mkdir(self.home.at("d"))
        os.mkdir(self.home.at("e"))
        os.symlink("kept", self.home.at("link"))
        os.mkfifo(self.home.at("fifo"))
        for path in ({"b64": "/w=="}, "d", "e//", "link", "fifo"):
            self.remove(path)
        self.assertEqual(self.home.names(), ["kept"])

    def test_removes_trees_and_not_what_links_point_to(self):
        elsewhere = self.new_home()
        elsewhere.put("kept")
        os.makedirs(self.home.at("d/e/f"))
        os.symlink(elsewhere.path, self.home.at("d/e/link"))
        os.symlink(elsewhere.path, self.home.at("link"))
        for number in range(1_500):
            self.home.put("d/%d" % number)
        self.remove("d", True)
        self.remove("link/", True)
        self.assertEqual(self.home.names(), [])
        self.assertEqual(elsewhere.names(), ["kept"])

    def test_bad_removals_are_refused(self):
        os.makedirs(self.home.at("d/e"))
        self.home.put("file")
        home = os.fsdecode(self.home.path)
        keep = [(path, "invalid_input") for path in ("", ".", "..", "/", "./", "//", home)]
        keep += [(path, "invalid_input") for path in ("d/.", "d/..", "d/../.", home + "/")]
        keep += [("missing", "not_found"), ("file/x", "not_a_directory")]
        keep += [("n" * 300, "invalid_input"), ("d/" * 2_499 + "ab", "invalid_input")]
        for path, kind in keep:
            for recursive in (False, True):
                self.assert_fails(kind, path, "remove", path=path, recursive=recursive)
        self.assert_fails("not_empty", "d", "remove", path="d")
        self.assertEqual((self.home.names(), self.home.names("d")), (["d", "file"], ["e"]))

    def test_a_deep_tree_is_removed(self):
        parent = os.open(self.home.path, os.O_RDONLY)
        for _ in range(500):
            os.mkdir("d", dir_fd=parent)
            child = os.open("d", os.O_RDONLY, dir_fd=parent)
            os.close(parent)
            parent = child
        os.close(parent)
        self.remove("d", True)
        self.assertEqual(self.home.names(), [])

    def test_a_cancellation_ends_a_removal(self):
        os.makedirs(self.home.at("d/e"))
        io = FakeIO(self.home.path)
        io.cancel()
        with self.assertRaises(Cancelled):
            files.OPERATIONS["remove"]({"path": "d", "recursive": True}, io)
        self.assertEqual(self.home.names("d"), ["e"])

    def test_an_error_names_the_entry_that_stays(self):
        os.makedirs(self.home.at("d/e/locked/inner"))
        for path in ("d", "d/e"):
            os.chmod(self.home.at(path), 0o777)
        for mode, path in ((0o555, "d/e/locked/inner"), (0, "d/e/locked")):
            os.chmod(self.home.at("d/e/locked"), mode)
            self.assertEqual(as_user(self.failed_removal), ["permission_denied", path])
        self.assertTrue(os.path.exists(self.home.at("d/e/locked")))

    def test_an_empty_directory_that_may_not_be_read_is_removed(self):
        os.makedirs(self.home.at("d/empty"))
        os.chmod(self.home.at("d/empty"), 0)
        for path in ("", "d"):
            os.chmod(self.home.at(path), 0o777)
        as_user(lambda: self.remove("d", True))
        self.assertEqual(self.home.names(), [])

    def failed_removal(self):
        error = self.error_of("remove", path="d", recursive=True)
        return [error.kind, error.path.decode()]

    def test_a_directory_swapped_for_a_link_is_not_emptied(self):
        elsewhere = self.new_home()
        elsewhere.put("kept")
        is_done = threading.Event()

        def swap():
            # The removal may remove each of these at any time.
            while not is_done.is_set():
                for change in (
                    lambda: os.makedirs(self.home.at("d/e")),
                    lambda: os.symlink(elsewhere.path, self.home.at("d/link")),
                    lambda: os.rename(self.home.at("d/e"), self.home.at("d/f")),
                    lambda: os.rename(self.home.at("d/link"), self.home.at("d/e")),
                ):
                    try:
                        change()
                    except OSError:
                        pass

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(200):
                try:
                    self.call("remove", path="d", recursive=True)
                except BuiltinError:
                    pass
        finally:
            is_done.set()
            thread.join()
        self.assertEqual(elsewhere.names(), ["kept"])
