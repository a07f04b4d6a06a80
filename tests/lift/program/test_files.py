import os

from file_case import CHECKS, OPERATIONS, FileCase, as_user

from program import files
from program.requests import BadRequest


class EditTest(FileCase):
    def test_every_operation_has_a_check(self):
        self.assertEqual(set(OPERATIONS), set(CHECKS))

    def test_create_dir_creates_parents_and_accepts_a_directory(self):
        for path in ("a/b/c", "a/b/c", "a/b/c/", ".", "/"):
            self.assertEqual(self.call("create_dir", path=path), ({}, b""))
        self.assertEqual(self.home.names("a/b"), ["c"])
        os.symlink("a", self.home.at("link"))
        self.call("create_dir", path="link")
        self.call("create_dir", path="link/new")
        self.assertEqual(self.home.names("a"), ["b", "new"])

    def test_a_failed_create_dir_leaves_nothing(self):
        self.home.put("file")
        os.symlink("nowhere", self.home.at("dangling"))
        os.symlink("loop", self.home.at("loop"))
        before = self.home.names()
        for path, kind in [
            ("file", "already_exists"),
            ("dangling", "already_exists"),
            ("loop", "already_exists"),
            ("file/d", "not_a_directory"),
            ("file/d/e", "not_a_directory"),
            ("new/" + "n" * 300, "invalid_input"),
            ("", "invalid_input"),
            ("d/" * 2_499 + "ab", "invalid_input"),
        ]:
            self.assert_fails(kind, path, "create_dir", path=path)
        self.assertEqual(self.home.names(), before)
        os.chmod(self.home.path, 0o555)
        kind = as_user(lambda: self.error_of("create_dir", path="new").kind)
        os.chmod(self.home.path, 0o755)
        self.assertEqual(kind, "permission_denied")

    def test_rename_replaces_files_and_names_the_path_that_failed(self):
        self.home.put("a", b"1")
        self.home.put("b", b"2")
        os.makedirs(self.home.at("d/e"))
        self.assertEqual(self.call("rename", path="a", to="b"), ({}, b""))
        self.assertEqual(self.home.get("b"), b"1")
        for path, to, kind, about in [
            ("missing", "c", "not_found", "missing"),
            ("b", "missing/c", "not_found", "missing/c"),
            ("b", "d", "is_a_directory", "d"),
            ("b", "b/c", "not_a_directory", "b/c"),
            ("d", "b", "not_a_directory", "b"),
            ("d", "d/e/f", "invalid_input", "d/e/f"),
        ]:
            error = self.assert_fails(kind, about, "rename", path=path, to=to)
            start = "cannot rename '%s' to '%s': " % (path, to)
            self.assertTrue(error.message.startswith(start), error.message)
        self.assert_fails("invalid_input", "", "rename", path="", to="c")
        self.assert_fails("invalid_input", "a\0", "rename", path="b", to="a\0")

    def test_permissions_are_set_through_links(self):
        self.home.put("a")
        os.symlink("a", self.home.at("link"))
        self.assertEqual(self.call("set_permissions", path="link", permissions=0o4751), ({}, b""))
        self.assertEqual(self.home.mode("a"), 0o4751)
        for permissions in (0o10000, 2**32 - 1):
            request = {"path": "a", "permissions": permissions}
            self.assert_fails("invalid_input", "a", "set_permissions", **request)
        self.assert_fails("not_found", "x", "set_permissions", path="x", permissions=0)
        for request in ({"path": "a"}, {"path": "a", "permissions": -1}):
            with self.assertRaises(BadRequest, msg=request):
                files.CHECKS["set_permissions"](request)

    def test_links_are_created(self):
        os.mkdir(self.home.at("d"))
        self.home.put("a", b"123")
        self.call("link", path="d/soft", target="../a", symbolic=True)
        self.call("link", path="d/hard", target="a", symbolic=False)
        self.call("link", path="dangling", target={"b64": "/w=="}, symbolic=True)
        # A hard link to a link refers to the link itself.
        self.call("link", path="second", target="dangling", symbolic=False)
        self.assertEqual(os.readlink(self.home.at("d/soft")), b"../a")
        self.assertEqual(os.readlink(self.home.at("second")), b"\xff")
        self.assertTrue(os.path.samefile(self.home.at("a"), self.home.at("d/hard")))

    def test_failed_links_name_the_path_that_failed(self):
        os.mkdir(self.home.at("d"))
        self.home.put("a")
        os.symlink("nowhere", self.home.at("dangling"))
        for path, target, symbolic, kind, about in [
            ("a", "x", True, "already_exists", "a"),
            ("missing/a", "x", True, "not_found", "missing/a"),
            ("dangling", "a", False, "already_exists", "dangling"),
            ("new", "missing", False, "not_found", "missing"),
            ("new", "d", False, "permission_denied", "d"),
            ("new", "a/b", False, "not_a_directory", "a/b"),
            ("new", "", True, "invalid_input", ""),
            ("new", "a\0", True, "invalid_input", "a\0"),
            ("new", "n" * 300, False, "invalid_input", "n" * 300),
        ]:
            request = {"path": path, "target": target, "symbolic": symbolic}
            self.assert_fails(kind, about, "link", **request)
        for request in ({"path": "a", "target": "b"}, {"path": "a", "symbolic": True}):
            with self.assertRaises(BadRequest, msg=request):
                files.CHECKS["link"](request)
