"""The bytes of files, read from any place in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

CHUNK_BYTES: Final = 1 << 20


class Bytes(Protocol):
    """The bytes of a file."""

    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset`."""
        ...


@dataclass(frozen=True, slots=True)
class Extent:
    """The bytes of a record: where they lie in the file, how many they are, and their checksum as the directory has it."""

    offset: int
    size: int
    crc: int


class DescriptorBytes:
    """A regular file by its descriptor.

    Args:
        fd: The descriptor, which is left open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """See `Bytes`; fewer where the file has been cut since."""
        return os.pread(self._fd, size, offset)


def chunks(file: Bytes, offset: int, size: int) -> Iterator[bytes]:
    """Yield bytes of a file in pieces of 1 MiB."""
    for at in range(offset, offset + size, CHUNK_BYTES):
        yield file.read_at(at, min(CHUNK_BYTES, offset + size - at))
