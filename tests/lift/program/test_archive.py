import os
import unittest

import hand_made
from fake_io import FakeIO

from program import archive
from program.archive import SECOND, InvalidArchive
from program.archive_reader import MAX_HEADER_BYTES, ArchiveReader, Truncated


def status(mode=0o644, modified_ns=0, owner=0):
    fields = [mode, 0, 0, 0, owner, owner, 0, 0, modified_ns // SECOND, 0]
    fields += [0.0, 0.0, 0.0, 0, modified_ns, 0]
    return os.stat_result(fields + [0] * 3)


def read(data):
    """Returns the entries of an archive and the data of each."""
    reader = ArchiveReader(FakeIO(data=data))
    entries = []
    while True:
        entry = reader.next_entry()
        if entry is None:
            return entries
        entries.append((entry, b"".join(reader.data(entry.data_size))))


class NumberTest(unittest.TestCase):
    def test_numbers_survive_a_field(self):
        for width in (8, 12):
            for value in (0, 1, 511, 8 ** (width - 1) - 1, 8 ** (width - 1), 2**40, 2**55):
                field = archive._number(value, width)
                self.assertEqual(len(field), width)
                self.assertEqual(archive.parse_number(field), value)

    def test_numbers_of_other_programs_are_parsed(self):
        for field, value in [
            (b"0000644\0", 0o644),
            (b"   644 \0", 0o644),
            (b"644 \0\0\0\0", 0o644),
            (b"00000644", 0o644),
            (b"\xff" * 12, -1),
            (b"\xff" * 10 + b"\x00\x00", -65536),
            (b"\x80" + b"\0" * 6 + b"\x05", 5),
        ]:
            self.assertEqual(archive.parse_number(field), value, field)
        bad = [b"\0" * 8, b" " * 8, b"000_644\0", b"0o644\0\0\0", b"-000644\0", b"0000008\0"]
        for field in bad:
            with self.assertRaises(InvalidArchive, msg=field):
                archive.parse_number(field)

    def test_times_survive_their_text(self):
        for nanoseconds in (1, 1_500_000_000, 999_999_999, 4 * 10**18 + 1):
            for time in (nanoseconds, -nanoseconds):
                self.assertEqual(archive.parse_time(archive.format_time(time)), time)
        self.assertEqual(archive.format_time(-4_750_000_000), b"-4.750000000")
        for text, time in [
            (b"5", 5_000_000_000),
            (b"5.", 5_000_000_000),
            (b"-1.25", -1_250_000_000),
            (b"1.9999999999", 1_999_999_999),
        ]:
            self.assertEqual(archive.parse_time(text), time)
        for text in (b"", b"-", b"x", b"1.x", b"--1", b".5", b"1e5", b"1\n", b"9" * 21, b"\xff"):
            self.assertIsNone(archive.parse_time(text), text)

    def test_the_length_of_a_pax_record_includes_its_digits(self):
        for length in list(range(85, 100)) + list(range(980, 1010)):
            record = archive._pax_record(b"k", b"v" * length)
            self.assertEqual(int(record.partition(b" ")[0]), len(record))
            self.assertEqual(archive.parse_pax(record), {b"k": b"v" * length})

    def test_pax_records_may_contain_anything(self):
        records = b"13 a=b\nc=d\xff\n\n6 e=f\n"
        self.assertEqual(archive.parse_pax(records), {b"a": b"b\nc=d\xff\n", b"e": b"f"})
        bad = [b"\0", b"x", b"5 a=b", b"6 a=b", b"7 a=b\n", b"6 abc\n", b"0 a=b\n", b" a=b\n"]
        bad += [b"-6 a=b\n", b"6 a=b\n\0", b"9999999999 a=b\n", b"3 \n"]
        for data in bad:
            with self.assertRaises(InvalidArchive, msg=data):
                archive.parse_pax(data)


class EntryTest(unittest.TestCase):
    def test_entries_survive_their_headers(self):
        for name, kind, target, mode, modified_ns in [
            (b"a", archive.DIRECTORY, b"", 0o755, SECOND),
            (b"a/" + b"n" * 98, archive.FILE, b"", 0o644, 1),
            (b"a/" + b"n" * 99, archive.FILE, b"", 0, -1),
            (b"\xff" * 4000, archive.FILE, b"", 0o777, -SECOND),
            (b"l", archive.LINK, b"\xfe" * 100, 0o777, 0),
            (b"l" * 200, archive.LINK, b"t" * 4000, 0o777, 2**34 * SECOND + 5),
        ]:
            headers = archive.encode_entry(name, kind, status(mode, modified_ns), target=target)
            self.assertEqual(len(headers) % 512, 0)
            ((entry, _),) = read(headers + hand_made.END)
            self.assertEqual((entry.name, entry.target), (name, target))
            self.assertEqual(entry.kind, kind)
            self.assertEqual((entry.permissions, entry.modified_ns), (mode, modified_ns))

    def test_a_simple_header_has_the_fields_of_gnu_tar(self):
        block = archive.encode_entry(b"name", b"0", status(0o104751, SECOND, 5), size=9)
        self.assertEqual(len(block), 512)
        self.assertEqual(block[100:108], b"0000751\0")
        self.assertEqual(block[108:124], b"0000005\0" * 2)
        self.assertEqual(block[124:136], b"00000000011\0")
        self.assertEqual(block[136:148], b"00000000001\0")
        self.assertEqual(block[156:157], b"0")
        self.assertEqual(block[257:265], b"ustar  \0")
        self.assertEqual(hand_made.with_checksum(block), block)

    def test_pieces_survive_their_headers(self):
        for count in (0, 1, 3, 4, 24, 25, 26, 100):
            pieces = [(n * 1024, n * 1024 + 512) for n in range(count)]
            size = 2**41 + 1
            stored = 512 * count
            headers = archive.encode_entry(b"f", b"S", status(), size=size, pieces=pieces)
            ((entry, content),) = read(headers + b"x" * stored + hand_made.END)
            self.assertEqual((entry.pieces, entry.file_size), (pieces, size))
            self.assertEqual(content, b"x" * stored)


class ReaderTest(unittest.TestCase):
    def test_headers_of_other_programs_are_read(self):
        long_name = hand_made.header(b"././@LongLink", b"L", size=6) + hand_made.data(b"long\xff\0")
        short = hand_made.header(b"short", b"0")
        prefix = bytearray(hand_made.header(b"name", b"0", magic=hand_made.USTAR))
        prefix[345:351] = b"prefix"
        records = hand_made.pax(path=b"pax/path", mtime=b"-2.5", size=b"3", linkpath=b"t", uid=b"x")
        for data, name, time in [
            (long_name + short, b"long\xff", SECOND),
            (hand_made.with_checksum(bytes(prefix)), b"prefix/name", SECOND),
            (hand_made.header(b"old", b"\0", magic=hand_made.OLD), b"old", SECOND),
            (hand_made.header(b"n" * 100, b"0", time=b"\xff" * 12), b"n" * 100, -SECOND),
            (hand_made.header(b"n", b"0", time=b"x" * 12), b"n", None),
            (hand_made.pax(mtime=b"bad") + hand_made.header(b"n", b"0"), b"n", SECOND),
            (long_name + hand_made.pax(path=b"p") + short, b"long\xff", SECOND),
        ]:
            ((entry, _),) = read(data + hand_made.END)
            self.assertEqual((entry.name, entry.modified_ns), (name, time))
            self.assertEqual(entry.kind, b"0")
        data = records + hand_made.header(b"n", b"0", size=9) + hand_made.data(b"abc")
        ((entry, content),) = read(data + hand_made.END)
        described = (entry.name, entry.target, entry.modified_ns, content)
        self.assertEqual(described, (b"pax/path", b"t", -2_500_000_000, b"abc"))

    def test_zeros_may_follow_the_end_and_nothing_else(self):
        whole = hand_made.archive((b"f", b"0", b"x"))
        for more in (b"", bytes(1), bytes(9_000), bytes(600_000)):
            self.assertEqual(len(read(whole + more)), 1)
        for more in (b"x", bytes(9_000) + b"x", bytes(600_000) + b"x"):
            with self.assertRaisesRegex(InvalidArchive, "data follows"):
                read(whole + more)

    def test_an_archive_that_ends_early_is_truncated(self):
        name = hand_made.header(b"././@LongLink", b"L", size=300) + hand_made.data(b"n" * 300)
        items = [hand_made.entry(b"d", b"5"), hand_made.pax(mtime=b"1.5"), name]
        items += [hand_made.entry(b"f", b"0", b"x" * 3_000)]
        pieces = [(n * 1024, 512) for n in range(20)]
        more = pieces[4:] + [(20_000, 0)]
        items += [hand_made.sparse(b"s", pieces[:4], 20_000, 512 * 20, [more])]
        items += [bytes(512 * 20), hand_made.END]
        whole = b"".join(items)
        self.assertEqual(len(read(whole)), 3)
        for length in [*range(0, len(whole), 512), 1, 513, len(whole) - 1]:
            with self.assertRaises(Truncated, msg=length):
                read(whole[:length])

    def test_damaged_headers_are_invalid(self):
        long_name = hand_made.header(b"././@LongLink", b"L", size=1) + hand_made.data(b"x")
        file = hand_made.header(b"f", b"0")
        damaged = bytearray(file)
        damaged[0] = 0
        for data, why in [
            (bytes(damaged), "checksum"),
            (b"x" * 512, "not valid"),
            (hand_made.header(b"f", b"0", size=b"99999999999\0"), "not valid"),
            (hand_made.header(b"f", b"0", size=b"\xff" * 12), "negative"),
            (long_name + hand_made.END, "entry that is missing"),
            (long_name * 2 + file, "same entry"),
            (hand_made.pax(mtime=b"1") * 2 + file, "same entry"),
            (hand_made.pax(size=b"-1") + file, "size in a pax header"),
            (hand_made.header(b"", b"x", size=5) + hand_made.data(b"junk\n") + file, "pax header"),
            (hand_made.entry(b"f", b"S", magic=hand_made.USTAR), "GNU header"),
        ]:
            with self.assertRaisesRegex(InvalidArchive, why):
                read(data + hand_made.END)

    def test_lists_of_pieces_must_match_the_file(self):
        for pieces, size, stored, why in [
            ([(0, 512), (0, 0)], 512, 512, "overlap"),
            ([(512, 512), (0, 512), (1024, 0)], 1024, 1024, "overlap"),
            ([(0, 100), (1024, 512)], 1536, 612, "fill"),
            ([(0, 512)], 1024, 512, "match"),
            ([(0, 512), (1024, 0)], 1024, 1024, "match"),
            ([(0, 512), (1024, 0)], 1024, 0, "match"),
            ([], 1024, 0, "match"),
        ]:
            with self.assertRaisesRegex(InvalidArchive, why, msg=pieces):
                read(hand_made.sparse(b"s", pieces, size, stored) + bytes(stored) + hand_made.END)

    def test_the_headers_of_an_entry_have_a_limit(self):
        endless = bytes(MAX_HEADER_BYTES)
        for kind in (b"x", b"L", b"K"):
            start = hand_made.header(b"f", kind, size=MAX_HEADER_BYTES)
            with self.assertRaisesRegex(InvalidArchive, "headers of an entry take more"):
                read(start + endless)
        blocks = [[(n * 1024, 0)] for n in range(MAX_HEADER_BYTES // 512)]
        with self.assertRaisesRegex(InvalidArchive, "headers of an entry take more"):
            read(hand_made.sparse(b"s", [], 0, 0, blocks))

    def test_hostile_headers_take_no_quadratic_time(self):
        records = b"5 a=\n" * (MAX_HEADER_BYTES // 10)
        time = hand_made.pax(mtime=b"9" * 1_000_000) + hand_made.header(b"f", b"0")
        many = hand_made.header(b"", b"x", size=len(records)) + hand_made.data(records)
        for data in (many + hand_made.header(b"f", b"0"), time):
            self.assertEqual(len(read(data + hand_made.END)), 1)
