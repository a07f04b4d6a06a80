"""Tests of `connect`, `watch`, `ports`, `wait_for_port` and `metrics` through the whole program."""

import json
import os
import socket
import struct

from driver import Driver, DriverCase, sources

CONNECTED = b'{"event":"connected"}\n'


class ConnectTest(DriverCase):
    def setUp(self):
        super().setUp()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.listener.settimeout(30)
        self.port = self.listener.getsockname()[1]

    def connect(self, name):
        followed = self.driver.exec(
            name, builtin={"op": "connect", "port": self.port}, binary=True
        )
        self.driver.wait_for(lambda: followed.stdout == CONNECTED)
        peer, _ = self.listener.accept()
        self.addCleanup(peer.close)
        peer.settimeout(30)
        return followed, peer

    def test_each_direction_ends_by_itself(self):
        followed, peer = self.connect("a")
        self.driver.stdin("a", b"ping")
        self.assertEqual(peer.recv(10), b"ping")
        peer.sendall(b"pong")
        peer.shutdown(socket.SHUT_WR)
        self.driver.wait_for(lambda: "stdout" in followed.ended_streams)
        self.assertEqual(followed.stdout, CONNECTED + b"pong")
        self.assertIsNone(followed.last("_DONE"))
        self.driver.stdin("a", b"more", offset=4, eof=True)
        self.assertEqual(peer.recv(10), b"more")
        self.assertEqual(peer.recv(10), b"")
        self.assertEqual(self.driver.done("a")["result"], {})

    def test_a_reset_is_an_error_without_an_end_of_the_output(self):
        followed, peer = self.connect("a")
        peer.sendall(b"part")
        self.driver.wait_for(lambda: followed.stdout.endswith(b"part"))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        done = self.driver.done("a")
        self.assertEqual((done["reason"], done["error"]["kind"]), ("exited", "connection_reset"))
        self.assertNotIn("stdout", followed.ended_streams)

    def test_a_large_answer_arrives_although_the_window_is_full(self):
        followed, peer = self.connect("a")
        followed.acks = False
        peer.setblocking(False)
        content = os.urandom(3 << 20)
        sent = 0
        while len(followed.stdout) < len(CONNECTED) + len(content):
            try:
                sent += peer.send(content[sent : sent + 65536]) if sent < len(content) else 0
            except BlockingIOError:
                pass
            length = len(followed.stdout)
            self.driver.ack("a")
            self.driver.wait_for(lambda: len(followed.stdout) > length)
        self.assertEqual(followed.stdout, CONNECTED + content)

    def test_a_kill_resets_the_connection(self):
        followed, peer = self.connect("a")
        self.driver.kill("a")
        self.assertEqual(self.driver.done("a")["reason"], "killed")
        with self.assertRaises(ConnectionResetError):
            peer.recv(1)
        self.assertNotIn("stdout", followed.ended_streams)

    def test_a_port_on_which_nothing_listens_is_refused(self):
        # Nothing listens on a port that is only bound, and no other process can take it.
        with socket.socket() as keeper:
            keeper.bind(("127.0.0.1", 0))
            port = keeper.getsockname()[1]
            error, output = self.driver.builtin("a", "connect", port=port)
        self.assertEqual((error["kind"], output), ("connection_refused", b""))
        error, _ = self.driver.builtin("b", "connect", port=0)
        self.assertEqual(error["kind"], "invalid_input")
        self.driver.exec("c", builtin={"op": "connect", "port": 70000}, binary=True)
        self.assertIn("message", self.driver.status("c", "_ERROR"))

    def test_connections_beyond_the_limit_wait_for_their_turn(self):
        self.listener.listen(300)
        names = ["c%d" % number for number in range(257)]
        for name in names:
            self.driver.exec(name, builtin={"op": "connect", "port": self.port}, binary=True)
        connected = lambda name: self.driver.followed[name].stdout == CONNECTED
        self.driver.wait_for(lambda: sum(map(connected, names)) == 256)
        # Other operations don't wait.
        self.assertEqual(self.driver.builtin("list", "list", path="")[0], {})
        waiting = next(name for name in names if not connected(name))
        self.driver.kill(next(filter(connected, names)))
        self.driver.wait_for(lambda: connected(waiting))


