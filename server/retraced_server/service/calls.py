"""What every call has around it, composed once: its ids, its log line, and its errors as statuses."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.service.authentication import Authenticator
from retraced_server.service.callers import NO_LIMITS, UNKNOWN, CallerLimits
from retraced_server.service.quotas import Quotas
from retraced_server.service.record import CallRecord
from retraced_server.service.statuses import Status, status_of

Context = grpc.aio.ServicerContext[bytes, bytes]
"""A call's context. Messages are bytes: `convert` reads and makes them."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_MAX_REQUEST_ID = 128
# W3C Trace Context, version 00, and what a later version may put behind it.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]{0,128})?")

_log = structlog.stdlib.get_logger("retraced")


@dataclass(frozen=True)
class Call:
    """What a call is known by.

    Attributes:
        request_id: Its name, in logs and errors.
        traceparent: W3C Trace Context; empty where the caller gave none, or none that can be read.
        caller: Who calls: a name, ANONYMOUS where nobody is named, or UNKNOWN for one that is refused.
        limits: What the caller is allowed.
        record: What is kept of it.
    """

    request_id: str
    traceparent: str
    caller: str = UNKNOWN
    limits: CallerLimits = NO_LIMITS
    record: CallRecord = field(default_factory=CallRecord)

    @property
    def identity(self) -> dict[str, str]:
        """The ids by name, as logs and errors have them."""
        identity = {"request_id": self.request_id}
        return {**identity, "traceparent": self.traceparent} if self.traceparent else identity


class Observer(Protocol):
    """Looks at calls that have ended."""

    def ended(self, call: Call) -> None:
        """Hear that a call has ended; all that is known of it is in its record."""
        ...


class Calls:
    """The calls of one server: those that run, and what each has around it.

    Args:
        authenticate: Says who calls.
        send_tracebacks: Whether callers see where in a pass it failed; the log has it anyway.
    """

    def __init__(self, authenticate: Authenticator, *, send_tracebacks: bool = False) -> None:
        self.quotas = Quotas()
        self._authenticate = authenticate
        self._send_tracebacks = send_tracebacks
        self._running: set[asyncio.Task[object]] = set()
        self._observers: tuple[Observer, ...] = ()

    def observe(self, *observers: Observer) -> None:
        """Have observers look at every call that ends from now on."""
        self._observers += observers

    async def ended(self) -> None:
        """Wait until the calls that run have given up what they hold."""
        while self._running:
            await asyncio.wait(self._running)

    def served(
        self, name: str, method: Callable[[_Request, Context, Call], Awaitable[_Response]]
    ) -> Callable[[_Request, Context], Awaitable[_Response]]:
        """Make a method of a service into a handler of gRPC's.

        Args:
            name: The method's name, for logs.
            method: Answers a call. What it raises ends the call with a status: a RetracedError with its own, anything else with
                INTERNAL, and its traceback goes only to the log.
        """

        async def handler(request: _Request, context: Context) -> _Response:
            if (task := asyncio.current_task()) is not None:
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            started = time.monotonic()
            call, fault = self._identify(context)
            call.record.method, call.record.peer = name, context.peer()
            with structlog.contextvars.bound_contextvars(**call.identity, caller=call.caller, method=name, peer=context.peer()):
                try:
                    if fault is not None:
                        raise fault
                    if task is not None:
                        self.quotas.enter(call.caller, call.limits, task)
                    response = await method(request, context, call)
                except asyncio.CancelledError:
                    _log_end(started, code := _why_cancelled(context))
                    self._ended(call, code)
                    raise
                except grpc.aio.InternalError as error:
                    # A write failed: the caller is gone, and gRPC has yet to say so.
                    _log_end(started, code := _why_cancelled(context))
                    self._ended(call, code)
                    raise asyncio.CancelledError from error
                except RetracedError as error:
                    status = status_of(error, call.identity, with_traceback=self._send_tracebacks)
                    _log_failure(started, error, status)
                    self._ended(call, status.code, error.reason)
                except Exception:  # noqa: BLE001 - whatever it is, the caller gets a status and the log the traceback
                    status = status_of(_fault(call), call.identity)
                    _log.exception("request failed", code=status.code.name, reason="INTERNAL", seconds=_since(started))
                    self._ended(call, status.code, Reason.INTERNAL)
                else:
                    _log_end(started, grpc.StatusCode.OK)
                    self._ended(call, grpc.StatusCode.OK)
                    return response
            try:
                return await context.abort(status.code, status.message, (("grpc-status-details-bin", status.details),))
            except grpc.aio.InternalError as error:
                raise asyncio.CancelledError from error

        return handler

    def _identify(self, context: Context) -> tuple[Call, RetracedError | None]:
        """Return what a call is known by, and what is wrong with it."""
        call, fault = _identify(context)
        try:
            caller = self._authenticate(context)
        except RetracedError as error:
            return call, error
        return replace(call, caller=caller.name, limits=caller.limits), fault

    def _ended(self, call: Call, code: grpc.StatusCode, reason: Reason | None = None) -> None:
        record = call.record
        record.ended_at, record.code, record.reason = time.monotonic(), code, "" if reason is None else reason.value
        for observer in self._observers:
            try:
                observer.ended(call)
            except Exception:  # noqa: BLE001 - what looks on is not to take the call down
                _log.exception("a call could not be observed", observer=type(observer).__name__)


