"""Archives as an attacker or another program would write them, without the code under test."""

import struct

FILE, LINK, SYMLINK, DIRECTORY, SPARSE = b"0", b"1", b"2", b"5", b"S"
GNU, USTAR, OLD = b"ustar  \0", b"ustar\x0000", bytes(8)
END = bytes(1024)


def header(name, kind, target=b"", size=0, mode=b"0000777\0", time=b"00000000001\0", magic=GNU):
    """Returns a header. `size`, if it is bytes, is the field as it is."""
    size = size if isinstance(size, bytes) else b"%011o\0" % size
    fields = [name, mode, b"0000000\0", b"0000000\0", size, time, b" " * 8, kind, target, magic]
    block = struct.pack("100s8s8s8s12s12s8s1s100s8s247x", *fields)
    return with_checksum(block)


def with_checksum(block):
    """Returns a header with the right checksum."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def data(content):
    return content + bytes(-len(content) % 512)


def entry(name, kind, text=b"", **fields):
    """Returns an entry. `text` is the target of a link or the content of a file."""
    if kind in (LINK, SYMLINK):
        return header(name, kind, target=text, **fields)
    return header(name, kind, size=len(text), **fields) + data(text)


def archive(*items):
    """Returns an archive of entries as `entry` takes them."""
    return b"".join(entry(*item) for item in items) + END


def pax(**records):
    """Returns a pax header."""
    content = b""
    for key, value in records.items():
        rest = b" %s=%s\n" % (key.encode(), value)
        length = len(rest) + 1
        while len(b"%d" % length) + len(rest) != length:
            length += 1
        content += b"%d" % length + rest
    return header(b"", b"x", size=len(content), magic=USTAR) + data(content)


def sparse(name, pieces, size, stored, extended=(), is_extended=None):
    """Returns the headers of a sparse file. `pieces` and `extended` are offsets and lengths."""
    block = bytearray(header(name, SPARSE, size=stored))
    block[386 : 386 + 24 * len(pieces)] = _pieces(pieces)
    block[482] = bool(extended) if is_extended is None else is_extended
    block[483:495] = b"%011o\0" % size
    blocks = [with_checksum(bytes(block))]
    for number, more in enumerate(extended):
        following = bytearray(512)
        following[: 24 * len(more)] = _pieces(more)
        following[504] = number + 1 < len(extended)
        blocks.append(bytes(following))
    return b"".join(blocks)


def _pieces(pieces):
    return b"".join(b"%011o\0%011o\0" % piece for piece in pieces)
