"""The headers of tar archives, as V2.md describes them in "Archives".

Headers are those of GNU tar. The time of an entry is exact only in a pax header before it. Long
names and targets of links are in entries of the types `L` and `K` before it.
"""

import re
import struct

BLOCK = 512
# Two blocks of zeros end an archive.
ZERO_BLOCK = bytes(BLOCK)
SECOND = 10**9

FILE = b"0"
OLD_FILE = b"\0"
LINK = b"2"
DIRECTORY = b"5"
SPARSE = b"S"
LONG_NAME = b"L"
LONG_TARGET = b"K"
PAX = b"x"

GNU_MAGIC = b"ustar  \0"
USTAR_MAGIC = b"ustar\x0000"

# Name, permissions, user, group, size, time, checksum, type, target, magic, name of the user, name
# of the group, device. What follows depends on the magic.
_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s")
# In a header with the GNU magic: the offset and the length of each of four pieces of the file, a
# byte that says whether more follow, and the size of the file.
_SPARSE_FIELDS = struct.Struct("41x96sc12s17x")
# 21 pieces in a block that follows the header, and the byte.
_MORE_PIECES = struct.Struct("504sc7x")
_PIECE = struct.Struct("12s12s")
_CHECKSUM = slice(148, 156)
_BLANK_CHECKSUM = b" " * 8
_TIME = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]*))?")


class InvalidArchive(Exception):
    """The archive is not valid. The message says why."""


def padding(size):
    """Returns how many zeros follow this many bytes of data, to fill a block."""
    return -size % BLOCK


# Writing


