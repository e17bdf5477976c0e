"""The output archive on its way to the caller: cut into chunks while it is written, so that it is never held whole."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK_BYTES = 1 << 20
"""The size of every chunk but the last."""


class OutputStream(io.RawIOBase):
    """A file to write an archive to. Call `finish` after the last write, and not when writing failed.

    Args:
        send: Takes each chunk; None where the archive is only measured.
    """

    def __init__(self, send: Callable[[bytes], None] | None) -> None:
        super().__init__()
        self._send = send
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self.size = 0

    @property
    def sha256(self) -> bytes:
        """The sha256 of what was sent; empty where nothing is sent."""
        return b"" if self._send is None else self._hash.digest()

    def writable(self) -> bool:
        """Check that it can be written to."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take all of `data`, and send the chunks that are full."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._send is not None:
            rest = view
            while rest:
                piece = rest[: CHUNK_BYTES - len(self._pending)]
                self._pending += piece
                rest = rest[len(piece) :]
                if len(self._pending) == CHUNK_BYTES:
                    self.finish()
        return len(view)

    def finish(self) -> None:
        """Send what is left."""
        if self._send is not None and self._pending:
            chunk = bytes(self._pending)
            self._pending.clear()
            self._hash.update(chunk)
            self._send(chunk)
