"""Takes an archive chunk by chunk, and checks that it is the one that was announced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

from retraced_server.engine.spool import Spool
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.service.record import CallRecord

MAX_CHUNK_BYTES = 1 << 20
"""The longest chunk of an archive."""

Read = Callable[[], Awaitable[TransformRequest | bytes | None]]

# Hashing and copying this much takes less time than handing it to a thread.
_INLINE_BYTES = 64 << 10


class Upload:
    """The program of one call, received when it is asked for; a context manager that gives up its bytes at the end. A `ProgramSource`.

    Args:
        request: What was announced.
        read: Gives the next message of the request stream; None at its end.
        record: Where to note when the archive is here, and its digest.
        spool_dir: Where the archive goes if it is too large for memory.
        spool_memory: Bytes up to which it is kept in memory.
    """

    def __init__(self, request: TransformRequest, read: Read, record: CallRecord, spool_dir: Path, spool_memory: int) -> None:
        self._spool = Spool(spool_dir, spool_memory)
        self._read = read
        self._record = record
        self._size = request.archive_size
        self._sha256 = request.archive_sha256
        self._in_memory = request.archive_size <= spool_memory

    async def archive(self) -> Spool:
        """Receive the archive to its end, and return it.

        Raises:
            RetracedError: PROTOCOL_VIOLATION, ARCHIVE_MISMATCH or STORAGE_FULL.
        """
        while (chunk := await self._read()) is not None:
            if not isinstance(chunk, bytes):
                raise _violation("spec", f"a second spec came, after {self._spool.size} bytes of the archive")
            await self._write(chunk)
        self._check()
        self._record.archive_sha256, self._record.uploaded_at = self._spool.sha256.hex(), time.monotonic()
        return self._spool

    async def _write(self, chunk: bytes) -> None:
        """Take the next chunk, without holding up the event loop."""
        if not 0 < len(chunk) <= MAX_CHUNK_BYTES:
            message = f"a chunk has {len(chunk)} bytes, after {self._spool.size} of the archive; it has 1 to {MAX_CHUNK_BYTES}"
            raise _violation("archive_chunk", message)
        received = self._spool.size + len(chunk)
        if received > self._size:
            raise _mismatch("archive_size", f"the archive has more than the {self._size} bytes that were announced")
        if self._in_memory and len(chunk) <= _INLINE_BYTES:
            self._spool.write(chunk)
        else:
            await _in_thread(lambda: self._spool.write(chunk))

    def _check(self) -> None:
        """Check the whole, once the caller has half-closed."""
        if self._spool.size != self._size:
            message = f"the archive ended after {self._spool.size} of the {self._size} bytes that were announced"
            raise _mismatch("archive_size", message)
        if self._sha256 and self._spool.sha256 != self._sha256:
            found, announced = self._spool.sha256.hex(), self._sha256.hex()
            raise _mismatch("archive_sha256", f"the archive's sha256 is {found}, and {announced} was announced")

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._spool.close()


async def _in_thread(function: Callable[[], None]) -> None:
    """Run a function in a thread. If cancelled, it still waits for it: its file may not be closed under it."""
    running = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _violation(field: str, message: str) -> RetracedError:
    return RetracedError(Reason.PROTOCOL_VIOLATION, message, violations=[FieldViolation(field, message)])


def _mismatch(field: str, message: str) -> RetracedError:
    return RetracedError(Reason.ARCHIVE_MISMATCH, message, violations=[FieldViolation(f"spec.{field}", message)])
