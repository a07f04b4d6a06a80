import unittest

from program import paths
from program.builtins import BuiltinError
from program.requests import BadRequest, Repeating


class PathsTest(unittest.TestCase):
    def test_paths_survive_json(self):
        for path in (b"a/b", b"", b"\xff\xfe", "ü".encode(), b"a\n"):
            value = paths.encode(path)
            paths.check_path({"path": value}, "path")
            self.assertEqual(paths.decode(value), path)
        self.assertEqual(paths.encode(b"\xff"), {"b64": "/w=="})
        self.assertEqual(paths.encode("ü".encode()), "ü")

    def test_values_that_are_no_paths_are_bad_requests(self):
        bad = [None, 5, True, [], {}, {"b64": 5}, {"b64": "/w"}, {"b64": "/w==\n"}]
        bad += [{"b64": "/x=="}, {"b64": "é"}, {"other": "/w=="}, "\ud800"]
        bad += [Repeating({"b64": "/w=="})]
        for value in bad:
            with self.assertRaises(BadRequest, msg=repr(value)):
                paths.check_path({"path": value}, "path")
        with self.assertRaises(BadRequest):
            paths.check_path({}, "path")

    def test_paths_that_no_file_can_have_are_invalid(self):
        for path in (b"", b"a\0b", b"d/" + b"n" * 256):
            with self.assertRaises(BuiltinError) as caught:
                paths.resolve("read", path, b"/home")
            self.assertEqual(caught.exception.kind, "invalid_input")
            self.assertEqual(caught.exception.path, path)
            self.assertTrue(caught.exception.message.startswith("cannot read '"))

    def test_relative_paths_start_at_the_home(self):
        cases = [(b"a", b"/home/a"), (b"/a", b"/a"), (b"../a", b"/home/../a"), (b"", b"/home/")]
        for path, expected in cases:
            self.assertEqual(paths.resolve("list", path, b"/home", True), expected)

    def test_messages_show_other_bytes_as_replacement_characters(self):
        error = paths.Subject("read", b"a\xff").invalid("reason")
        self.assertEqual(error.message, "cannot read 'a\ufffd': reason")
        self.assertEqual(error.path, b"a\xff")