def encode_entry(name, kind, status, size=0, target=b"", pieces=None):
    """Returns the headers of an entry.

    `size` is the size of a file. `pieces` are the ranges between its holes, if it is sparse.
    """
    headers = []
    if status.st_mtime_ns < 0 or status.st_mtime_ns % SECOND:
        record = _pax_record(b"mtime", format_time(status.st_mtime_ns))
        headers += [_header(b"", PAX, size=len(record), magic=USTAR_MAGIC), _filled(record)]
    for kind_of_long, value in ((LONG_NAME, name), (LONG_TARGET, target)):
        if len(value) > 100:
            header = _header(b"././@LongLink", kind_of_long, mode=0o644, size=len(value) + 1)
            headers += [header, _filled(value + b"\0")]
    rest, more = b"", []
    if pieces is not None:
        rest, more = _encode_pieces(pieces, size)
        size = sum(end - start for start, end in pieces)
    header = _header(
        name[:100],
        kind,
        mode=status.st_mode & 0o777,
        size=size,
        seconds=max(status.st_mtime_ns // SECOND, 0),
        owner=(status.st_uid, status.st_gid),
        target=target[:100],
        rest=rest,
    )
    return b"".join(headers + [header] + more)


def _header(
    name,
    kind,
    mode=0,
    size=0,
    seconds=0,
    owner=(0, 0),
    target=b"",
    rest=b"",
    magic=GNU_MAGIC,
):
    fields = _FIELDS.pack(
        name,
        _number(mode, 8),
        _number(owner[0], 8),
        _number(owner[1], 8),
        _number(size, 12),
        _number(seconds, 12),
        _BLANK_CHECKSUM,
        kind,
        target,
        magic,
        b"",
        b"",
        _number(0, 8),
        _number(0, 8),
    )
    checksum = b"%06o\0 " % (sum(fields) + sum(rest))
    return fields[:148] + checksum + fields[156:] + rest.ljust(BLOCK - len(fields), b"\0")


def _encode_pieces(pieces, size):
    """Returns the last fields of the header of a sparse file, and the blocks that follow it."""
    # An empty piece marks the end of the file, so that the file can end with a hole.
    pieces = [*pieces, (size, size)]
    encoded = [_PIECE.pack(_number(a, 12), _number(b - a, 12)) for a, b in pieces]
    is_extended = b"\1" if len(encoded) > 4 else b"\0"
    rest = _SPARSE_FIELDS.pack(b"".join(encoded[:4]), is_extended, _number(size, 12))
    more = []
    for first in range(4, len(encoded), 21):
        is_extended = b"\1" if len(encoded) > first + 21 else b"\0"
        more.append(_MORE_PIECES.pack(b"".join(encoded[first : first + 21]), is_extended))
    return rest, more


def _number(value, width):
    """Returns a number in octal digits, or in base 256 if it has too many."""
    if value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return b"\x80" + value.to_bytes(width - 1, "big")


def _pax_record(key, value):
    """Returns `LENGTH KEY=VALUE` and a newline. The length includes its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) > length:
        length += 1
    return b"%d" % length + rest


def _filled(data):
    return data + bytes(padding(len(data)))


def format_time(nanoseconds):
    """Returns a time for a pax header, in seconds with a fraction."""
    sign = b"-" if nanoseconds < 0 else b""
    return b"%s%d.%09d" % (sign, abs(nanoseconds) // SECOND, abs(nanoseconds) % SECOND)


# Reading


class Header:
    """The fields of a header of an entry. Raises `InvalidArchive` if the checksum is wrong."""

    def __init__(self, block):
        fields = _FIELDS.unpack_from(block)
        name, mode, _, _, size, seconds, checksum, self.kind, target, magic = fields[:10]
        expected = sum(block) - sum(block[_CHECKSUM]) + sum(_BLANK_CHECKSUM)
        if parse_number(checksum) != expected:
            raise InvalidArchive("the checksum of a header is wrong")
        self.is_gnu = magic == GNU_MAGIC
        self.is_ustar = magic == USTAR_MAGIC
        self.name = _text(name)
        if self.is_ustar:
            prefix = _text(block[_FIELDS.size : _FIELDS.size + 155])
            self.name = prefix + b"/" + self.name if prefix else self.name
        self.target = _text(target)
        self.size = parse_size(size)
        self._mode = mode
        self._seconds = seconds
        self._rest = block[_FIELDS.size :]

    @property
    def permissions(self):
        """The permission bits, without set-user-id, set-group-id and sticky."""
        return parse_number(self._mode) & 0o777

    @property
    def modified_ns(self):
        """The modification time, or `None` if the field is not valid."""
        try:
            return parse_number(self._seconds) * SECOND
        except InvalidArchive:
            return None

    @property
    def sparse(self):
        """The pieces of a sparse file, whether a block with more follows, and the file's size."""
        if not self.is_gnu:
            raise InvalidArchive("a file with holes must have a GNU header")
        pieces, is_extended, size = _SPARSE_FIELDS.unpack(self._rest)
        return parse_pieces(pieces), is_extended == b"\1", parse_size(size)


def parse_more_pieces(block):
    """Returns the pieces in a block that follows the header, and whether another follows."""
    pieces, is_extended = _MORE_PIECES.unpack(block)
    return parse_pieces(pieces), is_extended == b"\1"


def parse_pieces(fields):
    """Returns the offsets and lengths of pieces. Ignores unused fields."""
    pieces = _PIECE.iter_unpack(fields)
    used = [piece for piece in pieces if piece[0][0] and piece[1][0]]
    return [(parse_size(offset), parse_size(length)) for offset, length in used]


def parse_size(field):
    size = parse_number(field)
    if size < 0:
        raise InvalidArchive("a size in a header is negative")
    return size


def parse_number(field):
    """Parses octal digits, or a number in base 256 whose first bit is set."""
    if field[0] & 0x80:
        # The second bit is the sign.
        number = int.from_bytes(field, "big") & ~(1 << len(field) * 8 - 1)
        bits = len(field) * 8 - 1
        return number - (1 << bits) if field[0] & 0x40 else number
    digits = _text(field).strip()
    if not digits or digits.strip(b"01234567"):
        raise InvalidArchive("a number in a header is not valid")
    return int(digits, 8)


def parse_pax(data):
    """Returns the records of a pax header: their values by their keys."""
    records = {}
    start = 0
    while start < len(data):
        length = data[start : start + 10].partition(b" ")[0]
        if not length.isdigit() or len(length) > 9:
            raise InvalidArchive("a pax header is not valid")
        end = start + int(length)
        key, separator, value = data[start + len(length) + 1 : end].partition(b"=")
        if not separator or value[-1:] != b"\n" or end > len(data):
            raise InvalidArchive("a pax header is not valid")
        records.setdefault(key, value[:-1])
        start = end
    return records


def parse_time(value):
    """Returns the nanoseconds of a time in a pax header, or `None` if it is not valid."""
    match = _TIME.fullmatch(value.decode("ascii", "replace"))
    if match is None:
        return None
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * SECOND + int((fraction or "")[:9].ljust(9, "0"))
    return -nanoseconds if sign else nanoseconds


def _text(field):
    """Returns a field up to its first zero byte."""
    return field.partition(b"\0")[0]
