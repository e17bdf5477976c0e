"""What each caller may use at a time, so that none of them keeps the others out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import unquote

from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.service.callers import ANONYMOUS, CallerLimits
from retraced_server.service.connections import peer_of

_RETRY_SECONDS = 1.0
_CRASHES_COUNT_SECONDS = 600.0


def _is_crash(error: RetracedError) -> bool:
    """Return whether a worker ended by the program that it was given, and not by its size or by who runs the server."""
    # Most of what the sandbox refuses is an error of the call that a worker makes, and is answered by it.
    is_ended = error.reason is Reason.SANDBOX_OPERATION_DENIED and "signal" in error.metadata
    return is_ended or error.reason is Reason.WORKER_CRASHED


class Quotas:
    """What every caller uses now, by its name."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        # When workers of each crashed, the last ten minutes.
        self._crashes: dict[str, list[float]] = {}

    def enter(self, caller: str, limits: CallerLimits, task: asyncio.Task[object]) -> None:
        """Count a call until its task is done.

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
    def crashes(self, caller: str, peer: str, limits: CallerLimits) -> Iterator[None]:
        """Count the call if its worker crashes: who may try that again and again finds out where things are in the memory of workers.

        Args:
            caller: Who calls. Callers without a name are told apart by their addresses.
            peer: The address that the call came from, as gRPC has it.
            limits: What the caller is allowed.

        Raises:
            RetracedError: CALLER_LIMIT_EXCEEDED: too many workers of this caller have crashed of late.
        """
        who = caller if caller != ANONYMOUS else f"{ANONYMOUS} {_host(peer)}"
        now = time.monotonic()
        self._crashes = {name: late for name, times in self._crashes.items() if (late := _since(times, now))}
        counted = self._crashes.get(who, [])
        if limits.max_crashes and len(counted) >= limits.max_crashes:
            raise RetracedError(
                Reason.CALLER_LIMIT_EXCEEDED,
                f"{len(counted)} workers that ran programs of this caller have crashed within {_CRASHES_COUNT_SECONDS:g} seconds, which is "
                "all that it may cause; try again later",
                metadata={"limit": str(limits.max_crashes)},
                retry_after=counted[-limits.max_crashes] + _CRASHES_COUNT_SECONDS - now,
            )
        try:
            yield
        except RetracedError as error:
            if _is_crash(error):
                self._crashes.setdefault(who, []).append(time.monotonic())
            raise

    @contextlib.contextmanager
    def upload(self, caller: str, limits: CallerLimits, size: int) -> Iterator[None]:
        """Count the bytes of an archive, from its announcement until the server has given it up.

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


def _since(times: list[float], now: float) -> list[float]:
    return [at for at in times if now - at < _CRASHES_COUNT_SECONDS]


def _host(peer: str) -> str:
    """Return the address of a peer such as `ipv4:192.0.2.1:40312`, or the network where it is IPv6; empty for a Unix socket."""
    kind, _, rest = peer.partition(":")
    return peer_of(unquote(rest).rpartition(":")[0].strip("[]")) if kind in ("ipv4", "ipv6") else ""
