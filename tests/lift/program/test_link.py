"""The lines of the link: numbers, links that begin anew, broken ones, and what was taken."""

import json
import os
import unittest

from program.link import FULL, MAX_LINE, Link, LineReader
from program.loop import Loop


class Receiver:
    def __init__(self):
        self.hellos = []
        self.messages = []
        self.ended = False

    def handle_hello(self, message):
        self.hellos.append(message)

    def handle_message(self, message):
        self.messages.append(message)

    def handle_end(self):
        self.ended = True


class Source:
    """Sends a number of pieces of output when there is room."""

    def __init__(self, pieces):
        self.pieces = pieces

    def send_next(self, link):
        if not self.pieces:
            return False
        self.pieces -= 1
        link.send_output("stdout", "e", 0, b"x" * 48 * 1024, False)
        return True


class LinkTest(unittest.TestCase):
    def setUp(self):
        self.loop = Loop()
        self.receiver = Receiver()
        stdin, self.input = os.pipe()
        self.output, stdout = os.pipe()
        os.set_blocking(self.output, False)
        self.descriptors = [stdin, self.input, self.output, stdout]
        self.link = Link(self.loop, stdin, stdout, self.receiver)
        self.link.start(b"")

    def tearDown(self):
        for fd in self.descriptors:
            os.close(fd)

    def feed(self, *lines):
        """Writes lines and lets the link handle them."""
        for line in lines:
            data = line if isinstance(line, bytes) else line.encode()
            rest = data + b"\n"
            while rest:
                rest = rest[os.write(self.input, rest[: 32 * 1024]) :]
                self.turn()

    def turn(self):
        """Runs 20 rounds of the loop, more than the link needs for its input."""

        def go_on(left):
            self.loop.call_soon((lambda: go_on(left - 1)) if left else self.loop.stop)

        go_on(20)
        self.loop.run()

    def written(self):
        """The lines that the link wrote."""
        data = b""
        while True:
            try:
                data += os.read(self.output, 1 << 20)
            except BlockingIOError:
                break
            self.turn()
        return [line for line in data.split(b"\n") if line]

    def messages(self):
        return [json.loads(line.split(b" ", 2)[2]) for line in self.written()]

    def hello(self, name="a"):
        return '0 {"lift":"hello","link":"%s"}' % name

    def test_only_a_hello_counts_at_first(self):
        self.feed("", "junk", '0 {"lift":"ping"}', '1 {"lift":"ping"}', "0 {", b"\xff")
        self.assertEqual((self.receiver.messages, self.written()), ([], []))
        self.feed(self.hello(), '1 {"n":1}', '2 {"n":"\u00e9"}')
        self.assertEqual(len(self.receiver.hellos), 1)
        self.assertEqual(self.receiver.messages, [{"n": 1}, {"n": "\u00e9"}])

    def test_lines_to_the_client_carry_the_link_and_numbers(self):
        self.feed(self.hello("l1"))
        self.link.send({"text": "é"})
        self.link.send_output("stderr", "é", 7, b"\xff", True)
        self.turn()
        expected = [
            b'l1 0 {"text":"\\u00e9"}',
            b'l1 1 {"event":"stderr","exec":"\\u00e9","offset":7,"data_b64":"/w==","eof":true}',
        ]
        self.assertEqual(self.written(), expected)

    def test_a_bad_line_breaks_the_link_until_the_next_hello(self):
        bad = [
            '2 {"n":1}',
            '0 {"n":1}',
            "",
            "1 x",
            "1 []",
            'x {"n":1}',
            '1 {"n":1',
            "1 " + "[" * 100_000,
            b"1 \xff",
            "1 " + " " * MAX_LINE,
        ]
        for number, line in enumerate(bad):
            self.feed(self.hello("b%d" % number), line, '1 {"n":1}', "2 {}")
            messages = [it for it in self.messages() if it["lift"] != "taken"]
            self.assertEqual([it["lift"] for it in messages], ["broken"])
            self.assertIn("line", messages[0]["reason"])
            self.assertEqual(self.receiver.messages, [], line[:20])
        self.feed(self.hello(), '1 {"n":2}')
        self.assertEqual(self.receiver.messages, [{"n": 2}])

    def test_a_hello_after_half_a_line_begins_a_new_link(self):
        self.feed(self.hello("a"), '1 {"n":1}')
        os.write(self.input, b'2 {"event":"std')
        self.feed("", self.hello("b"), '1 {"n":2}')
        self.assertEqual(self.receiver.messages, [{"n": 1}, {"n": 2}])
        self.link.send({})
        self.turn()
        # The half line broke the old link.
        broken, first = self.written()
        self.assertTrue(broken.startswith(b'a 0 {"lift":"broken"'))
        self.assertEqual(first, b"b 0 {}")

    def test_queued_lines_of_an_old_link_are_dropped(self):
        self.feed(self.hello("old"))
        source = Source(20)
        self.link.ready(source)
        self.turn()
        self.assertGreater(source.pieces, 0, "the pipe is full")
        self.feed("", self.hello("new"))
        self.link.send({})
        written = self.written()
        self.assertEqual(written[-1], b"new 0 {}")
        self.assertLess(len(written), 5)
        # The line that was written in part ends at its last byte.
        self.assertTrue(all(line.startswith((b"old ", b"new ")) for line in written))

    def test_output_waits_while_much_is_queued_and_messages_do_not(self):
        self.feed(self.hello())
        source = Source(100)
        self.link.ready(source)
        self.turn()
        unsent = source.pieces
        self.assertGreater(unsent, 100 - FULL // 65536 - 4)
        self.link.send({"lift": "pong"})
        lines = self.written()
        self.assertEqual(source.pieces, 0)
        pong = [number for number, line in enumerate(lines) if b"pong" in line][0]
        self.assertLessEqual(pong, 100 - unsent)

    def test_sources_take_turns(self):
        self.feed(self.hello())
        one, other = Source(50), Source(50)
        self.link.ready(one)
        self.link.ready(other)
        self.turn()
        self.assertAlmostEqual(one.pieces, other.pieces, delta=1)

    def test_taken_bytes_are_reported_every_64_kib(self):
        hello = self.hello()
        line = '1 {"x":"%s"}' % ("y" * 70_000)
        self.feed("junk", hello, line)
        total = len(hello) + 1 + len(line) + 1
        reported = [it["bytes"] for it in self.messages()]
        self.assertEqual(len(reported), 1)
        self.assertTrue(65536 <= reported[0] <= total)
        self.feed('2 {"x":"%s"}' % ("y" * 70_000))
        self.assertEqual(len(self.messages()), 1)

    def test_a_line_that_is_longer_than_what_may_be_in_flight_is_reported_in_parts(self):
        self.feed(self.hello())
        line = b'1 {"x":"' + b"y" * 300_000
        for start in range(0, len(line), 32 * 1024):
            os.write(self.input, line[start : start + 32 * 1024])
            self.turn()
        self.assertGreaterEqual(self.messages()[-1]["bytes"], 300_000 - 65536)

    def test_the_end_of_stdin_is_reported_once(self):
        os.close(self.input)
        self.descriptors.remove(self.input)
        self.turn()
        self.assertTrue(self.receiver.ended)

    def test_a_client_that_does_not_read_stdout_ends_the_link(self):
        self.feed(self.hello())
        os.close(self.output)
        self.descriptors.remove(self.output)
        self.link.send({})
        self.turn()
        self.assertTrue(self.receiver.ended)


class LineReaderTest(unittest.TestCase):
    def test_lines_are_found_however_they_are_cut(self):
        data = b"one\n\nthree\nfour"
        for step in range(1, len(data)):
            reader = LineReader(100)
            lines = []
            for start in range(0, len(data), step):
                lines += reader.lines(data[start : start + step])
            self.assertEqual(lines, [b"one", b"", b"three"])

    def test_a_line_over_the_limit_is_none_and_the_next_is_read(self):
        reader = LineReader(4)
        lines = list(reader.lines(b"12345")) + list(reader.lines(b"6789\n1234\n12345\nab\n"))
        self.assertEqual(lines, [None, b"1234", None, b"ab"])


if __name__ == "__main__":
    unittest.main()
