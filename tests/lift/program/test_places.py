import errno
import os

from file_case import FileCase

from program.places import MAX_OPEN, Directories, Place, open_directory, read_names


class PlaceTest(FileCase):
    def test_a_place_survives_the_renaming_of_its_directory(self):
        os.mkdir(self.home.at("d"))
        with Place.open(self.home.at("d/new")) as place:
            self.assertIsNone(place.stat())
            os.rename(self.home.at("d"), self.home.at("e"))
            self.home.put("e/new", b"1")
            self.assertEqual(place.stat().st_size, 1)

    def test_links_are_followed_to_their_last_target(self):
        os.makedirs(self.home.at("d/e"))
        os.symlink("d/second", self.home.at("first"))
        os.symlink("e/../third", self.home.at("d/second"))
        os.symlink("file", self.home.at("d/third"))
        with Place.open(self.home.at("first")) as place:
            self.assertIsNone(place.follow())
            self.assertEqual(place.name, b"file")
            self.home.put("d/file", b"12")
            self.assertEqual(place.stat().st_size, 2)

    def test_paths_without_a_name_are_directories(self):
        for path in (b"/", b"a/", b"a/.", b"..", b""):
            with self.assertRaises(IsADirectoryError, msg=path):
                Place.open(path)


class DirectoriesTest(FileCase):
    DEPTH = MAX_OPEN + 10

    def open_deep(self):
        """Opens a tree that is deeper than the number of open directories."""
        os.makedirs(self.home.at("d/" * self.DEPTH))
        directories = Directories(os.open(self.home.path, os.O_RDONLY))
        self.addCleanup(directories.__exit__)
        for _ in range(self.DEPTH):
            directories.enter(b"d")
        return directories

    def test_few_directories_are_open_and_parents_are_opened_again(self):
        before = len(os.listdir("/proc/self/fd"))
        directories = self.open_deep()
        self.assertLessEqual(len(os.listdir("/proc/self/fd")) - before, MAX_OPEN + 1)
        for depth in range(self.DEPTH - 1, -1, -1):
            directories.leave()
            expected = os.stat(self.home.at("d/" * depth))
            self.assertTrue(os.path.samestat(os.fstat(directories.current), expected))
        self.assertEqual(len(directories), 1)

    def test_a_parent_that_is_another_directory_is_an_error(self):
        directories = self.open_deep()
        os.rename(self.home.at("d/d/d/d"), self.home.at("moved"))
        with self.assertRaises(OSError) as caught:
            for _ in range(self.DEPTH):
                directories.leave()
        self.assertEqual(caught.exception.errno, errno.ESTALE)

    def test_only_directories_are_opened_and_no_links(self):
        os.mkdir(self.home.at("d"))
        os.symlink("d", self.home.at("link"))
        os.mkfifo(self.home.at("fifo"))
        self.home.put("file")
        top = os.open(self.home.path, os.O_RDONLY)
        self.addCleanup(os.close, top)
        for name in ("link", "fifo", "file"):
            with self.assertRaises(OSError, msg=name) as caught:
                open_directory(name, top)
            self.assertIn(caught.exception.errno, (errno.ENOTDIR, errno.ELOOP))
        os.close(open_directory("d", top))

    def test_names_are_read_in_batches(self):
        os.mkdir(self.home.at("d"))
        for name in (b"a", b"b", b"\xff"):
            self.home.put(name)
        top = os.open(self.home.path, os.O_RDONLY)
        self.addCleanup(os.close, top)
        expected = [(b"a", False), (b"b", False), (b"d", True), (b"\xff", False)]
        for limit, is_last in ((None, True), (4, True), (5, True), (3, False)):
            # Each call starts at the first entry.
            entries, found_all = read_names(top, lambda: None, limit)
            self.assertEqual(found_all, is_last)
            self.assertEqual(len(entries), min(limit or 4, 4))
            self.assertLessEqual(set(entries), set(expected))
