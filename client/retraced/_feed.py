"""The sending side of the asyncio client's `transform`.

gRPC's own reading of a request stream is not used: where the server ends a call before the client has sent everything (it refuses a
program from its spec, say), a write that fails for it takes the place of the server's status, and a half-close that fails cancels the call
(https://github.com/grpc/grpc/issues/36066).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio

from retraced._transform import Transform
from retraced.errors import ResponseInvalid
from retraced.events import Event
from retraced.v1 import graph_transform_pb2 as pb

TransformCall = grpc.aio.StreamStreamCall[pb.TransformGraphRequest, pb.TransformGraphResponse]

_T = TypeVar("_T")

# What grpc.aio says in place of the server's status.
_LOST = "Internal error from Core"
# The server's status is on its way when a write fails for it.
_STATUS_SECONDS = 5.0


class StatusKept:
    """The status that the server gave a call, kept from what a failed write puts in its place."""

    def __init__(self, call: TransformCall) -> None:
        self._kept: grpc.aio.AioRpcError | None = None
        self._there = asyncio.Event()
        call.add_done_callback(self._keep)

    async def error(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError | None:
        """Return the error that `raised` stands for; None where the server's status was OK."""
        if raised.details() != _LOST:
            return raised
        try:
            await asyncio.wait_for(self._there.wait(), _STATUS_SECONDS)
        except TimeoutError:
            return raised
        return None if self._kept is None or self._kept.code() is grpc.StatusCode.OK else self._kept

    def _keep(self, call: TransformCall) -> None:
        # Called whenever the call gets a status. It is read here and now: a write may fail before any other task runs.
        details = _at_once(call.details())
        if self._there.is_set() or details == _LOST:
            return
        self._kept = grpc.aio.AioRpcError(
            _at_once(call.code()), _at_once(call.initial_metadata()), _at_once(call.trailing_metadata()), details
        )
        self._there.set()


class Feed:
    """Sends the request stream, read off the event loop, and tells of events."""

    def __init__(self, transform: Transform, on_event: Callable[[Event], object] | None, call: TransformCall) -> None:
        # What ended the request stream too early.
        self.failure: Exception | None = None
        self._transform = transform
        self._on_event = on_event
        self._call = call
        self._task = asyncio.create_task(self._send())

    def tell(self, event: Event | None) -> None:
        """Tell the caller of an event."""
        if event is not None and self._on_event is not None:
            self._on_event(event)

    async def stopped(self) -> None:
        """End it, and wait until nothing is read any more."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _send(self) -> None:
        steps = self._transform.requests()
        try:
            while (step := await in_thread(lambda: next(steps, None))) is not None:
                request, event = step
                if not await self._sent(self._call.write(request)):
                    return
                self.tell(event)
        except Exception as error:  # noqa: BLE001 - the caller's task raises it instead
            self.failure = error
            self._call.cancel()
        else:
            await self._sent(self._call.done_writing())

    async def _sent(self, sending: Coroutine[Any, Any, None]) -> bool:
        """Whether it was sent. If not, the call has ended, and the responses end with the reason."""
        try:
            await sending
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return False
        return True


def decoded(message: _T | None, request_id: str) -> _T:
    """Return a message of a server. grpc.aio gives None in place of bytes that are no such message.

    Raises:
        ResponseInvalid: They are none.
    """
    if message is None:
        raise ResponseInvalid("the server's answer cannot be used: it is no message of this service", request_id=request_id)
    return message


async def in_thread(function: Callable[[], _T]) -> _T:
    """Call a function in a thread. If cancelled, it still waits for it: the source may not be closed under it."""
    running = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    coroutine.close()
    raise RuntimeError("a call that is done waits for its status")
