"""The loop: descriptors, timers, threads, and errors of callbacks."""

import os
import threading
import time
import unittest
from unittest import mock

from program.loop import GuardedLoop, Loop


class LoopTest(unittest.TestCase):
    def setUp(self):
        self.loop = Loop()
        self.seen = []

    def pipe(self):
        ends = os.pipe()
        for fd in ends:
            os.set_blocking(fd, False)
        return ends

    def see(self, what, stop=False):
        def callback():
            self.seen.append(what)
            if stop:
                self.loop.stop()

        return callback

    def test_timers_fire_in_the_order_of_their_times(self):
        # The clock stands still, so that a pause between two calls doesn't change the order.
        with mock.patch.object(time, "monotonic", return_value=time.monotonic()):
            self.loop.call_later(0.02, self.see("late", stop=True))
            self.loop.call_later(0.0, self.see("first"))
            self.loop.call_later(0.01, self.see("second"))
            self.loop.call_later(0.005, self.see("cancelled")).cancel()
        self.loop.run()
        self.assertEqual(self.seen, ["first", "second", "late"])

    def test_a_thread_wakes_the_loop(self):
        call = self.see("call", stop=True)
        thread = threading.Thread(target=lambda: self.loop.call_from_thread(call))
        self.loop.call_soon(thread.start)
        self.loop.run()
        self.assertEqual(self.seen, ["call"])

    def test_a_descriptor_calls_back_until_that_is_stopped(self):
        reader, writer = self.pipe()
        os.write(writer, b"abc")

        def read():
            self.seen.append(os.read(reader, 1))
            if len(self.seen) == 2:
                self.loop.on_readable(reader, None)
                self.loop.call_later(0.01, self.loop.stop)

        self.loop.on_readable(reader, read)
        self.loop.run()
        self.assertEqual(self.seen, [b"a", b"b"])

    def test_one_descriptor_can_be_read_and_written(self):
        import socket

        one, other = socket.socketpair()
        other.send(b"x")
        self.loop.on_readable(one.fileno(), self.see("readable"))

        def writable():
            self.seen.append("writable")
            self.loop.on_writable(one.fileno(), None)
            self.loop.call_soon(self.loop.stop)

        self.loop.on_writable(one.fileno(), writable)
        self.loop.run()
        self.assertIn("readable", self.seen)
        self.assertEqual(self.seen.count("writable"), 1)
        one.close()
        other.close()

    def test_a_writer_learns_that_the_reader_is_gone(self):
        reader, writer = self.pipe()
        while True:
            try:
                os.write(writer, b"x" * 4096)
            except BlockingIOError:
                break
        os.close(reader)
        self.loop.on_writable(writer, self.see("gone", stop=True))
        self.loop.run()
        self.assertEqual(self.seen, ["gone"])

    def test_an_error_in_a_guarded_callback_goes_to_its_owner(self):
        errors = []

        def handle_error(error):
            errors.append(str(error))
            self.loop.stop()

        def fail():
            raise ValueError("why")

        GuardedLoop(self.loop, handle_error).call_later(0, fail)
        self.loop.run()
        self.assertEqual(errors, ["why"])


if __name__ == "__main__":
    unittest.main()
