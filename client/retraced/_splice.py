"""An archive put together anew from records of another and from records in memory; nothing is copied until it is read.

Its bytes are those that `retraced_pt2.zip_writer.ZipWriter` writes.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Protocol

from retraced_pt2.files import Bytes, Extent
from retraced_pt2.zip_writer import directory, local_header


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
        listed = []
        for name, extent in records.items():
            data = replaced.get(name)
            size, crc = (extent.size, extent.crc) if data is None else (len(data), zlib.crc32(data))
            listed.append((name, size, crc, self.size))
            self._add(local_header(name, size, crc, self.size))
            self._add(extent if data is None else data)
        self._add(directory(listed, self.size))

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
