"""What each caller may use at a time, so that none of them keeps the others out."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.service.callers import CallerLimits

_RETRY_SECONDS = 1.0


class Quotas:
    """What every caller uses now, by its name."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def enter(self, caller: str, limits: CallerLimits, task: asyncio.Task[object]) -> None:
        """Counts a call until its task is done.

        A call counts to its very end: also one that was ended for its caller does not read, and whose status nobody takes. So a caller
        cannot leave more of them behind than it may have calls.

        Raises:
            RetracedError: CALLER_LIMIT_EXCEEDED.
        """
        if limits.max_requests and self._requests[caller] >= limits.max_requests:
            raise RetracedError(
                Reason.CALLER_LIMIT_EXCEEDED,
                f"{self._requests[caller]} calls of this caller run or wait, which is all that it may have; try again later",
                metadata={"limit": str(limits.max_requests)},
                retry_after=_RETRY_SECONDS,
            )
        self._requests[caller] += 1
        task.add_done_callback(lambda _: _give_back(self._requests, caller, 1))

    @contextlib.contextmanager
    def upload(self, caller: str, limits: CallerLimits, size: int) -> Iterator[None]:
        """Counts the bytes of an archive, from its announcement until the server has given it up.

        Raises:
            RetracedError: CALLER_LIMIT_EXCEEDED; PROGRAM_TOO_LARGE where it alone is too many.
        """
        most = limits.max_upload_bytes
        if most and size > most:
            message = f"the archive has {size} bytes; this caller may have {most} on the server at a time"
            raise RetracedError(
                Reason.PROGRAM_TOO_LARGE,
                message,
                metadata={"limit": str(most), "limit_of": "caller"},
                violations=[FieldViolation("spec.archive_size", message)],
            )
        if most and self._bytes[caller] + size > most:
            raise RetracedError(
                Reason.CALLER_LIMIT_EXCEEDED,
                f"archives of this caller with {self._bytes[caller]} bytes are on the server, and with {size} more they would be "
                f"above the {most} that it may have; try again later",
                metadata={"limit": str(most)},
                retry_after=_RETRY_SECONDS,
            )
        self._bytes[caller] += size
        try:
            yield
        finally:
            _give_back(self._bytes, caller, size)


def _give_back(counter: Counter[str], caller: str, amount: int) -> None:
    counter[caller] -= amount
    if not counter[caller]:
        del counter[caller]