class OthersTest(DriverCase):
    def test_a_watch_reports_changes_until_its_input_ends(self):
        os.mkdir(self.path("d"))
        followed = self.driver.exec(
            "a", builtin={"op": "watch", "path": "", "recursive": True}, binary=True
        )
        events = lambda: [json.loads(line) for line in followed.stdout.splitlines()]
        self.driver.wait_for(lambda: {"event": "ready"} in events())
        created = {"event": "created", "path": "d/new"}
        self.driver.exec("b", builtin={"op": "write", "path": "d/new"}, binary=True)
        self.driver.stdin("b", b"", eof=True)
        self.driver.wait_for(lambda: created in events())
        self.driver.stdin("a", b"", eof=True)
        self.assertEqual(self.driver.done("a")["result"], {})
        self.assertEqual(events(), [{"event": "ready"}, created])

    def test_a_kill_ends_a_watch_and_a_wait(self):
        keeper = socket.socket()
        self.addCleanup(keeper.close)
        keeper.bind(("127.0.0.1", 0))
        port = keeper.getsockname()[1]
        for name, builtin in (
            ("watch", {"op": "watch", "path": ""}),
            ("wait", {"op": "wait_for_port", "port": port}),
        ):
            self.driver.exec(name, builtin=builtin, binary=True)
            self.driver.status(name, "_RUNNING")
            self.driver.kill(name)
            self.assertEqual(self.driver.done(name)["reason"], "killed")

    def test_a_program_that_listens_is_found(self):
        code = """
import socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.readline()
listener.listen()
sys.stdin.readline()
"""
        program = self.driver.python("p", code)
        port = int(self.driver.wait_for(lambda: program.stdout.strip()))
        error, _ = self.driver.builtin("early", "wait_for_port", port=port, timeout_ms=20)
        self.assertEqual(error["kind"], "timed_out")
        self.driver.exec("wait", builtin={"op": "wait_for_port", "port": port}, binary=True)
        self.driver.status("wait", "_RUNNING")
        self.driver.stdin("p", b"\n")
        self.assertEqual(self.driver.done("wait")["result"], {})
        _, output = self.driver.builtin("ports", "ports")
        lines = [json.loads(line) for line in output.splitlines()]
        self.assertIn({"port": port, "address": "127.0.0.1"}, lines)
        self.driver.stdin("p", b"\n", offset=1)
        self.driver.done("p")

    def driver_alone(self):
        """A driver whose program measures only itself and its descendants, and its own files.
        Otherwise, in a container, it would measure all processes of the container."""
        modules = sources()
        self.assertIn("\ndef is_on_the_machine():\n", modules["metrics"])
        modules["metrics"] += "\n\ndef is_on_the_machine():\n    return True\n"
        env = dict(os.environ, HOME=self.home, TMPDIR=self.home)
        env.pop("PYTHONPATH", None)
        driver = Driver(modules=modules, env=env)
        self.addCleanup(driver.close)
        driver.hello()
        return driver

    def test_metrics_include_running_and_ended_execs(self):
        driver = self.driver_alone()
        before, _ = driver.builtin("a", "metrics")
        code = """
import time
while time.process_time() < 0.3: pass
print('ready', flush=True)
input()
"""
        program = driver.python("p", code)
        driver.wait_for(lambda: program.stdout)
        during, _ = driver.builtin("b", "metrics")
        driver.stdin("p", b"\n")
        driver.done("p")
        after, _ = driver.builtin("c", "metrics")
        for later in (during, after):
            self.assertGreaterEqual(later["cpu_ms"] - before["cpu_ms"], 290)
        self.assertGreater(during["processes"], after["processes"])
        self.assertGreater(after["uptime_ms"], before["uptime_ms"])
        self.assertIn("disk_bytes", after)
        self.assertIsInstance(after["limits"], dict)
