"""Writes zips as torch's PyTorchFileWriter does: records plain, under one root, each beginning at a multiple of 64 bytes.

Sizes and checksums stand in front of each record, so that the file is written from front to end. The format is APPNOTE.TXT of
PKWARE, with its ZIP64 extension for sizes and offsets over 4 GiB; the padding is an extra field `FB`, as torch writes it.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import IO, Final

from retraced_server.program.archive import Extent
from retraced_server.program.errors import archive_invalid

ALIGNMENT: Final = 64

_CHUNK_BYTES: Final = 1 << 20
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_VERSION: Final = 20
_VERSION64: Final = 45
_UTF8: Final = 1 << 11
_DATE: Final = 0x21
"""1 January 1980, the first day that the format has: files of the same content are the same bytes."""
_LARGEST: Final = 0xFFFFFFFF
"""Stands in a field of 32 bits whose value is in the ZIP64 extension."""
_FIRST_ZIP64: int = _LARGEST
"""Sizes and offsets from here on go into the ZIP64 extension."""
_MOST_RECORDS: Final = 0xFFFF
_PADDING_ID: Final = 0x4246
_ZIP64_ID: Final = 1


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    crc: int
    size: int
    offset: int


class ZipWriter:
    """Writes one zip.

    Args:
        file: A file open for writing, at its beginning. It is left open.
        root: The folder that all records lie in.
    """

    def __init__(self, file: IO[bytes], root: str) -> None:
        self._file = file
        self._root = root
        self._at = 0
        self._entries: list[_Entry] = []

    @property
    def checksums(self) -> list[tuple[str, int]]:
        """The records written so far, by name with the root, with their checksums."""
        return [(entry.name.decode(), entry.crc) for entry in self._entries]

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Writes a record."""
        self._begin(name, zlib.crc32(data), len(data))
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK_BYTES):
            self._put(view[start : start + _CHUNK_BYTES])

    def copy(self, name: str, extent: Extent) -> None:
        """Writes a record whose bytes lie in another file; the kernel copies them where it can.

        Raises:
            RetracedError: ARCHIVE_INVALID where the other file ends before them, or where they are read here and are damaged.
        """
        self._begin(name, extent.crc, extent.size)
        offset, left, crc, unread = extent.offset, extent.size, 0, False
        while left > 0:
            copied = self._copy_in_kernel(extent.fd, offset, left)
            unread |= copied > 0
            if copied == 0:
                data = os.pread(extent.fd, min(left, _CHUNK_BYTES), offset)
                if not data:
                    raise archive_invalid(f"the file ends before the bytes of the record `{name}`", record=name)
                self._put(data)
                copied, crc = len(data), zlib.crc32(data, crc)
            offset, left = offset + copied, left - copied
        if crc != extent.crc and not unread:
            raise archive_invalid(f"the archive's record `{name}` is damaged: its checksum is another", record=name)

    def finish(self) -> None:
        """Writes the directory."""
        start = self._at
        for entry in self._entries:
            large = entry.size >= _FIRST_ZIP64 or entry.offset >= _FIRST_ZIP64
            extra = struct.pack("<2H3Q", _ZIP64_ID, 24, entry.size, entry.size, entry.offset) if large else b""
            size, offset = (_LARGEST, _LARGEST) if large else (entry.size, entry.offset)
            version = _VERSION64 if large else _VERSION
            lengths = (len(entry.name), len(extra), 0, 0, 0)
            fixed = (b"PK\x01\x02", version, version, _UTF8, 0, 0, _DATE, entry.crc, size, size, *lengths, 0, offset)
            self._put(_CENTRAL.pack(*fixed) + entry.name + extra)
        count, size = len(self._entries), self._at - start
        large = start >= _FIRST_ZIP64 or size >= _FIRST_ZIP64
        if count >= _MOST_RECORDS or large:
            end = self._at
            self._put(_END64.pack(b"PK\x06\x06", 44, _VERSION64, _VERSION64, 0, 0, count, count, size, start))
            self._put(_LOCATOR64.pack(b"PK\x06\x07", 0, end, 1))
        many = min(count, _MOST_RECORDS)
        self._put(_END.pack(b"PK\x05\x06", 0, 0, many, many, *((_LARGEST, _LARGEST) if large else (size, start)), 0))
        self._file.flush()

    def _begin(self, name: str, crc: int, size: int) -> None:
        full = f"{self._root}/{name}".encode()
        large = size >= _FIRST_ZIP64
        extra = struct.pack("<2H2Q", _ZIP64_ID, 16, size, size) if large else b""
        start = self._at + _LOCAL.size + len(full) + len(extra) + 4
        padding = -start % ALIGNMENT
        extra += struct.pack("<2H", _PADDING_ID, padding) + b"Z" * padding
        version, shown = (_VERSION64, _LARGEST) if large else (_VERSION, size)
        self._entries.append(_Entry(full, crc, size, self._at))
        self._put(
            _LOCAL.pack(b"PK\x03\x04", version, _UTF8, 0, 0, _DATE, crc, shown, shown, len(full), len(extra)) + full + extra
        )

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        # A raw file may take less than it is given.
        while view:
            written = self._file.write(view)
            view = view[written:]
            self._at += written

    def _copy_in_kernel(self, fd: int, offset: int, size: int) -> int:
        try:
            if not self._file.seekable():
                return 0
            self._file.flush()
            copied = os.copy_file_range(fd, self._file.fileno(), size, offset, self._at)
        # A file without a descriptor, on another file system, or a kernel or sandbox that does not allow it.
        except (OSError, AttributeError):
            return 0
        self._at += copied
        self._file.seek(self._at)
        return copied
