"""Tests of listing ports and of waiting for one."""

import json
import socket
import sys
import unittest

from fake_io import FakeIO, Running

from program import ports
from program.builtins import BuiltinError, Cancelled
from program.requests import BadRequest


def listen(address, family=socket.AF_INET, port=0):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, port))
    listener.listen()
    return listener


def bound():
    """A socket that keeps a port, on which it doesn't listen, and the port."""
    keeper = socket.socket()
    keeper.bind(("127.0.0.1", 0))
    return keeper, keeper.getsockname()[1]


class TablesTest(unittest.TestCase):
    def test_lines_that_show_no_listener_are_ignored(self):
        for line in (
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt",
            "   1: 0100007F:1F90 0100007F:8C4E 01 00000000:00000000 00:00000000 00000000",
            "",
            "0:",
            "0: 0100007F 0 0A",
            "0: 01:50 0 0A",
            "0: é100007F:50 0 0A",
            "0: 0100007F:1FFFF 0 0A",
        ):
            self.assertIsNone(ports.parse(line), line)

    @unittest.skipIf(sys.byteorder == "big", "the tables have the byte order of the machine")
    def test_the_port_and_the_address_of_a_listener_are_parsed(self):
        four = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000"
        self.assertEqual(ports.parse(four), (8080, bytes([127, 0, 0, 1])))
        local, every = "0" * 24 + "01000000", "0" * 32
        six = "   0: %s:0050 %s:0000 0A 0" % (local, every)
        self.assertEqual(ports.parse(six), (80, bytes(15) + b"\1"))

    def test_connect_reaches_local_addresses_and_all_addresses(self):
        for address, is_reachable in (
            ("127.0.0.1", True),
            ("0.0.0.0", True),
            ("127.0.0.2", False),
            ("10.0.0.1", False),
        ):
            packed = socket.inet_aton(address)
            self.assertEqual(ports.is_reachable(packed), is_reachable, address)
            mapped = socket.inet_pton(socket.AF_INET6, "::ffff:" + address)
            self.assertEqual(ports.is_reachable(mapped), is_reachable, address)
        for address, is_reachable in (("::1", True), ("::", True), ("fe80::1", False)):
            packed = socket.inet_pton(socket.AF_INET6, address)
            self.assertEqual(ports.is_reachable(packed), is_reachable, address)


class PortsTest(unittest.TestCase):
    def listed(self):
        io = FakeIO()
        self.assertEqual(ports.OPERATIONS["ports"]({}, io), {})
        lines = [json.loads(line) for line in bytes(io.output).splitlines()]
        return [(line["port"], line["address"]) for line in lines]

    def test_ports_that_listen_are_listed_with_their_address(self):
        listeners = [listen("127.0.0.1"), listen("0.0.0.0")]
        if socket.has_ipv6:
            listeners.append(listen("::1", socket.AF_INET6))
        keeper, kept = bound()
        listed = self.listed()
        for listener in listeners:
            address, port = listener.getsockname()[:2]
            self.assertIn((port, address), listed)
            listener.close()
        self.assertNotIn((kept, "127.0.0.1"), listed)
        self.assertEqual([port for port, _ in listed], sorted(port for port, _ in listed))
        keeper.close()

    def test_each_port_and_address_is_listed_once(self):
        first = socket.socket()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        second = socket.socket()
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind(first.getsockname())
        for listener in (first, second):
            listener.listen()
        address, port = first.getsockname()
        self.assertEqual(self.listed().count((port, address)), 1)
        first.close()
        second.close()


class WaitForPortTest(unittest.TestCase):
    def wait(self, io, **request):
        ports.CHECKS["wait_for_port"](request)
        return Running(ports.OPERATIONS["wait_for_port"], request, io)

    def test_a_wait_ends_when_a_program_listens(self):
        keeper, port = bound()
        waiting = self.wait(FakeIO(is_open=True), port=port)
        keeper.listen()
        self.assertEqual(waiting.result(), {})
        keeper.close()

    def test_a_wait_for_a_port_that_listens_ends_at_once(self):
        listener = listen("0.0.0.0")
        port = listener.getsockname()[1]
        self.assertEqual(self.wait(FakeIO(), port=port, timeout_ms=0).result(), {})
        listener.close()

    def test_a_wait_opens_no_connection(self):
        listener = listen("127.0.0.1")
        self.wait(FakeIO(), port=listener.getsockname()[1]).result()
        listener.setblocking(False)
        with self.assertRaises(BlockingIOError):
            listener.accept()
        listener.close()

    def test_a_wait_ends_at_its_timeout(self):
        # Reserves the port on 127.0.0.1, so that no other process listens there.
        keeper, port = bound()
        # `connect` can't reach this address.
        listener = listen("127.0.0.2", port=port)
        with self.assertRaises(BuiltinError) as caught:
            self.wait(FakeIO(is_open=True), port=port, timeout_ms=20).result()
        self.assertEqual(caught.exception.kind, "timed_out")
        self.assertIn("port %d in the sandbox within 20ms" % port, caught.exception.message)
        listener.close()
        keeper.close()

    def test_durations_are_written_in_their_shortest_form(self):
        for milliseconds, text in ((0, "0ms"), (999, "999ms"), (1000, "1s"), (1500, "1.5s")):
            self.assertEqual(ports.duration(milliseconds), text)
        self.assertEqual(ports.duration(600000), "600s")

    def test_a_kill_ends_a_wait(self):
        keeper, port = bound()
        io = FakeIO(is_open=True)
        waiting = self.wait(io, port=port)
        io.cancel()
        with self.assertRaises(Cancelled):
            waiting.result()
        keeper.close()

    def test_port_0_is_invalid(self):
        with self.assertRaises(BuiltinError) as caught:
            self.wait(FakeIO(), port=0).result()
        self.assertEqual(caught.exception.kind, "invalid_input")
        self.assertEqual(
            caught.exception.message,
            "cannot wait for port 0: a port is a number from 1 to 65535",
        )

    def test_requests_that_are_not_valid_are_refused(self):
        for key in ("connect", "wait_for_port"):
            for port in (70000, 65536, -1, "80", None, True, 1.5):
                with self.assertRaises(BadRequest, msg="%s %s" % (key, port)):
                    ports.CHECKS[key]({"port": port})
            with self.assertRaises(BadRequest):
                ports.CHECKS[key]({})
            ports.CHECKS[key]({"port": 65535})
        for timeout in (-1, "1", 1.5, True):
            with self.assertRaises(BadRequest, msg=timeout):
                ports.CHECKS["wait_for_port"]({"port": 1, "timeout_ms": timeout})
        ports.CHECKS["wait_for_port"]({"port": 1, "timeout_ms": 2**64 - 1})
