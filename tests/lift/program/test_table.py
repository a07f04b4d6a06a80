"""The table: what is remembered, what is dropped, which limits apply, and internal errors."""

import unittest

from program import table as table_module
from program.loop import Loop
from program.programs import Exit, Program, StartError
from program.table import MAX_BUILTINS, REMEMBERED, Table


class FakeProgram(Program):
    """A program that ends when the test says so."""

    def __init__(self, is_builtin=False, output=b""):
        self.is_builtin = is_builtin
        self.greeting = output
        self.killed = False
        self.kill_failure = None
        self.on_exit = None

    def start(self, loop, on_started, on_exit):
        self.on_exit = on_exit
        on_started()

    def kill(self, on_killed):
        self.killed = True
        on_killed(self.kill_failure)


class BrokenProgram(FakeProgram):
    def close_stdin(self):
        raise ValueError("a bug")


class FakeLink:
    def __init__(self):
        self.sent = []
        self.output = []

    def ready(self, source):
        pass

    def send(self, message):
        self.sent.append(message)

    def send_output(self, *piece):
        self.output.append(piece)

    def last(self, exec_id):
        return [it for it in self.sent if it["exec"] == exec_id][-1]


class FakeProcesses:
    home = b"/"

    def __init__(self):
        self.programs = {}
        self.make = FakeProgram

    def program(self, request):
        program = self.make()
        if isinstance(program, Exception):
            raise program
        self.programs[request.exec] = program
        return program


