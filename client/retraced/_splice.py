"""An archive put together anew from records of another and from records in memory; nothing is copied until it is read.

The format is that of the server's writer: records plain, each at a multiple of 64 bytes, with sizes and checksum in front (APPNOTE.TXT of
PKWARE, with its ZIP64 extension).
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, Protocol

from retraced._source_archive import Bytes, Extent

_ROOT: Final = "archive"
_ALIGNMENT: Final = 64
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_UTF8: Final = 1 << 11
_DATE: Final = 0x21
_LARGEST: Final = 0xFFFFFFFF
_FIRST_ZIP64: int = _LARGEST
_MOST_RECORDS: Final = 0xFFFF


class _Closable(Bytes, Protocol):
    name: str

    def close(self) -> None: ...


class Spliced:
    """An archive whose bytes lie in several places; a `Source`.

    Args:
        file: Where the records lie that are taken over. It is closed with this.
        records: All records in order by name without the root: where they lie in `file`.
        replaced: The bytes of those that are others now.
    """

    def __init__(self, file: _Closable, records: Mapping[str, Extent], replaced: Mapping[str, bytes]) -> None:
        self.name = file.name
        self.can_reread = True
        self.size = 0
        self._file = file
        # Where each piece begins, and its bytes, or where they lie in the file.
        self._starts: list[int] = []
        self._pieces: list[bytes | Extent] = []
        directory = bytearray()
        for name, extent in records.items():
            data = replaced.get(name)
            if data is not None:
                extent = Extent(0, len(data), zlib.crc32(data))
            full = f"{_ROOT}/{name}".encode()
            directory += _central(full, extent, self.size)
            self._add(_header(full, extent, self.size))
            self._add(extent if data is None else data)
        self._add(bytes(directory) + _ending(len(records), self.size, len(directory)))

    def read_at(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        found = bytearray()
        index = bisect_right(self._starts, offset) - 1
        while size > 0:
            piece, skipped = self._pieces[index], offset - self._starts[index]
            if isinstance(piece, Extent):
                data = self._file.read_at(piece.offset + skipped, min(size, piece.size - skipped))
            else:
                data = piece[skipped : skipped + size]
            found += data
            offset, size, index = offset + len(data), size - len(data), index + 1
        return bytes(found)

    def close(self) -> None:
        """See `Source`."""
        self._file.close()

    def _add(self, piece: bytes | Extent) -> None:
        size = piece.size if isinstance(piece, Extent) else len(piece)
        if size:
            self._starts.append(self.size)
            self._pieces.append(piece)
            self.size += size


def _header(name: bytes, extent: Extent, at: int) -> bytes:
    """What stands in front of a record that begins at `at`."""
    large = extent.size >= _FIRST_ZIP64
    extra = struct.pack("<2H2Q", 1, 16, extent.size, extent.size) if large else b""
    padding = -(at + _LOCAL.size + len(name) + len(extra) + 4) % _ALIGNMENT
    extra += struct.pack("<2H", 0x4246, padding) + b"Z" * padding
    shown = _LARGEST if large else extent.size
    fixed = (b"PK\x03\x04", 45 if large else 20, _UTF8, 0, 0, _DATE, extent.crc, shown, shown, len(name), len(extra))
    return _LOCAL.pack(*fixed) + name + extra


def _central(name: bytes, extent: Extent, at: int) -> bytes:
    """A record in the directory."""
    large = extent.size >= _FIRST_ZIP64 or at >= _FIRST_ZIP64
    extra = struct.pack("<2H3Q", 1, 24, extent.size, extent.size, at) if large else b""
    size, offset = (_LARGEST, _LARGEST) if large else (extent.size, at)
    version = 45 if large else 20
    fixed = (b"PK\x01\x02", version, version, _UTF8, 0, 0, _DATE, extent.crc, size, size)
    return _CENTRAL.pack(*fixed, len(name), len(extra), 0, 0, 0, 0, offset) + name + extra


def _ending(count: int, start: int, size: int) -> bytes:
    """What ends the archive, behind a directory that begins at `start`."""
    large = start >= _FIRST_ZIP64 or size >= _FIRST_ZIP64
    ending = b""
    if large or count >= _MOST_RECORDS:
        ending = _END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
        ending += _LOCATOR64.pack(b"PK\x06\x07", 0, start + size, 1)
    many = min(count, _MOST_RECORDS)
    return ending + _END.pack(b"PK\x05\x06", 0, 0, many, many, *((_LARGEST, _LARGEST) if large else (size, start)), 0)
