"""Tests of connections: a `Connection` on a loop, driven as an exec drives it."""

import contextlib
import os
import queue
import socket
import struct
import threading
import unittest
from unittest import mock

from program import connection
from program.connection import Connection
from program.loop import Loop

CONNECTED = b'{"event":"connected"}\n'
SECONDS = 60


class Driver:
    """Runs a loop in a thread, with one connection that stands for an exec."""

    def __init__(self, port):
        self.loop = Loop()
        self.program = Connection(port)
        self.exit = queue.Queue()
        self._exits = 0
        self._has_started = threading.Event()
        self.program.start(self.loop, self._started, self._exited)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _started(self):
        # Sockets with a timeout wait, although the descriptors don't block.
        self.stdin = socket.socket(fileno=os.dup(self.program.stdin))
        self.stdout = socket.socket(fileno=self.program.stdout)
        for stream in (self.stdin, self.stdout):
            stream.settimeout(SECONDS)
        self._has_started.set()

    def _exited(self, exit):
        self._exits += 1
        self.program.close_stdin()
        self.exit.put(exit)

    def close(self):
        """Ends the connection and the loop. Fails if the connection ended twice."""
        self.kill()
        self.loop.call_from_thread(self.loop.stop)
        self._thread.join(SECONDS)
        for stream in ("stdin", "stdout"):
            if hasattr(self, stream):
                getattr(self, stream).close()
        assert self._exits == 1

    def connected(self):
        """Waits for the connection, and for the line that reports it."""
        assert self._has_started.wait(SECONDS)
        line = b""
        while len(line) < len(CONNECTED):
            line += self.stdout.recv(len(CONNECTED) - len(line))
        assert line == CONNECTED
        return self

    def send(self, data):
        self.stdin.sendall(data)

    def end_input(self):
        self.loop.call_from_thread(self.program.close_stdin)

    def kill(self):
        killed = queue.Queue()
        self.loop.call_from_thread(lambda: self.program.kill(killed.put))
        return killed.get(timeout=SECONDS)

    def outcome(self):
        return self.exit.get(timeout=SECONDS).outcome


def receive(stream, size=None):
    """Reads up to a number of bytes, or to the end."""
    received = bytearray()
    while size is None or len(received) < size:
        piece = stream.recv(65536 if size is None else size - len(received))
        if not piece:
            break
        received += piece
    return bytes(received)


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


class ConnectionCase(unittest.TestCase):
    def listen(self, address="127.0.0.1", family=socket.AF_INET):
        listener = socket.socket(family, socket.SOCK_STREAM)
        self.addCleanup(listener.close)
        listener.settimeout(SECONDS)
        listener.bind((address, 0))
        listener.listen()
        return listener

    def start(self, port):
        driver = Driver(port)
        self.addCleanup(driver.close)
        return driver

    def connect(self, listener):
        """Connects to a listener. Returns the driver and the socket of the peer."""
        driver = self.start(listener.getsockname()[1])
        peer, _ = listener.accept()
        self.addCleanup(peer.close)
        peer.settimeout(SECONDS)
        return driver.connected(), peer


class DirectionsTest(ConnectionCase):
    def test_both_directions_move_bytes_until_they_end(self):
        listeners = [self.listen()]
        if socket.has_ipv6:
            listeners.append(self.listen("::1", socket.AF_INET6))
        for listener in listeners:
            driver, peer = self.connect(listener)
            driver.send(b"ping")
            driver.end_input()
            self.assertEqual(receive(peer), b"ping")
            # The direction from the peer is still open.
            peer.sendall(b"pong")
            peer.close()
            self.assertEqual(receive(driver.stdout), b"pong")
            self.assertEqual(driver.outcome(), {"result": {}})

    def test_the_end_of_the_direction_from_the_peer_ends_the_output_alone(self):
        driver, peer = self.connect(self.listen())
        peer.sendall(b"all")
        peer.shutdown(socket.SHUT_WR)
        self.assertEqual(receive(driver.stdout), b"all")
        self.assertTrue(driver.exit.empty())
        driver.stdout.close()
        driver.send(b"more")
        driver.end_input()
        self.assertEqual(receive(peer), b"more")
        self.assertEqual(driver.outcome(), {"result": {}})

    def test_neither_direction_waits_for_the_other(self):
        size = 8 << 20
        driver, peer = self.connect(self.listen())

        # Each side writes more than any buffer holds before it reads.
        def send_from_the_peer():
            peer.sendall(b"1" * size)
            peer.shutdown(socket.SHUT_WR)

        def send_from_the_client():
            driver.send(b"2" * size)
            driver.end_input()

        threads = [
            threading.Thread(target=send_from_the_peer),
            threading.Thread(target=send_from_the_client),
        ]
        for thread in threads:
            thread.start()
        self.assertTrue(receive(peer) == b"2" * size)
        self.assertTrue(receive(driver.stdout) == b"1" * size)
        for thread in threads:
            thread.join()
        self.assertEqual(driver.outcome(), {"result": {}})

    def test_bytes_keep_their_values_and_their_order(self):
        driver, peer = self.connect(self.listen())
        content = os.urandom(100000)
        driver.send(content)
        self.assertEqual(receive(peer, len(content)), content)
        peer.sendall(content)
        self.assertEqual(receive(driver.stdout, len(content)), content)

    def test_an_idle_connection_takes_no_time(self):
        driver, peer = self.connect(self.listen())
        peer.shutdown(socket.SHUT_WR)
        receive(driver.stdout)
        times = os.times()
        with self.assertRaises(queue.Empty):
            driver.exit.get(timeout=0.3)
        later = os.times()
        self.assertLess(later.user + later.system - times.user - times.system, 0.1)


