import os
import random

import hand_made
from fake_io import FakeIO
from file_case import FileCase, facts
from hand_made import DIRECTORY, FILE, LINK, SYMLINK

from program import unpack
from program.builtins import BuiltinError

D = (b"d", DIRECTORY)
L = (b"l", SYMLINK, b"../outside")
RELATIVE, AFTER, PLACE = "must be relative", "after its directory", "a directory is in its place"

# Entries, and a part of the error. Without an error, the archive is unpacked.
ATTACKS = [
    ([(b"/escaped", FILE, b"x")], RELATIVE),
    ([(b"../escaped", FILE, b"x")], RELATIVE),
    ([(b"../outside", DIRECTORY)], RELATIVE),
    ([D, (b"d/../../escaped", FILE, b"x")], RELATIVE),
    ([(b"./../escaped", FILE, b"x")], RELATIVE),
    ([(b".", SYMLINK, b"../outside")], RELATIVE),
    ([(b".", FILE, b"x")], RELATIVE),
    ([(b"..", DIRECTORY)], RELATIVE),
    ([(b"/", DIRECTORY)], RELATIVE),
    ([(b"", FILE, b"x")], RELATIVE),
    ([(b"", DIRECTORY)], RELATIVE),
    # Links that the archive has created.
    ([L, (b"l/escaped", FILE, b"x")], AFTER),
    ([L, (b"l/", DIRECTORY), (b"l/secret", FILE, b"x")], None),
    ([L, (b"l", FILE, b"x")], None),
    ([(b"l", SYMLINK, b"../outside/secret"), (b"l", FILE, b"x")], None),
    ([(b"l", SYMLINK, b".."), (b"l/outside", DIRECTORY)], AFTER),
    ([D, (b"d", SYMLINK, b"../outside")], PLACE),
    ([D, (b"d/l", SYMLINK, b"../../outside"), (b"d/l/secret", FILE, b"x")], AFTER),
    ([L, (b"l/l/secret", FILE, b"x")], AFTER),
    ([(b"l", SYMLINK, b"")], "no target"),
    # Links that were there before.
    ([(b"old/secret", FILE, b"x")], AFTER),
    ([(b"old", DIRECTORY), (b"old/secret", FILE, b"x")], None),
    ([(b"old file", FILE, b"x")], None),
    ([(b"old file", DIRECTORY)], None),
    ([(b"old", SYMLINK, b"elsewhere")], None),
    # Types that are refused.
    ([(b"h", LINK, b"../outside/secret")], "a hard link is not allowed"),
    ([(b"h", LINK, b"old file")], "a hard link is not allowed"),
    ([(b"n", b"3")], "a character device is not allowed"),
    ([(b"n", b"4")], "a block device is not allowed"),
    ([(b"n", b"6")], "a pipe is not allowed"),
    ([(b"n", b"7", b"x")], "is not allowed"),
    ([(b"n", b"g", b"x")], "is not allowed"),
    ([(b"n", b"Z", b"x")], "is not allowed"),
    ([(b"n", b"\xff", b"x")], "is not allowed"),
    # Types that change, and the order of entries.
    ([(b"f", FILE, b"x"), (b"f/below", FILE, b"x")], AFTER),
    ([(b"f", FILE, b"x"), (b"f", DIRECTORY), (b"f/a", FILE)], None),
    ([D, (b"d/a", FILE), (b"d", FILE)], PLACE),
    ([D, (b"e", DIRECTORY), (b"d/late", FILE)], AFTER),
    ([D, (b"d/e", DIRECTORY), (b"d/f", FILE), (b"d/e/late", FILE)], AFTER),
    ([D, (b"e", FILE), (b"d", DIRECTORY), (b"d/again", FILE)], None),
    ([(b"f/", FILE, b"x")], "end with a slash"),
    ([(b"d", DIRECTORY, b"data")], "must not hold data"),
]