class TableTest(unittest.TestCase):
    def setUp(self):
        self.link = FakeLink()
        self.processes = FakeProcesses()
        self.done = 0
        self.table = Table(Loop(), self.link, self.processes, self.count_done)
        # Builtins without their threads.
        self.table._operations.program = lambda builtin, table: self.builtin_program()

    def builtin_program(self):
        program = FakeProgram(is_builtin=True)
        self.processes.programs["last"] = program
        return program

    def count_done(self):
        self.done += 1

    def start(self, exec_id, **request):
        if not request:
            request = {"argv": ["program"]}
        self.table.handle(dict(request, exec=exec_id))
        self.send(exec_id)

    def send(self, exec_id):
        """Sends everything that there is to send about an exec."""
        it = self.table.find(exec_id)
        while it is not None and it.send_next(self.link):
            pass

    def end(self, exec_id, exit=None):
        self.processes.programs[exec_id].on_exit(exit or Exit(exit_code=0))
        self.send(exec_id)

    def ack(self, exec_id):
        self.table.handle({"event": "ack", "exec": exec_id, "done": True})

    def reconnect(self, exec_id):
        self.table.handle({"action": "reconnect", "exec": exec_id})
        self.send(exec_id)
        return self.link.last(exec_id)

    def test_the_last_thousand_ends_are_remembered(self):
        for number in range(REMEMBERED + 10):
            self.start("e%d" % number)
            self.end("e%d" % number, Exit(exit_code=number % 256))
        self.assertEqual(self.reconnect("e9")["reason"], "sandbox_lost")
        self.assertEqual(self.reconnect("e10")["exit_code"], 10)
        self.assertEqual(self.done, REMEMBERED + 10)

    def test_a_running_exec_is_remembered_however_old_it_is(self):
        self.start("old")
        for number in range(REMEMBERED + 1):
            self.start("e%d" % number)
            self.end("e%d" % number)
        self.assertEqual(self.reconnect("old")["status"], "SANDBOX_EXECUTION_RUNNING")

    def test_too_much_output_of_ended_execs_is_dropped_the_oldest_first(self):
        self.processes.make = lambda: FakeProgram(output=b"x" * 1000)
        limit, table_module.MAX_KEPT = table_module.MAX_KEPT, 10_000
        try:
            for number in range(15):
                self.start("e%d" % number)
                self.end("e%d" % number)
        finally:
            table_module.MAX_KEPT = limit
        lost = self.reconnect("e4")
        self.assertEqual(lost["status"], "SANDBOX_EXECUTION_DONE")
        self.assertEqual(lost["reason"], "sandbox_lost")
        self.assertIn("output is gone", lost["message"])
        self.assertNotIn("stdout", lost)
        self.assertEqual(self.reconnect("e5")["reason"], "exited")

    def test_a_client_that_waits_for_dropped_output_is_told_a_second_time(self):
        self.processes.make = lambda: FakeProgram(output=b"x" * 5000)
        self.start("a", argv=["program"], window=1024)
        self.end("a")
        self.assertEqual(self.link.last("a")["stdout"], 5000)
        self.table.find("a").abandon_output("why")
        self.send("a")
        self.assertEqual(self.link.last("a")["reason"], "sandbox_lost")
        # A client that has everything is not told again.
        self.start("b", argv=["program"])
        self.end("b")
        count = len(self.link.sent)
        self.table.find("b").abandon_output("why")
        self.send("b")
        self.assertEqual(len(self.link.sent), count)

    def test_builtins_are_limited_and_never_forgotten(self):
        for number in range(MAX_BUILTINS):
            self.start("b%d" % number, builtin={"op": "metadata"})
            self.end("last", Exit(outcome={"result": {"n": number}}))
        self.start("more", builtin={"op": "metadata"})
        self.assertEqual(self.link.last("more")["status"], "SANDBOX_EXECUTION_ERROR")
        self.assertIn("too many operations", self.link.last("more")["message"])
        # Those that run without end count apart.
        self.start("watch", builtin={"op": "watch"})
        self.assertEqual(self.link.last("watch")["status"], "SANDBOX_EXECUTION_RUNNING")
        for number in range(REMEMBERED + 5):
            self.start("e%d" % number)
            self.end("e%d" % number)
        self.assertEqual(self.reconnect("b0")["result"], {"n": 0})
        self.ack("b0")
        self.start("more", builtin={"op": "metadata"})
        self.assertEqual(self.link.last("more")["status"], "SANDBOX_EXECUTION_RUNNING")

    def test_busy_execs_are_programs_and_builtins_that_end(self):
        self.start("p")
        self.start("w", builtin={"op": "watch"})
        self.start("m", builtin={"op": "metadata"})
        self.assertEqual(self.table.count_busy(), 2)
        self.end("last", Exit(outcome={"result": {}}))
        self.end("p")
        self.assertEqual(self.table.count_busy(), 0)
        self.assertFalse(self.table.is_busy(True), "a watch does not count")
        self.assertFalse(self.table.are_all_done())

    def test_what_can_not_start_leaves_nothing(self):
        self.processes.make = lambda: StartError("why")
        self.start("a")
        self.assertEqual(self.link.last("a")["message"], "why")
        self.processes.make = lambda: ValueError("a bug")
        self.start("a")
        self.assertIn("a bug", self.link.last("a")["message"])
        self.assertFalse(self.table.is_busy(True))
        self.processes.make = FakeProgram
        self.start("a")
        self.assertEqual(self.link.last("a")["status"], "SANDBOX_EXECUTION_RUNNING")

    def test_an_internal_error_ends_only_its_exec(self):
        self.start("fine")
        self.processes.make = BrokenProgram
        self.start("a")
        program = self.processes.programs["a"]
        self.end("a")
        lost = self.link.last("a")
        self.assertEqual(lost["status"], "SANDBOX_EXECUTION_DONE")
        self.assertEqual(lost["reason"], "sandbox_lost")
        self.assertIn("a bug", lost["message"])
        self.assertTrue(program.killed)
        self.end("fine")
        self.assertEqual(self.link.last("fine")["exit_code"], 0)
        self.assertEqual(self.table.count_busy(), 0)

    def test_an_error_in_the_handling_of_a_message_ends_only_its_exec(self):
        self.start("a")
        self.table.find("a").output.ack = None
        self.table.handle({"event": "ack", "exec": "a", "stdout": 5})
        self.send("a")
        self.assertEqual(self.link.last("a")["reason"], "sandbox_lost")

    def test_a_failed_kill_is_an_error_and_abandons_the_process(self):
        self.start("a")
        self.processes.programs["a"].kill_failure = "it resists"
        self.table.handle({"action": "kill_process", "exec": "a"})
        self.send("a")
        error, done = self.link.sent[-2:]
        self.assertEqual(error["status"], "SANDBOX_EXECUTION_FORCE_KILL_ERROR")
        self.assertEqual(error["message"], "it resists")
        self.assertEqual((done["status"], done["reason"]), ("SANDBOX_EXECUTION_DONE", "killed"))
        self.end("a")
        self.assertEqual(self.link.sent[-1], done, "a late exit changes nothing")

    def test_answers_to_many_kills_are_bounded(self):
        self.start("a")
        self.end("a")
        count = len(self.link.sent)
        for _ in range(1000):
            self.table.handle({"action": "kill_process", "exec": "a"})
        self.send("a")
        self.assertTrue(1 <= len(self.link.sent) - count <= 64)


if __name__ == "__main__":
    unittest.main()
