"""The records of an archive, whose structure is checked before anything in it is read: a zip of whole records that lie under one root."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from retraced_pt2.errors import Fault, FormatError, damaged, invalid, shortened
from retraced_pt2.files import CHUNK_BYTES, Bytes, Extent
from retraced_pt2.limits import LARGEST_DOCUMENT
from retraced_pt2.record_names import find_program, foreign
from retraced_pt2.zip_reader import read_entries

_EXPECTED: Final = (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little"))
_LONGEST_EXPECTED: Final = 64


class Archive:
    """The records of a `.pt2` file, by name without the root. All that is known of them is made anew from what was checked.

    Args:
        file: The file.

    Attributes:
        records: Where the bytes of each record lie, in order.

    Raises:
        FormatError: ARCHIVE_INVALID where the file is empty, no zip, cut short or ambiguous; SCHEMA_UNSUPPORTED or PROGRAM_MISSING where
            its records have no common root.
    """

    def __init__(self, file: Bytes) -> None:
        self._file = file
        self.records = _without_root(read_entries(file))
        # Those whose checksum has been compared.
        self._checked: set[str] = set()

    def find_program(self) -> str:
        """Return the name of the one program that all records are of.

        Raises:
            FormatError: PROGRAM_MISSING where there is none; PROGRAM_UNSUPPORTED where there are several, or what is not read;
                SCHEMA_UNSUPPORTED where it is in an older layout; ARCHIVE_INVALID where there are records that no program has.
        """
        program = find_program(self.records)
        for name, expected in _EXPECTED:
            if name == "byteorder" and name not in self.records:
                continue
            found = self.read(name, most=_LONGEST_EXPECTED)
            if found != expected:
                raise FormatError(
                    Fault.ARCHIVE_INVALID, f"the archive's record `{name}` is {found[:20]!r}, and {expected!r} is what is read"
                )
        return program

    def check(self) -> None:
        """Read every record once and compare its checksum.

        Raises:
            FormatError: ARCHIVE_INVALID, with the record's name.
        """
        for name in self.records:
            for _ in self.chunks(name):
                pass

    def extent(self, name: str) -> Extent:
        """Return where a record's bytes lie. Raises `FormatError` PROGRAM_INVALID where there is none of that name."""
        if name not in self.records:
            raise invalid(f"the archive has no record `{shortened(name, 200)}`", record=name[:200])
        return self.records[name]

    def read(self, name: str, *, most: int = LARGEST_DOCUMENT, anew: bool = False) -> bytes:
        """Return a record's bytes, after comparing its checksum.

        Args:
            name: The record.
            most: How many bytes it may have.
            anew: Compare the checksum though it has been compared before.

        Raises:
            FormatError: ARCHIVE_INVALID where it is damaged or too large, PROGRAM_INVALID where there is none of that name.
        """
        size = self.extent(name).size
        if size > most:
            raise FormatError(
                Fault.ARCHIVE_INVALID, f"the archive's record `{name}` has {size} bytes, and {most} are the most", record=name
            )
        return b"".join(self.chunks(name, anew=anew))

    def chunks(self, name: str, *, anew: bool = False) -> Iterator[bytes]:
        """Yield a record's bytes in pieces of 1 MiB, and compare its checksum, once if not `anew`.

        Raises:
            FormatError: ARCHIVE_INVALID where it is damaged.
        """
        extent = self.records[name]
        checked = name in self._checked and not anew
        crc = done = 0
        while done < extent.size:
            chunk = self._file.read_at(extent.offset + done, min(CHUNK_BYTES, extent.size - done))
            if not chunk:
                raise damaged(name, "the file ends inside it")
            if not checked:
                crc = zlib.crc32(chunk, crc)
            done += len(chunk)
            yield chunk
        if not checked and crc != extent.crc:
            raise damaged(name, "its checksum is another")
        self._checked.add(name)


def _without_root(entries: list[tuple[str, Extent]]) -> dict[str, Extent]:
    records: dict[str, Extent] = {}
    root: str | None = None
    for full, extent in entries:
        first, slash, name = full.partition("/")
        if not slash or not first:
            raise foreign([full for full, _ in entries])
        if root is not None and first != root:
            raise FormatError(
                Fault.ARCHIVE_INVALID,
                f"the archive's records have two roots, `{shortened(root, 200)}` and `{shortened(first, 200)}`",
            )
        if name in records:
            raise FormatError(Fault.ARCHIVE_INVALID, f"the archive has two records `{shortened(name, 200)}`")
        root = first
        records[name] = extent
    return records
