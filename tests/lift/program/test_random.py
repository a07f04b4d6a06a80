"""Execs over links that break at random places: each byte arrives once, and code runs once."""

import hashlib
import random
import unittest

from driver import DriverCase

CODE = """\
import hashlib, os, sys
with open("runs", "a") as file:
    file.write(sys.argv[1] + "\\n")
data = sys.stdin.buffer.read()
for start in range(0, len(data), 5000):
    os.write(1, data[start:start + 5000])
    os.write(2, b"%d\\n" % start)
print(hashlib.sha256(data).hexdigest())
"""


class Client:
    """Runs one exec, and continues it on each new link."""

    def __init__(self, driver, name, chance):
        self.driver = driver
        self.name = name
        self.chance = chance
        self.input = chance.getrandbits(8 * 300_000).to_bytes(300_000, "little")
        self.sent = 0
        self.followed = driver.followed[name]

    def request(self):
        options = {"binary": self.chance.random() < 0.5, "window": 20_000}
        self.driver.python(self.name, CODE, args=[self.name], **options)

    def resume(self):
        """On a new link: continues, or repeats the request, which may have been lost."""
        if self.followed.statuses:
            self.driver.reconnect(self.name)
        else:
            self.request()
        running = len(self.followed.statuses)
        self.driver.wait_for(lambda: len(self.followed.statuses) > running)
        self.sent = self.followed.last("_RUNNING")["stdin"]
        # The last acknowledgement may have been lost.
        self.driver.ack(self.name)

    def step(self):
        """Sends the next piece of input."""
        piece = self.input[self.sent : self.sent + self.chance.randint(1, 20_000)]
        self.driver.stdin(self.name, piece, self.sent, eof=not piece)
        self.sent += len(piece)

    def is_done(self):
        done = self.followed.last("_DONE")
        if done is None:
            return False
        assert done["reason"] == "exited", done
        return len(self.followed.stdout) >= done["stdout"]

    def check(self, case):
        digest = hashlib.sha256(self.input).hexdigest().encode() + b"\n"
        case.assertEqual(self.followed.stdout, self.input + digest)
        lines = b"".join(b"%d\n" % start for start in range(0, len(self.input), 5000))
        case.assertEqual(self.followed.stderr, lines)


class RandomTest(DriverCase):
    def test_links_that_break_lose_and_repeat_nothing(self):
        for seed in range(2):
            self.run_with(random.Random(seed))
            self.doCleanups()
            self.setUp()

    def run_with(self, chance):
        clients = [Client(self.driver, "e%d" % number, chance) for number in range(4)]
        for client in clients:
            client.request()
        for _ in range(400):
            if chance.random() < 0.08:
                self.break_link(chance)
                for client in clients:
                    client.resume()
            for client in clients:
                if not client.is_done():
                    client.step()
            if all(client.is_done() for client in clients):
                break
            if not self.driver.stays_quiet(0.001):
                self.driver.read()
        self.driver.wait_for(lambda: all(client.is_done() for client in clients))
        for client in clients:
            client.check(self)
        with open(self.path("runs")) as file:
            runs = file.read().split()
        self.assertEqual(sorted(runs), sorted(client.name for client in clients))

    def break_link(self, chance):
        """Loses output that has not been read, and ends in the middle of a line."""
        for _ in range(chance.randrange(4)):
            if not self.driver.stays_quiet(0):
                self.driver.lose_some(chance.randint(1, 5_000))
        line = b'%d {"event":"stdin","exec":"e0","offset":0,"data":"xxx' % self.driver._out_number
        self.driver.write(line[: chance.randrange(len(line))])
        self.driver.hello()


if __name__ == "__main__":
    unittest.main()
