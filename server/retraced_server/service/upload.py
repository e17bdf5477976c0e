"""Takes an archive chunk by chunk, and checks that it is the one that was announced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from retraced_server.engine.spool import Spool
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.pipeline.domain import TransformRequest

MAX_CHUNK_BYTES = 1 << 20
"""The longest chunk of an archive."""

# Hashing and copying this much takes less time than handing it to a thread.
_INLINE_BYTES = 64 << 10


class Upload:
    """An archive that is being received; a context manager that gives up its bytes at the end."""

    def __init__(self, request: TransformRequest, spool_dir: Path, spool_memory: int) -> None:
        self.spool = Spool(spool_dir, spool_memory)
        self._size = request.archive_size
        self._sha256 = request.archive_sha256
        self._in_memory = request.archive_size <= spool_memory

    async def write(self, chunk: bytes) -> None:
        """Takes the next chunk, without holding up the event loop.

        Raises:
            RetracedError: PROTOCOL_VIOLATION, ARCHIVE_MISMATCH or STORAGE_FULL.
        """
        if not 0 < len(chunk) <= MAX_CHUNK_BYTES:
            message = f"a chunk has {len(chunk)} bytes, after {self.spool.size} of the archive; it has 1 to {MAX_CHUNK_BYTES}"
            raise RetracedError(Reason.PROTOCOL_VIOLATION, message, violations=[FieldViolation("archive_chunk", message)])
        received = self.spool.size + len(chunk)
        if received > self._size:
            raise _mismatch("archive_size", f"the archive has more than the {self._size} bytes that were announced")
        if self._in_memory and len(chunk) <= _INLINE_BYTES:
            self.spool.write(chunk)
        else:
            await _in_thread(lambda: self.spool.write(chunk))

    def finish(self) -> None:
        """Checks the whole, once the caller has half-closed.

        Raises:
            RetracedError: ARCHIVE_MISMATCH.
        """
        if self.spool.size != self._size:
            message = f"the archive ended after {self.spool.size} of the {self._size} bytes that were announced"
            raise _mismatch("archive_size", message)
        if self._sha256 and self.spool.sha256 != self._sha256:
            found, announced = self.spool.sha256.hex(), self._sha256.hex()
            raise _mismatch("archive_sha256", f"the archive's sha256 is {found}, and {announced} was announced")

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.spool.close()


async def _in_thread(function: Callable[[], None]) -> None:
    """Runs a function in a thread. If cancelled, it still waits for it: its file may not be closed under it."""
    running = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _mismatch(field: str, message: str) -> RetracedError:
    return RetracedError(Reason.ARCHIVE_MISMATCH, message, violations=[FieldViolation(f"spec.{field}", message)])