def _fault(call: Call) -> RetracedError:
    return RetracedError(Reason.INTERNAL, f"a fault of the server; its log says more of request {call.request_id}")


def _identify(context: Context) -> tuple[Call, RetracedError | None]:
    """Return the ids that a call came with, or made for it; and what is wrong with them."""
    given: dict[str, list[str]] = {"x-request-id": [], "traceparent": []}
    for key, value in context.invocation_metadata() or ():
        if key in given:
            given[key].append(value if isinstance(value, str) else value.decode(errors="replace"))
    # Trace Context says that a traceparent that cannot be read is as if there were none.
    parents = [value for value in given["traceparent"] if _TRACEPARENT.fullmatch(value)]
    traceparent = parents[0] if len(parents) == 1 else ""
    match [value for value in given["x-request-id"] if value]:
        case []:
            return Call(uuid.uuid4().hex, traceparent), None
        case [request_id] if len(request_id) <= _MAX_REQUEST_ID and request_id.isascii() and request_id.isprintable():
            return Call(request_id, traceparent), None
    description = f"an id is one value of at most {_MAX_REQUEST_ID} printable ASCII characters"
    fault = RetracedError(
        Reason.PROTOCOL_VIOLATION,
        f"the metadata `x-request-id` cannot be used: {description}",
        violations=[FieldViolation("metadata.x-request-id", description)],
    )
    return Call(uuid.uuid4().hex, traceparent), fault


def _why_cancelled(context: Context) -> grpc.StatusCode:
    # gRPC gives None where there is no deadline; its types do not say so.
    remaining: float | None = context.time_remaining()
    return grpc.StatusCode.CANCELLED if remaining is None or remaining > 0 else grpc.StatusCode.DEADLINE_EXCEEDED


def _log_end(started: float, code: grpc.StatusCode) -> None:
    _log.info("request ended", code=code.name, seconds=_since(started))


def _log_failure(started: float, error: RetracedError, status: Status) -> None:
    log = _log.error if status.code is grpc.StatusCode.INTERNAL else _log.info
    log(
        "request failed",
        code=status.code.name,
        reason=error.reason.value,
        error=error.message,
        **{f"error_{key}": value for key, value in error.metadata.items()},
        seconds=_since(started),
        # The key of tracebacks in structlog, which writes them below their line where it writes for people.
        **({"exception": error.traceback} if error.traceback else {}),
    )


def _since(started: float) -> float:
    return round(time.monotonic() - started, 4)
