"""`ArchiveReader` reads the entries of a tar archive, which an attacker may have made."""

from . import archive
from .archive import InvalidArchive

# Maximum bytes of the headers of one entry: its name, the target of a link, the list of holes. They
# are kept in memory.
MAX_HEADER_BYTES = 2 * 1024 * 1024
# How many bytes are read at once.
CHUNK = 256 * 1024
# The keys of pax headers that replace a part of a header.
PATH, TARGET, SIZE, TIME = b"path", b"linkpath", b"size", b"mtime"


class Truncated(InvalidArchive):
    """The archive ended before its two blocks of zeros."""

    def __init__(self):
        super().__init__(
            "the archive ended too early, so files may be missing or incomplete"
        )


class Entry:
    """An entry. `pieces` are the ranges of the file that its data fills."""

    def __init__(self, header, name, target, modified_ns):
        self.kind = archive.FILE if header.kind == archive.OLD_FILE else header.kind
        self.name = name
        self.target = target
        self.modified_ns = modified_ns
        self._header = header
        self.data_size = header.size
        self.file_size = header.size
        self.pieces = [(0, header.size)]

    @property
    def permissions(self):
        return self._header.permissions


class ArchiveReader:
    """Reads an archive from stdin."""

    def __init__(self, io):
        self._io = io
        self._buffer = b""
        self._at = 0
        # What must be skipped before the next header.
        self._padding = 0
        # How many bytes the headers of the current entry may still take.
        self._budget = 0

    def next_entry(self):
        """Returns the next entry, or `None` at the end of the archive.

        The data of the entry before it must have been read.
        """
        self._budget = MAX_HEADER_BYTES
        self._take(self._padding)
        described = {}
        while True:
            block = self._take_header(archive.BLOCK)
            if block == archive.ZERO_BLOCK:
                if described:
                    raise InvalidArchive("headers describe an entry that is missing")
                self._check_end()
                return None
            header = archive.Header(block)
            if not self._is_description(header):
                return self._entry(header, described)
            if header.kind in described:
                raise InvalidArchive("two headers of one type describe the same entry")
            size = header.size
            described[header.kind] = self._take_header(size + archive.padding(size))[:size]

    def data(self, size):
        """Yields the next bytes of the data of an entry."""
        while size:
            if self._at == len(self._buffer):
                self._fill()
            piece = self._buffer[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    @staticmethod
    def _is_description(header):
        kinds = (archive.LONG_NAME, archive.LONG_TARGET, archive.PAX)
        return header.kind in kinds and (header.is_gnu or header.is_ustar)

    def _entry(self, header, described):
        records = archive.parse_pax(described.get(archive.PAX, b""))
        name = described.get(archive.LONG_NAME)
        name = records.get(PATH, header.name) if name is None else _without_zero(name)
        target = described.get(archive.LONG_TARGET)
        target = records.get(TARGET, header.target) if target is None else _without_zero(target)
        if SIZE in records:
            header.size = _parse_decimal(records[SIZE])
        modified_ns = archive.parse_time(records[TIME]) if TIME in records else None
        if modified_ns is None:
            modified_ns = header.modified_ns
        entry = Entry(header, name, target, modified_ns)
        if header.kind == archive.SPARSE:
            self._read_pieces(header, entry)
        self._padding = archive.padding(entry.data_size)
        return entry

    def _read_pieces(self, header, entry):
        """Reads the list of the pieces of a sparse file. They must fill it in order."""
        listed, is_extended, entry.file_size = header.sparse
        while is_extended:
            block = self._take_header(archive.BLOCK)
            more, is_extended = archive.parse_more_pieces(block)
            listed += more
        entry.pieces = []
        stored, end = 0, 0
        for offset, length in listed:
            if offset < end:
                raise InvalidArchive("the pieces of a file with holes overlap")
            if length and archive.padding(stored):
                raise InvalidArchive("a piece of a file with holes does not fill its blocks")
            end = offset + length
            stored += length
            if length:
                entry.pieces.append((offset, end))
        if stored != entry.data_size or end != entry.file_size:
            raise InvalidArchive("the pieces of a file with holes do not match its size")

    def _check_end(self):
        """Checks that a second block of zeros ends the archive, and that only zeros follow."""
        rest = self._take(archive.BLOCK)
        while rest:
            if rest.count(0) != len(rest):
                raise InvalidArchive("data follows the end of the archive")
            rest = self._buffer[self._at :] or self._io.read(CHUNK)
            self._at = len(self._buffer)

    def _take_header(self, size):
        if size > self._budget:
            raise InvalidArchive(
                "the headers of an entry take more than %d bytes" % MAX_HEADER_BYTES
            )
        self._budget -= size
        return self._take(size)

    def _take(self, size):
        """Returns exactly this many bytes."""
        end = self._at + size
        if end <= len(self._buffer):
            taken = self._buffer[self._at : end]
            self._at = end
            return taken
        return b"".join(self.data(size))

    def _fill(self):
        self._buffer = self._io.read(CHUNK)
        self._at = 0
        if not self._buffer:
            raise Truncated()


def _parse_decimal(value):
    if not value.isdigit() or len(value) > 20:
        raise InvalidArchive("a size in a pax header is not valid")
    return int(value)


def _without_zero(value):
    """Returns a long name without the zero byte at its end."""
    return value[:-1] if value.endswith(b"\0") else value