class HostileArchiveTest(FileCase):
    """Archives that would write outside of their destination."""

    def prepare(self):
        """Creates `inside` with links to a directory `outside` beside it."""
        self.home = self.new_home()
        for name in ("inside", "outside"):
            os.mkdir(self.home.at(name))
        self.home.put("outside/secret", b"untouched")
        for name, mode in (("outside/secret", 0o640), ("outside", 0o750)):
            os.chmod(self.home.at(name), mode)
            os.utime(self.home.at(name), ns=(5, 5))
        os.symlink("../outside", self.home.at("inside/old"))
        os.symlink("../outside/secret", self.home.at("inside/old file"))
        return self.outside()

    def outside(self):
        """Everything but the entries of `inside`."""
        found = facts(self.home.path)
        return {name: fact for name, fact in found.items() if not name.startswith(b"inside")}

    def test_no_archive_leads_outside_of_the_destination(self):
        for items, why in ATTACKS:
            before = self.prepare()
            archive = hand_made.archive(*items)
            if why is None:
                self.call("unpack", archive, path="inside")
            else:
                error = self.error_of("unpack", archive, path="inside")
                self.assertIn(why, error.message, items)
                kind = "is_a_directory" if why == PLACE else "invalid_input"
                self.assertEqual(error.kind, kind, items)
            self.assertEqual(self.outside(), before, items)
            self.assertFalse(os.path.exists("/escaped"))

    def test_names_with_zero_bytes_are_refused(self):
        for kind, name in ((b"L", b"a\0b"), (b"K", b"a\0b")):
            self.prepare()
            long_one = hand_made.header(b"././@LongLink", kind, size=3) + hand_made.data(name)
            archive = long_one + hand_made.archive((b"l", SYMLINK, b"x"))
            error = self.error_of("unpack", archive, path="inside")
            self.assertEqual(error.kind, "invalid_input")
            self.assertIn("zero byte", error.message)

    def test_a_link_that_code_puts_in_the_place_of_a_directory_is_not_followed(self):
        start = b"".join(hand_made.entry(*it) for it in ((b"d", DIRECTORY), (b"d/a", FILE, b"1")))
        rest = hand_made.archive(
            (b"d/secret", FILE, b"x"), (b"d/sub", DIRECTORY), (b"d/sub/b", FILE, b"2")
        )
        before = self.prepare()
        io = FakeIO(self.home.path, start, is_open=True)
        running = self.start(io, "unpack", path="inside")
        while not os.path.exists(self.home.at("inside/d/a")):
            pass
        os.rename(self.home.at("inside/d"), self.home.at("inside/moved"))
        os.symlink("../outside", self.home.at("inside/d"))
        io.feed(rest)
        io.end_input()
        # The entries go to the directory that was opened.
        running.result()
        self.assertEqual(self.outside(), before)
        self.assertEqual(self.home.names("inside/moved"), ["a", "secret", "sub"])

    def test_a_link_that_appears_before_a_directory_is_opened_is_not_followed(self):
        before = self.prepare()
        mkdir = os.mkdir

        def mkdir_and_swap(name, *args, **options):
            mkdir(name, *args, **options)
            os.rename(self.home.at("inside/d"), self.home.at("inside/moved"))
            os.symlink("../outside", self.home.at("inside/d"))

        os.mkdir = mkdir_and_swap
        try:
            archive = hand_made.archive((b"d", DIRECTORY), (b"d/secret", FILE, b"x"))
            self.error_of("unpack", archive, path="inside")
        finally:
            os.mkdir = mkdir
        self.assertEqual(self.outside(), before)

    def test_sizes_that_are_not_there_fail(self):
        for size in (b"%011o\0" % (1 << 32), b"\x80" + b"\0" * 3 + b"\xff" * 8):
            self.prepare()
            archive = hand_made.header(b"f", FILE, size=size) + b"x" * 5_000
            error = self.error_of("unpack", archive, path="inside")
            self.assertEqual(error.kind, "invalid_input", error.message)
            self.assertIn("ended too early", error.message)
            self.assertFalse(os.path.exists(self.home.at("inside/f")))

    def test_a_file_that_no_disk_holds_fails(self):
        self.prepare()
        block = bytearray(hand_made.sparse(b"f", [(0, 0)], 0, 0))
        for at in (386, 483):
            block[at : at + 12] = b"\x80" + b"\0" * 3 + b"\xff" * 8
        archive = hand_made.with_checksum(bytes(block)) + hand_made.END
        error = self.error_of("unpack", archive, path="inside")
        self.assertEqual(error.kind, "too_large", error.message)

    def test_damage_neither_breaks_the_program_nor_leads_outside(self):
        items = [(b"d", DIRECTORY), (b"d/l", SYMLINK, b"../../outside"), (b"d/f", FILE, b"x")]
        archive = hand_made.archive(*items)
        before = self.prepare()
        fields = [*range(4), *range(100, 108, 3), *range(124, 160, 2), 257, 263, 345, 386, 482]
        for at in [block + field for block in range(0, 1536, 512) for field in fields]:
            for byte in (0, 0x2E, 0x2F, 0x37, 0xFF):
                damaged = bytearray(archive)
                damaged[at] = byte
                block = at // 512 * 512
                # The checksum is right, so that the reader looks at the rest.
                header = hand_made.with_checksum(bytes(damaged[block : block + 512]))
                damaged[block : block + 512] = header
                self.unpack_anything(damaged)
        self.assertEqual(self.outside(), before)

    def test_random_headers_neither_break_the_program_nor_lead_outside(self):
        chance = random.Random(7)
        before = self.prepare()
        kinds = b"0125SxLKg\0"
        for _ in range(300):
            archive = b""
            for _ in range(4):
                block = bytearray(hand_made.header(b"d/x", bytes([chance.choice(kinds)]), size=512))
                for _ in range(chance.randrange(4)):
                    block[chance.randrange(512)] = chance.randrange(256)
                archive += hand_made.with_checksum(bytes(block)) + chance.choice(
                    [b"x" * 512, bytes(512), b"30 path=../../outside/secret\n".ljust(512, b"\0")]
                )
            self.unpack_anything(archive + hand_made.END)
        self.assertEqual(self.outside(), before)

    def unpack_anything(self, archive):
        try:
            unpack.unpack({"path": "inside"}, FakeIO(self.home.path, archive))
        except BuiltinError as error:
            self.assertTrue(error.message.startswith("cannot unpack '"), error.message)
