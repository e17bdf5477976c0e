"""Domain errors to gRPC statuses: the one place that knows which reason is which code."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced_server.errors import Reason, RetracedError

DOMAIN = "retraced.dev"
"""The domain of every ErrorInfo."""

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_INTERNAL = grpc.StatusCode.INTERNAL

CODES = {
    Reason.PROTOCOL_VIOLATION: _INVALID,
    Reason.ARCHIVE_MISMATCH: _INVALID,
    Reason.ARCHIVE_INVALID: _INVALID,
    Reason.PROGRAM_TOO_LARGE: _INVALID,
    Reason.PROGRAM_MISSING: _INVALID,
    Reason.PROGRAM_INVALID: _INVALID,
    # Not UNIMPLEMENTED, which gRPC itself says of methods that a server does not have.
    Reason.PROGRAM_UNSUPPORTED: _PRECONDITION,
    Reason.SCHEMA_UNSUPPORTED: _PRECONDITION,
    Reason.PIPELINE_SYNTAX: _INVALID,
    Reason.PASS_UNKNOWN: _INVALID,
    Reason.OPTION_UNKNOWN: _INVALID,
    Reason.OPTION_INVALID: _INVALID,
    Reason.PASS_FAILED: _PRECONDITION,
    Reason.PASS_OUTPUT_INVALID: _PRECONDITION,
    Reason.NEW_GUARDS: _PRECONDITION,
    Reason.QUEUE_FULL: _EXHAUSTED,
    Reason.SERVER_DRAINING: _UNAVAILABLE,
    Reason.WORKERS_UNAVAILABLE: _UNAVAILABLE,
    Reason.WORKER_CRASHED: _INTERNAL,
    Reason.WORKER_EXITED: _INTERNAL,
    Reason.WORKER_KILLED: _INTERNAL,
    Reason.WORKER_OUT_OF_MEMORY: _EXHAUSTED,
    Reason.JOB_TIMED_OUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.STORAGE_FULL: _EXHAUSTED,
    Reason.STORAGE_CORRUPT: grpc.StatusCode.DATA_LOSS,
    Reason.SANDBOX_READ_DENIED: _PRECONDITION,
    Reason.SANDBOX_WRITE_DENIED: _PRECONDITION,
    Reason.SANDBOX_NETWORK_DENIED: _PRECONDITION,
    Reason.SANDBOX_OPERATION_DENIED: _PRECONDITION,
    Reason.SANDBOX_LIMIT_EXCEEDED: _PRECONDITION,
    Reason.CPU_LIMIT_EXCEEDED: _EXHAUSTED,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.CALLER_LIMIT_EXCEEDED: _EXHAUSTED,
    Reason.DOWNLOAD_STALLED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: _INTERNAL,
}
"""The status code of each reason, as `retraced.v1.ErrorReason` documents them."""

# A peer may drop the headers of a response that are longer than 8 KiB, and these come twice: gRPC's own message beside the details.
# A byte costs 4/3 in the details, which are base64, and up to 3 in the message, which is percent-encoded.
_DETAILS_BYTES = 3600
_MESSAGE_BYTES = 2400
# What a DebugInfo takes beside its text: its type's name, and lengths.
_DEBUG_INFO_BYTES = 64
_TEXT_BYTES = (2000, 1000, 500, 250, 120, 60)
_MAX_ENTRIES = 16
_MAX_VIOLATIONS = 8
_MIN_RETRY_SECONDS = 0.1


@dataclass(frozen=True)
class Status:
    """How a call ends: its code, its message, and the serialized google.rpc.Status."""

    code: grpc.StatusCode
    message: str
    details: bytes


def status_of(error: RetracedError, identity: dict[str, str], *, with_traceback: bool = False) -> Status:
    """Return the status of an error.

    Args:
        error: The error. Where it would make the response's headers too long, texts are cut; the log has them whole.
        identity: What goes into the ErrorInfo's metadata beside the error's own: the ids of the request.
        with_traceback: Whether the caller may see where in a pass it was raised: a DebugInfo, of which the end is sent if it is too long.
    """
    for longest in _TEXT_BYTES:
        status = _status(error, identity, longest)
        if len(status.details) <= _DETAILS_BYTES and _percent_encoded(status.message) <= _MESSAGE_BYTES:
            break
    if not with_traceback or not error.traceback:
        return status
    proto = status_pb2.Status.FromString(status.details)
    left = _DETAILS_BYTES - len(status.details) - _DEBUG_INFO_BYTES
    proto.details.add().Pack(error_details_pb2.DebugInfo(detail=_cut_begin(error.traceback, max(left, 0))))
    return Status(status.code, status.message, proto.SerializeToString())


def _status(error: RetracedError, identity: dict[str, str], longest: int) -> Status:
    code = CODES[error.reason]
    message = _cut(error.message, longest)
    metadata = {
        _cut(key, 64): _cut(value, longest) for key, value in list(error.metadata.items())[:_MAX_ENTRIES] if key not in identity
    }
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata={**metadata, **identity})
    ]
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(violation.field, 64), description=_cut(violation.description, longest)
            )
            for violation in error.violations[:_MAX_VIOLATIONS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(max(error.retry_after, _MIN_RETRY_SECONDS) * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return Status(code, message, status.SerializeToString())


def _cut(text: str, longest: int) -> str:
    # Text of a program's may hold lone surrogates, which no proto string can.
    data = text.encode(errors="backslashreplace")
    if len(data) <= longest:
        return data.decode()
    return data[: longest - 3].decode(errors="ignore") + "..."


def _cut_begin(text: str, longest: int) -> str:
    data = text.encode(errors="backslashreplace")
    return (data if len(data) <= longest else b"..." + data[3 - longest :]).decode(errors="ignore") if longest > 3 else ""


def _percent_encoded(text: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())
