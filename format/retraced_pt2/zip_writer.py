"""Writes zips as torch's PyTorchFileWriter does: records plain, under one root, each beginning at a multiple of 64 bytes.

Sizes and checksums stand in front of each record, so that the file is written from front to end. The padding is an extra field `FB`, as
torch writes it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection
from typing import IO, Final

from retraced_pt2 import zip_format as zf
from retraced_pt2.errors import Fault, FormatError, damaged
from retraced_pt2.files import CHUNK_BYTES, Extent

ALIGNMENT: Final = 64
ROOT: Final = "archive"
"""The folder that all records lie in."""

_DATE: Final = 0x21
"""1 January 1980, the first day that the format has: files of the same content are the same bytes."""
_FIRST_ZIP64: int = zf.LARGEST
"""Sizes and offsets from here on go into the ZIP64 extension."""


def local_header(name: str, size: int, crc: int, at: int) -> bytes:
    """Return what stands in front of a record that begins at `at`."""
    raw = f"{ROOT}/{name}".encode()
    large = size >= _FIRST_ZIP64
    extra = struct.pack("<2H2Q", zf.ZIP64_ID, 16, size, size) if large else b""
    padding = -(at + zf.LOCAL.size + len(raw) + len(extra) + zf.FIELD.size) % ALIGNMENT
    extra += zf.FIELD.pack(zf.PADDING_ID, padding) + b"Z" * padding
    version, shown = (zf.VERSION64, zf.LARGEST) if large else (zf.VERSION, size)
    fixed = (zf.LOCAL_MAGIC, version, zf.UTF8, 0, 0, _DATE, crc, shown, shown, len(raw), len(extra))
    return zf.LOCAL.pack(*fixed) + raw + extra


def directory(records: Collection[tuple[str, int, int, int]], start: int) -> bytes:
    """Return what ends the file: the directory, which begins at `start`, and its end.

    Args:
        records: The records in order: name without the root, size, checksum, and where each begins.
        start: Where the last record ends.
    """
    made = bytearray()
    for name, size, crc, at in records:
        raw = f"{ROOT}/{name}".encode()
        large = size >= _FIRST_ZIP64 or at >= _FIRST_ZIP64
        extra = struct.pack("<2H3Q", zf.ZIP64_ID, 24, size, size, at) if large else b""
        version, shown, offset = (zf.VERSION64, zf.LARGEST, zf.LARGEST) if large else (zf.VERSION, size, at)
        fixed = (zf.CENTRAL_MAGIC, version, version, zf.UTF8, 0, 0, _DATE, crc, shown, shown, len(raw), len(extra))
        made += zf.CENTRAL.pack(*fixed, 0, 0, 0, 0, offset) + raw + extra
    count, size = len(records), len(made)
    large = start >= _FIRST_ZIP64 or size >= _FIRST_ZIP64
    if large or count >= zf.LARGEST_COUNT:
        versions = (zf.VERSION64, zf.VERSION64)
        made += zf.END64.pack(zf.END64_MAGIC, zf.END64.size - 12, *versions, 0, 0, count, count, size, start)
        made += zf.LOCATOR64.pack(zf.LOCATOR64_MAGIC, 0, start + size, 1)
    many = min(count, zf.LARGEST_COUNT)
    place = (zf.LARGEST, zf.LARGEST) if large else (size, start)
    return bytes(made + zf.END.pack(zf.END_MAGIC, 0, 0, many, many, *place, 0))


class ZipWriter:
    """Writes one zip.

    Args:
        file: A file open for writing, at its beginning. It is left open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._records: list[tuple[str, int, int, int]] = []

    @property
    def checksums(self) -> list[tuple[str, int]]:
        """The records written so far, by name with the root, with their checksums."""
        return [(f"{ROOT}/{name}", crc) for name, _, crc, _ in self._records]

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a record."""
        self._begin(name, zlib.crc32(data), len(data))
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            self._put(view[start : start + CHUNK_BYTES])

    def copy(self, name: str, fd: int, extent: Extent) -> None:
        """Write a record whose bytes lie in another file; the kernel copies them where it can.

        Raises:
            FormatError: ARCHIVE_INVALID where the other file ends before them, or where they are read here and are damaged.
        """
        self._begin(name, extent.crc, extent.size)
        offset, left, crc, unread = extent.offset, extent.size, 0, False
        while left > 0:
            copied = self._copy_in_kernel(fd, offset, left)
            unread |= copied > 0
            if copied == 0:
                data = os.pread(fd, min(left, CHUNK_BYTES), offset)
                if not data:
                    raise FormatError(
                        Fault.ARCHIVE_INVALID, f"the file ends before the bytes of the record `{name}`", record=name
                    )
                self._put(data)
                copied, crc = len(data), zlib.crc32(data, crc)
            offset, left = offset + copied, left - copied
        if crc != extent.crc and not unread:
            raise damaged(name, "its checksum is another")

    def finish(self) -> None:
        """Write the directory."""
        self._put(directory(self._records, self._at))
        self._file.flush()

    def _begin(self, name: str, crc: int, size: int) -> None:
        header = local_header(name, size, crc, self._at)
        self._records.append((name, size, crc, self._at))
        self._put(header)

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
