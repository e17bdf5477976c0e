"""Where the records of a program come from: an archive, or what a request carried of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from retraced_server.program.archive import Extent


class RecordSource(Protocol):
    """The records of a program by name, without the root. `Archive` is one."""

    program_name: str

    def __contains__(self, name: str) -> bool:
        """Whether there is a record of that name, with its bytes or without."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a record; the checksum has been compared."""

    def size(self, name: str) -> int:
        """How many bytes a record has."""

    def extent(self, name: str) -> Extent | None:
        """Where the bytes of a record lie in a file, and None where they are not here."""

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Return the records that are not of the program, by name without the root."""
