"""Builtins without an exec: input and output of a thread, turns, and threads that don't stop."""

import os
import threading
import unittest

from program import workers
from program.builtins import BuiltinError, BuiltinIO, Cancelled
from program.loop import GuardedLoop, Loop
from program.workers import Builtin, Operation, Turns, outcome_of


class BuiltinIOTest(unittest.TestCase):
    def setUp(self):
        self.inner_in, self.input = os.pipe()
        self.output, self.inner_out = os.pipe()
        self.open = {self.inner_in, self.input, self.output, self.inner_out}
        self.io = BuiltinIO(b"/home", self.inner_in, self.inner_out)

    def tearDown(self):
        for fd in self.open:
            os.close(fd)

    def close(self, fd):
        os.close(fd)
        self.open.remove(fd)

    def kill(self):
        self.io.cancel()
        self.close(self.input)

    def test_input_is_read_until_its_end(self):
        os.write(self.input, b"abc")
        self.assertEqual((self.io.read(2), self.io.read(9)), (b"ab", b"c"))
        self.assertFalse(self.io.input_ended())
        self.close(self.input)
        self.assertEqual((self.io.read(1), self.io.input_ended()), (b"", True))

    def test_the_end_of_input_by_a_kill_is_none(self):
        self.kill()
        with self.assertRaises(Cancelled):
            self.io.read(1)
        for call in (self.io.check, lambda: self.io.write(b"x"), lambda: self.io.wait([], 0)):
            with self.assertRaises(Cancelled):
                call()

    def test_a_kill_ends_a_wait(self):
        timer = threading.Timer(0.05, self.kill)
        timer.start()
        with self.assertRaises(Cancelled):
            self.io.wait([], 30)
        timer.join()

    def test_a_wait_ends_by_a_descriptor_the_time_or_the_end_of_input(self):
        reader, writer = os.pipe()
        self.open |= {reader, writer}
        self.assertEqual(self.io.wait([reader], 0.01), [])
        os.write(writer, b"x")
        self.assertEqual(self.io.wait([reader], 30), [reader])
        os.read(reader, 1)
        self.close(self.input)
        self.assertEqual(self.io.wait([reader], 30), [])
        self.assertTrue(self.io.input_ended())
        # After that, only the others end a wait.
        self.assertEqual(self.io.wait([reader], 0.01), [])

    def test_a_write_waits_for_the_reader(self):
        data = os.urandom(300_000)
        read = bytearray()

        def reader():
            while len(read) < len(data):
                read.extend(os.read(self.output, 1000))

        thread = threading.Thread(target=reader)
        thread.start()
        self.io.write(data)
        thread.join()
        self.assertEqual(bytes(read), data)


class OutcomeTest(unittest.TestCase):
    def outcome(self, perform):
        reader, writer = os.pipe()
        try:
            return outcome_of(perform, {}, BuiltinIO(b"/", reader, writer))
        finally:
            os.close(reader)
            os.close(writer)

    def raiser(self, error):
        def perform(request, io):
            raise error

        return perform

    def test_the_outcome_is_a_result_or_an_error(self):
        self.assertEqual(self.outcome(lambda request, io: {"n": 1}), {"result": {"n": 1}})
        error = self.outcome(self.raiser(BuiltinError("not_found", "why", b"\xff")))["error"]
        expected = {"kind": "not_found", "message": "why", "path": {"b64": "/w=="}}
        self.assertEqual(error, expected)
        error = self.outcome(self.raiser(OSError(28, "")))["error"]
        self.assertEqual(error["kind"], "no_space")
        self.assertIn("No space left", error["message"])
        error = self.outcome(self.raiser(ValueError("a bug")))["error"]
        self.assertEqual((error["kind"], "a bug" in error["message"]), ("other", True))

    def test_a_cancelled_operation_has_none(self):
        def perform(request, io):
            io.cancel()
            # What a kill closes may fail first.
            raise OSError(32, "")

        self.assertIsNone(self.outcome(perform))
        self.assertIsNone(self.outcome(self.raiser(Cancelled())))


class OperationTest(unittest.TestCase):
    def setUp(self):
        self.loop = Loop()
        self.errors = []
        self.guarded = GuardedLoop(self.loop, self.errors.append)
        self.exits = []

    def handle_exit(self, exit):
        self.exits.append(exit.outcome)
        self.loop.stop()

    def start(self, perform, turns=None):
        program = Operation(perform, {}, b"/")
        if turns is not None:
            program = Builtin(program, turns)
        program.start(self.guarded, lambda: None, self.handle_exit)
        return program

    def test_the_output_ends_before_the_exit_is_known(self):
        program = self.start(lambda request, io: io.write(b"x") or {})
        self.loop.run()
        self.assertEqual((os.read(program.stdout, 9), os.read(program.stdout, 9)), (b"x", b""))
        self.assertEqual(self.exits, [{"result": {}}])

    def test_a_thread_that_does_not_stop_fails_the_kill(self):
        stuck = threading.Event()
        program = self.start(lambda request, io: stuck.wait() and {})
        failures = []

        def handle_killed(failure):
            failures.append(failure)
            self.loop.stop()

        limit, workers.GIVE_UP_AFTER = workers.GIVE_UP_AFTER, 0.05
        try:
            program.kill(handle_killed)
        finally:
            workers.GIVE_UP_AFTER = limit
        self.loop.run()
        self.assertEqual(failures, [workers.DOES_NOT_STOP])
        stuck.set()
        self.loop.run()
        self.assertEqual(len(failures), 1)

    def test_a_turn_is_given_back_at_the_end(self):
        turns = Turns(1)
        go = threading.Event()
        self.start(lambda request, io: go.wait() and {"n": 1}, turns)
        self.start(lambda request, io: {"n": 2}, turns)
        waiting = self.start(lambda request, io: {"n": 3}, turns)
        killed = []
        waiting.kill(killed.append)
        self.assertEqual((killed, self.exits), ([None], [None]))
        go.set()
        while len(self.exits) < 3:
            self.loop.run()
        self.assertEqual(self.exits[1:], [{"result": {"n": 1}}, {"result": {"n": 2}}])
        self.start(lambda request, io: {"n": 4}, turns)
        self.loop.run()
        self.assertEqual((self.exits[-1], self.errors), ({"result": {"n": 4}}, []))


if __name__ == "__main__":
    unittest.main()
