"""An archive that is a file on this machine, as a source of records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from retraced_pt2 import archive as pt2
from retraced_pt2 import files
from retraced_pt2.errors import FormatError
from retraced_pt2.record_names import is_carried
from retraced_server.program.errors import format_error, format_errors


@dataclass(frozen=True, slots=True)
class Extent(files.Extent):
    """Where the bytes of a record lie, uncompressed.

    Attributes:
        fd: The file.
    """

    fd: int


class Archive:
    """The records of a `.pt2` file, by name without the root.

    Args:
        file: The file, open for reading, with a descriptor; it is left open.

    Raises:
        RetracedError: ARCHIVE_INVALID where the file is empty, no zip, cut short, ambiguous, or has records that no program has;
            PROGRAM_MISSING where it holds no exported program; PROGRAM_UNSUPPORTED where it holds several, or what is not read;
            SCHEMA_UNSUPPORTED where it is in an older layout.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._fd = file.fileno()
        with format_errors():
            self._archive = pt2.Archive(files.DescriptorBytes(self._fd))
            self.program_name = self._archive.find_program()

    def __contains__(self, name: str) -> bool:
        return name in self._archive.records

    @format_errors()
    def check(self) -> None:
        """Read every record once and compare its checksum. Raises `RetracedError` ARCHIVE_INVALID, with the record's name."""
        self._archive.check()

    @format_errors()
    def read(self, name: str, *, anew: bool = False) -> bytes:
        """Return a record's bytes, after comparing its checksum, again where that was done before and `anew` is set.

        Raises:
            RetracedError: ARCHIVE_INVALID where it is damaged or too large, PROGRAM_INVALID where there is none of that name.
        """
        return self._archive.read(name, anew=anew)

    def size(self, name: str) -> int:
        """Return how many bytes a record has. Raises `RetracedError` PROGRAM_INVALID where there is none of that name."""
        return self._find(name).size

    def extent(self, name: str) -> Extent:
        """Return where a record's bytes lie in the file. Raises `RetracedError` PROGRAM_INVALID where there is none of that name."""
        found = self._find(name)
        return Extent(found.offset, found.size, found.crc, self._fd)

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Yield the records that are not of the program, `extra/` files, which a rewritten archive keeps."""
        for name in self._archive.records:
            if is_carried(name):
                # Read long after the check, and written with a checksum of what is read.
                yield name, self.read(name, anew=True)

    def _find(self, name: str) -> files.Extent:
        # Asked for several times for each tensor, for which a context manager takes too long.
        try:
            return self._archive.extent(name)
        except FormatError as error:
            raise format_error(error) from error
