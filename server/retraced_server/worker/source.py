"""What a worker has of a program: its archive, in a file that the front end has given it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import IO

from retraced_server.errors import Reason, RetracedError
from retraced_server.worker.output import CHUNK_BYTES


class ArchiveFile:
    """A whole archive.

    Args:
        file: Its bytes: a file with a descriptor, open for reading.
        sha256: Its digest when it was uploaded; empty where it is not known.

    Attributes:
        file: Its bytes.
        size: How many they are.
    """

    def __init__(self, file: IO[bytes], sha256: bytes = b"") -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self._sha256 = sha256

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes in order, as many at a time as a chunk of the output has."""
        offset = 0
        while data := os.pread(self.file.fileno(), CHUNK_BYTES, offset):
            yield data
            offset += len(data)

    def check(self) -> None:
        """Read the archive once and compare its digest.

        Raises:
            RetracedError: STORAGE_CORRUPT: it is not what was uploaded.
        """
        if self._sha256:
            digest = hashlib.sha256()
            for piece in self.pieces():
                digest.update(piece)
            self.compare(digest.digest())

    def compare(self, sha256: bytes) -> None:
        """Compare a digest of its bytes with the one that it had when it was uploaded.

        Raises:
            RetracedError: STORAGE_CORRUPT: they differ.
        """
        if self._sha256 not in (b"", sha256):
            raise RetracedError(
                Reason.STORAGE_CORRUPT, "the archive changed on the server after it was uploaded: the server's disk is at fault"
            )
