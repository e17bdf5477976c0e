"""gRPC statuses to this package's errors: the one place that reads `grpc-status-details-bin`."""

from __future__ import annotations

from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced import errors
from retraced._options import is_request_id
from retraced.v1 import graph_transform_pb2 as pb

_M = TypeVar("_M", bound=Message)

_DOMAIN = "retraced.dev"
# Of google.protobuf.Duration, by its definition: 10,000 years.
_LONGEST_DURATION = 315_576_000_000
# Reasons of this package's own are no server's to give.
_BY_REASON: dict[str, type[errors.RetracedError]] = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.RetracedError)
    and f"ERROR_REASON_{kind.reason}" in pb.ErrorReason.keys()  # noqa: SIM118 - it is an enumeration, not a dict
}


# What BoringSSL says of a handshake that failed, by what it means for the caller.
_TLS_FAULTS = {
    "unable to get local issuer certificate": "authority-unknown",
    "self-signed certificate": "authority-unknown",
    "self signed certificate": "authority-unknown",
    "WRONG_VERSION_NUMBER": "plain-text",
}
_ADVICE = "Is it running, and is the address right?"
_TLS_ADVICE: dict[str | None, str] = {
    "authority-unknown": "The authority that signed its certificate is not known here: name it with Tls(ca=...)",
    "plain-text": "It speaks plain text: leave TLS out",
}


def error_from_status(error: grpc.RpcError | grpc.aio.AioRpcError, *, address: str, request_id: str) -> errors.RetracedError:
    """Return the error that a failed call stands for. The caller raises it from `error`.

    Args:
        error: What gRPC raised: a call with a code, details and trailing metadata.
        address: The server's, for messages.
        request_id: The id that was sent; the server's own, where it names one, goes before it.
    """
    code, text = _code(error), _text(error)
    details = _details(error)
    info = _unpack(details, error_details_pb2.ErrorInfo())
    if info is None or info.domain != _DOMAIN:
        return _without_reason(code, text, address=address, request_id=request_id)
    metadata = dict(info.metadata)
    bad_request = _unpack(details, error_details_pb2.BadRequest())
    retry = _unpack(details, error_details_pb2.RetryInfo())
    violations = [
        errors.FieldViolation(violation.field, violation.description)
        for violation in (bad_request.field_violations if bad_request else ())
    ]
    retry_after = _retry_after(retry.retry_delay) if retry else None
    debug = _unpack(details, error_details_pb2.DebugInfo())
    if debug is not None and debug.detail:
        metadata["traceback"] = debug.detail
    named = metadata.pop("request_id", "")
    request_id = named if is_request_id(named) else request_id
    known = _BY_REASON.get(info.reason)
    if known is None:
        return errors.ServerError(
            text, reason=info.reason, metadata=metadata, violations=violations, retry_after=retry_after, request_id=request_id
        )
    return known(text, metadata=metadata, violations=violations, retry_after=retry_after, request_id=request_id)


def _retry_after(delay: Duration) -> float | None:
    """Return the seconds of a delay; None, as where none was given, for one that google.protobuf.Duration does not allow, or negative."""
    if not (0 <= delay.seconds <= _LONGEST_DURATION and 0 <= delay.nanos < 1_000_000_000):
        return None
    return float(delay.seconds + delay.nanos / 1e9)


def _without_reason(code: grpc.StatusCode, text: str, *, address: str, request_id: str) -> errors.RetracedError:
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            fault = next((fault for said, fault in _TLS_FAULTS.items() if said in text), None)
            return errors.ServerUnreachable(
                f"no connection to the server at {address}: {text}. {_TLS_ADVICE.get(fault, _ADVICE)}",
                metadata={} if fault is None else {"tls": fault},
                request_id=request_id,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(
                f"the server at {address} did not finish within the call's timeout", request_id=request_id
            )
        case grpc.StatusCode.CANCELLED:
            return errors.Cancelled(f"the call to {address} was cancelled", request_id=request_id)
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.ServerError(
                f"the server at {address} does not offer this call; is it a retraced server? ({text})",
                reason=code.name,
                request_id=request_id,
            )
        case _:
            return errors.ServerError(
                f"the server at {address} answered {code.name}: {text}", reason=code.name, request_id=request_id
            )


def _code(error: grpc.RpcError | grpc.aio.AioRpcError) -> grpc.StatusCode:
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return code or grpc.StatusCode.UNKNOWN


def _text(error: grpc.RpcError | grpc.aio.AioRpcError) -> str:
    text = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)
    return text or "no details"


def _details(error: grpc.RpcError | grpc.aio.AioRpcError) -> status_pb2.Status:
    status = status_pb2.Status()
    trailing = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in trailing or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                # A proxy may have mangled it; the code and its text are still there.
                return status_pb2.Status()
    return status


def _unpack(status: status_pb2.Status, message: _M) -> _M | None:
    for detail in status.details:
        if detail.Is(message.DESCRIPTOR):
            try:
                return message if detail.Unpack(message) else None
            except DecodeError:
                return None
    return None
