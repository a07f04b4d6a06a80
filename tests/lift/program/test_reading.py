import os
import socket

from fake_io import FakeIO
from file_case import FileCase, as_user

from program.builtins import BuiltinError, Cancelled
from program.requests import BadRequest
from program.reading import MAX_UNSIZED
from program import files, reading


class ReadTest(FileCase):
    def read(self, **request):
        result, output = self.call("read", **request)
        self.assertEqual(result, {"bytes": len(output), "entries": 1})
        return output

    def test_reads_the_requested_range(self):
        content = bytes(range(256)) * 4000
        self.home.put("a", content)
        self.assertEqual(self.read(path="a"), content)
        self.assertEqual(self.read(path={"b64": "YQ=="}), content)
        for offset, length, expected in [
            (100_000, 700_000, content[100_000:800_000]),
            (1_023_999, None, content[-1:]),
            (1_023_995, 2**64 - 1, content[-5:]),
            (1_024_000, 5, b""),
            (1_024_001, None, b""),
            (2**63, 1, b""),
            (2**64 - 1, None, b""),
            (2**64 - 1, 2**64 - 1, b""),
            (3, 0, b""),
        ]:
            request = {"path": "a", "offset": offset, "length": length}
            self.assertEqual(self.read(**request), expected, (offset, length))

    def test_reads_names_of_any_bytes_and_through_links(self):
        self.home.put(b"\xff \n", b"content")
        self.assertEqual(self.read(path={"b64": "/yAK"}), b"content")
        os.symlink(b"\xff \n", self.home.at("link"))
        self.assertEqual(self.read(path="link"), b"content")
        self.home.put("empty")
        self.assertEqual(self.read(path="empty"), b"")

    def test_reads_files_without_a_size(self):
        self.assertTrue(self.read(path="/proc/self/status").startswith(b"Name:"))
        self.assertEqual(self.read(path="/proc/self/status", offset=5, length=1), b"\t")

    def test_a_file_without_a_size_and_too_much_content_is_refused(self):
        self.home.put("large", b"x" * (MAX_UNSIZED + 1))
        file = os.open(self.home.at("large"), os.O_RDONLY)
        self.addCleanup(os.close, file)
        subject = reading.paths.Subject("read", b"large")
        reading.refuse_more(subject, file, MAX_UNSIZED + 1)
        with self.assertRaises(BuiltinError) as caught:
            reading.refuse_more(subject, file, MAX_UNSIZED)
        self.assertEqual(caught.exception.kind, "too_large")

    def test_what_is_not_a_regular_file_is_refused(self):
        os.mkfifo(self.home.at("fifo"))
        os.mkdir(self.home.at("dir"))
        os.symlink("loop", self.home.at("loop"))
        self.home.put("file")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.home.at("socket"))
            for path, kind in [
                ("missing", "not_found"),
                ("missing/below", "not_found"),
                ("fifo", "not_a_file"),
                ("socket", "not_a_file"),
                ("/dev/zero", "not_a_file"),
                ("dir", "is_a_directory"),
                (".", "is_a_directory"),
                ("file/x", "not_a_directory"),
                ("loop", "other"),
                ("", "invalid_input"),
                ("a\0b", "invalid_input"),
                ("n" * 300, "invalid_input"),
                ("d/" * 2_499 + "ab", "invalid_input"),
            ]:
                error = self.assert_fails(kind, path, "read", path=path)
                self.assertTrue(error.message.startswith("cannot read '%s': " % path))

    def test_a_file_that_may_not_be_read_is_denied(self):
        self.home.put("closed", b"1")
        os.chmod(self.home.at("closed"), 0)
        error = as_user(lambda: self.error_of("read", path="closed").kind)
        self.assertEqual(error, "permission_denied")

    def test_a_file_that_grows_is_read_up_to_its_old_size(self):
        self.home.put("a", b"x" * 500_000)

        def grow(_):
            with open(self.home.at("a"), "ab") as file:
                file.write(b"more")

        io = FakeIO(self.home.path, on_write=grow)
        result = files.OPERATIONS["read"]({"path": "a"}, io)
        self.assertEqual((result["bytes"], bytes(io.output)), (500_000, b"x" * 500_000))

    def test_a_file_that_shrinks_is_read_up_to_its_new_end(self):
        self.home.put("a", b"x" * 3_000_000)
        shrink = lambda _: os.truncate(self.home.at("a"), 300_000)
        io = FakeIO(self.home.path, on_write=shrink)
        result = files.OPERATIONS["read"]({"path": "a"}, io)
        self.assertEqual((result["bytes"], bytes(io.output)), (300_000, b"x" * 300_000))

    def test_a_cancellation_ends_a_read_whose_output_is_not_read(self):
        self.home.put("a", b"x" * 1_000_000)
        io = FakeIO(self.home.path, window=1)
        running = self.start(io, "read", path="a")
        io.wait_for_output(1)
        io.cancel()
        with self.assertRaises(Cancelled):
            running.result()
        self.assertLess(len(io.output), 1_000_000)

    def test_values_of_a_wrong_type_are_bad_requests(self):
        for request in [
            {},
            {"path": "a", "offset": -1},
            {"path": "a", "offset": 2**64},
            {"path": "a", "offset": 1.0},
            {"path": "a", "length": True},
            {"path": "a", "length": "1"},
        ]:
            with self.assertRaises(BadRequest, msg=request):
                files.CHECKS["read"](request)
        files.CHECKS["read"]({"path": "a", "offset": None, "length": 2**64 - 1, "new": 1})
