"""Domain errors: raised where the fault is known, turned into gRPC statuses in one place, `service/`.

This module knows neither torch nor gRPC, so that every part of the server can raise them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Reason(Enum):
    """Why a request failed. The values are the names of `retraced.v1.ErrorReason` without their prefix."""

    PROTOCOL_VIOLATION = "PROTOCOL_VIOLATION"
    ARCHIVE_MISMATCH = "ARCHIVE_MISMATCH"
    ARCHIVE_INVALID = "ARCHIVE_INVALID"
    PROGRAM_TOO_LARGE = "PROGRAM_TOO_LARGE"
    PROGRAM_MISSING = "PROGRAM_MISSING"
    PROGRAM_INVALID = "PROGRAM_INVALID"
    PROGRAM_UNSUPPORTED = "PROGRAM_UNSUPPORTED"
    SCHEMA_UNSUPPORTED = "SCHEMA_UNSUPPORTED"
    PIPELINE_SYNTAX = "PIPELINE_SYNTAX"
    PASS_UNKNOWN = "PASS_UNKNOWN"
    OPTION_UNKNOWN = "OPTION_UNKNOWN"
    OPTION_INVALID = "OPTION_INVALID"
    PASS_FAILED = "PASS_FAILED"
    PASS_OUTPUT_INVALID = "PASS_OUTPUT_INVALID"
    NEW_GUARDS = "NEW_GUARDS"
    QUEUE_FULL = "QUEUE_FULL"
    SERVER_DRAINING = "SERVER_DRAINING"
    WORKERS_UNAVAILABLE = "WORKERS_UNAVAILABLE"
    WORKER_CRASHED = "WORKER_CRASHED"
    WORKER_EXITED = "WORKER_EXITED"
    WORKER_KILLED = "WORKER_KILLED"
    WORKER_OUT_OF_MEMORY = "WORKER_OUT_OF_MEMORY"
    JOB_TIMED_OUT = "JOB_TIMED_OUT"
    STORAGE_FULL = "STORAGE_FULL"
    STORAGE_CORRUPT = "STORAGE_CORRUPT"
    SANDBOX_READ_DENIED = "SANDBOX_READ_DENIED"
    SANDBOX_WRITE_DENIED = "SANDBOX_WRITE_DENIED"
    SANDBOX_NETWORK_DENIED = "SANDBOX_NETWORK_DENIED"
    SANDBOX_OPERATION_DENIED = "SANDBOX_OPERATION_DENIED"
    SANDBOX_LIMIT_EXCEEDED = "SANDBOX_LIMIT_EXCEEDED"
    CPU_LIMIT_EXCEEDED = "CPU_LIMIT_EXCEEDED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    CALLER_LIMIT_EXCEEDED = "CALLER_LIMIT_EXCEEDED"
    DOWNLOAD_STALLED = "DOWNLOAD_STALLED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that is at fault, for example `spec.pipeline`, and what is wrong with it."""

    field: str
    description: str


class RetracedError(Exception):
    """A request cannot be answered.

    Attributes:
        reason: Which of the documented reasons it is.
        message: One or two sentences that say what is wrong, where, and what to do.
        metadata: Facts for a program to read: the pass, the node, a limit. All strings.
        violations: Fields of the request that are at fault.
        retry_after: Seconds after which the same request may succeed; None where it will not.
        traceback: Where in a pass or a module of the operator's it was raised; for the log, and for callers who may see it.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.traceback = traceback


@dataclass(frozen=True)
class Failure:
    """Hold the facts of an error for whoever asks later, any number of times.

    An exception object is never kept to be raised again: its traceback, which grows each time, holds on to every call that it ended.

    Attributes:
        reason: Which of the documented reasons it is.
        message: One or two sentences that say what is wrong, where, and what to do.
        metadata: Facts for a program to read.
        retry_after: Seconds after which the same request may succeed; None where it will not.
    """

    reason: Reason
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None

    def error(self) -> RetracedError:
        """Make a new exception of the facts."""
        return RetracedError(self.reason, self.message, metadata=self.metadata, retry_after=self.retry_after)


def text_of(error: BaseException) -> str:
    """Return what an error says, or the name of its type where it says nothing or cannot: a pass may raise errors of any kind."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a class may write itself in any way
        text = ""
    return text or type(error).__name__
