"""The structure of an archive, checked before anything in it is read: a zip of known records that are whole and lie under one root."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from retraced_server.program.errors import archive_invalid, program_invalid, shortened
from retraced_server.program.options import LARGEST_DOCUMENT
from retraced_server.program.record_names import find_program, foreign, is_carried
from retraced_server.program.zip_reader import Entry, read_entries

_CHUNK_BYTES: Final = 1 << 20
_EXPECTED: Final = (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little"))
_LONGEST_EXPECTED: Final = 64


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of a record lie, uncompressed.

    Attributes:
        fd: The file.
        offset: Their first byte.
        size: How many they are.
        crc: Their checksum, as the file's directory has it.
    """

    fd: int
    offset: int
    size: int
    crc: int


class Archive:
    """The records of a `.pt2` file, by name without the root. All that is known of them is made anew from what was checked.

    Args:
        file: The file, open for reading, with a descriptor; it is left open.

    Raises:
        RetracedError: ARCHIVE_INVALID where the file is empty, no zip, cut short, ambiguous, or has records that no program has;
            PROGRAM_MISSING where it holds no exported program; PROGRAM_UNSUPPORTED where it holds several, or what is not read;
            SCHEMA_UNSUPPORTED where it is in an older layout.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._fd = file.fileno()
        self._size = os.fstat(self._fd).st_size
        if self._size == 0:
            raise archive_invalid("the archive is empty: it has 0 bytes")
        self._entries = _without_root(read_entries(self._fd, self._size))
        # Those whose checksum has been compared.
        self._checked: set[str] = set()
        self.program_name = find_program(list(self._entries))
        for name, expected in _EXPECTED:
            if name == "byteorder" and name not in self._entries:
                continue
            found = self.read(name, most=_LONGEST_EXPECTED)
            if found != expected:
                raise archive_invalid(f"the archive's record `{name}` is {found[:20]!r}, and {expected!r} is what is read")

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def check(self) -> None:
        """Reads every record once and compares its checksum.

        Raises:
            RetracedError: ARCHIVE_INVALID, with the record's name.
        """
        for name in self._entries:
            for _ in self._chunks(name):
                pass

    def read(self, name: str, *, most: int = LARGEST_DOCUMENT) -> bytes:
        """Gives a record's bytes, after comparing its checksum.

        Args:
            name: The record.
            most: How many bytes it may have.

        Raises:
            RetracedError: ARCHIVE_INVALID where it is damaged or too large, PROGRAM_INVALID where there is none of that name.
        """
        size = self.size(name)
        if size > most:
            raise archive_invalid(f"the archive's record `{name}` has {size} bytes, and {most} are the most", record=name)
        return b"".join(self._chunks(name))

    def size(self, name: str) -> int:
        """How many bytes a record has. Raises `RetracedError` PROGRAM_INVALID where there is none of that name."""
        return self._entry(name).size

    def extent(self, name: str) -> Extent:
        """Where a record's bytes lie in the file. Raises `RetracedError` PROGRAM_INVALID where there is none of that name."""
        entry = self._entry(name)
        return Extent(self._fd, entry.offset, entry.size, entry.crc)

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Gives the records that are not of the program, `extra/` files, which a rewritten archive keeps."""
        for name in self._entries:
            if is_carried(name):
                # Read long after the check, and written with a checksum of what is read.
                self._checked.discard(name)
                yield name, self.read(name)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise program_invalid(f"the archive has no record `{shortened(name, 200)}`", record=name[:200])
        return self._entries[name]

    def _chunks(self, name: str) -> Iterator[bytes]:
        entry = self._entries[name]
        checked = name in self._checked
        crc = done = 0
        while done < entry.size:
            chunk = os.pread(self._fd, min(_CHUNK_BYTES, entry.size - done), entry.offset + done)
            if not chunk:
                raise archive_invalid(f"the archive's record `{name}` is damaged: the file ends inside it", record=name)
            if not checked:
                crc = zlib.crc32(chunk, crc)
            done += len(chunk)
            yield chunk
        if not checked and crc != entry.crc:
            raise archive_invalid(f"the archive's record `{name}` is damaged: its checksum is another", record=name)
        self._checked.add(name)


def _without_root(entries: list[Entry]) -> dict[str, Entry]:
    records: dict[str, Entry] = {}
    root: str | None = None
    for entry in entries:
        first, slash, name = entry.name.partition("/")
        if not slash or not first:
            raise foreign([entry.name for entry in entries])
        if root is not None and first != root:
            raise archive_invalid(
                f"the archive's records have two roots, `{shortened(root, 200)}` and `{shortened(first, 200)}`"
            )
        if name in records:
            raise archive_invalid(f"the archive has two records `{shortened(name, 200)}`")
        root = first
        records[name] = entry
    return records
