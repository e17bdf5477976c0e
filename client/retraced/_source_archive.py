"""The records of the archive that a caller sends, read from its source."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

_CHUNK_BYTES: Final = 1 << 20
_LOCAL: Final = struct.Struct("<26x2H")
_PROGRAM: Final = re.compile(r"models/([\w.-]{1,128})\.json", re.ASCII)
# What a zip that is no zip, or damaged, makes of `zipfile`.
_FAULTS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    UnicodeError,
)


class Bytes(Protocol):
    """The bytes of a file."""

    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        ...


@dataclass(frozen=True, slots=True)
class Extent:
    """The bytes of a record: where they lie in the file, how many they are, and their checksum."""

    offset: int
    size: int
    crc: int


class SourceArchive:
    """An archive by its records' names without the root. One that cannot be read has none: it is the server that says what is wrong.

    Attributes:
        program_name: The name of its program, `model` where that cannot be told.
        records: Its records, in order.
    """

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self.records: dict[str, Extent] = {}
        try:
            with zipfile.ZipFile(_SourceFile(source)) as read:
                self.records = {
                    info.filename.partition("/")[2]: self._record(info) for info in read.infolist() if not info.is_dir()
                }
        except _FAULTS:
            self.records = {}
        programs = [match[1] for match in map(_PROGRAM.fullmatch, self.records) if match is not None]
        self.program_name = programs[0] if len(programs) == 1 else "model"

    def read(self, name: str) -> bytes | None:
        """The bytes of a record; None where there is none of that name."""
        record = self.records.get(name)
        return None if record is None else self._source.read_at(record.offset, record.size)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a record in pieces of 1 MiB."""
        record = self.records[name]
        return chunks(self._source, record.offset, record.size)

    def _record(self, info: zipfile.ZipInfo) -> Extent:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"the record {info.filename} is compressed")
        name_length, extra_length = _LOCAL.unpack(self._source.read_at(info.header_offset, _LOCAL.size))
        offset = info.header_offset + _LOCAL.size + name_length + extra_length
        if offset + info.file_size > self._source.size:
            raise ValueError(f"the record {info.filename} is cut off")
        return Extent(offset, info.file_size, info.CRC)


class _SourceFile(io.RawIOBase):
    """A source as the file object that `zipfile` reads."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence], 0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._source.size - self._at, 0)
        data = self._source.read_at(self._at, left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


def chunks(file: Bytes, offset: int, size: int) -> Iterator[bytes]:
    """Bytes of a file in pieces of 1 MiB."""
    for at in range(offset, offset + size, _CHUNK_BYTES):
        yield file.read_at(at, min(_CHUNK_BYTES, offset + size - at))