class FailuresTest(ConnectionCase):
    def assert_error(self, driver, kind, text):
        error = driver.outcome()["error"]
        self.assertEqual(error["kind"], kind, error)
        self.assertIn(text, error["message"])

    def test_a_port_on_which_nothing_listens_is_refused(self):
        keeper = socket.socket()
        self.addCleanup(keeper.close)
        keeper.bind(("127.0.0.1", 0))
        port = keeper.getsockname()[1]
        text = "cannot connect to port %d: nothing listens on it" % port
        self.assert_error(self.start(port), "connection_refused", text)
        self.assert_error(self.start(0), "invalid_input", "port 0: a port is a number")

    def test_a_connection_to_itself_counts_as_refused(self):
        itself = socket.socket()
        self.addCleanup(itself.close)
        itself.bind(("127.0.0.1", 0))
        itself.connect(itself.getsockname())
        self.assertTrue(connection.is_connected_to_itself(itself))
        listener = self.listen()
        other = socket.create_connection(listener.getsockname())
        self.addCleanup(other.close)
        self.assertFalse(connection.is_connected_to_itself(other))

    def test_a_connection_that_is_not_accepted_times_out(self):
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with contextlib.ExitStack() as waiting:
            # These fill the queue of the listener.
            for _ in range(10):
                each = waiting.enter_context(socket.socket())
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            with mock.patch.object(connection, "DIAL_LIMIT", 0.05):
                driver = self.start(listener.getsockname()[1])
                self.assert_error(driver, "timed_out", "was not accepted within")

    def test_a_reset_is_an_error_after_the_bytes_before_it(self):
        driver, peer = self.connect(self.listen())
        peer.sendall(b"part")
        self.assertEqual(receive(driver.stdout, 4), b"part")
        reset(peer)
        self.assert_error(driver, "connection_reset", "was reset")
        self.assertEqual(receive(driver.stdout), b"")

    def test_an_answer_to_a_request_that_was_not_read_arrives(self):
        driver, peer = self.connect(self.listen())
        driver.send(b"request" * 1000)
        peer.recv(1)
        peer.sendall(b"a" * 30000)
        # The kernel resets a connection that is closed with unread bytes.
        peer.close()
        self.assertEqual(receive(driver.stdout), b"a" * 30000)
        self.assert_error(driver, "connection_reset", "was reset")

    def test_a_reset_after_the_end_of_the_answer_is_an_error(self):
        driver, peer = self.connect(self.listen())
        peer.sendall(b"all")
        peer.shutdown(socket.SHUT_WR)
        self.assertEqual(receive(driver.stdout), b"all")
        driver.send(b"request")
        peer.recv(1)
        reset(peer)
        driver.end_input()
        self.assert_error(driver, "connection_reset", "was reset")

    def test_a_connection_without_descriptors_left_is_an_error(self):
        listener = self.listen()
        full = OSError(24, "Too many open files")
        with mock.patch.object(connection.socket, "socketpair", side_effect=full):
            driver = self.start(listener.getsockname()[1])
            self.assert_error(driver, "other", "Too many open files")


class KillsTest(ConnectionCase):
    def test_a_kill_resets_an_idle_connection(self):
        driver, peer = self.connect(self.listen())
        self.assertIsNone(driver.kill())
        self.assertIsNone(driver.outcome())
        with self.assertRaises(ConnectionResetError):
            peer.recv(1)
        self.assertEqual(receive(driver.stdout), b"")

    def test_a_kill_before_the_connection_is_open_ends_it(self):
        listener = self.listen()
        program, exits = Connection(listener.getsockname()[1]), []
        loop = Loop()
        program.start(loop, self.fail, exits.append)
        program.kill(exits.append)
        loop.call_soon(loop.stop)
        loop.run()
        self.assertEqual([getattr(it, "outcome", it) for it in exits], [None, None])
        listener.setblocking(False)
        with self.assertRaises(BlockingIOError):
            listener.accept()

    def test_a_kill_after_the_end_changes_nothing(self):
        driver, peer = self.connect(self.listen())
        peer.close()
        driver.end_input()
        self.assertEqual(driver.outcome(), {"result": {}})
        self.assertIsNone(driver.kill())
