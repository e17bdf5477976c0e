"""The standard health service, `grpc.health.v1`: whether requests would be taken now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The service's full name."""

_Response = health_pb2.HealthCheckResponse
_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, _Response]
_WATCH_SECONDS = 0.2


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers for the whole server, whose name is empty, and for its services.

    The servicer of grpcio-health-checking forgets every watcher of a service when one of them leaves. Anybody may watch, without a token
    and as often as they like, so one task looks for all.

    Args:
        services: The services' names.
        serving: Says whether they serve.
    """

    def __init__(self, services: Collection[str], serving: Callable[[], bool]) -> None:
        self._services = {"", *services}
        self._serving = serving
        self._closed = False
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None
        # What the watchers are told, and what is set when that is another.
        self._now: int = _Response.UNKNOWN
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End the calls that watch: the server stops."""
        self._closed = True
        self._wake()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> _Response:  # noqa: N802 - gRPC's name
        """Return the state now. NOT_FOUND for another service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return _Response(status=self._status())

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> None:  # noqa: N802 - gRPC's name
        """Yield the state now, and whenever it is another."""
        told: int | None = None
        self._watchers += 1
        try:
            if self._looking is None or self._looking.done():
                self._now = self._status()
                self._looking = asyncio.create_task(self._look(), name="health")
            while not self._closed:
                changed = self._changed
                status = self._now if request.service in self._services else _Response.SERVICE_UNKNOWN
                if status != told:
                    await context.write(_Response(status=status))
                    told = status
                await changed.wait()
        finally:
            self._watchers -= 1

    async def _look(self) -> None:
        while self._watchers and not self._closed:
            await asyncio.sleep(_WATCH_SECONDS)
            if (status := self._status()) != self._now:
                self._now = status
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self) -> int:
        return _Response.SERVING if self._serving() else _Response.NOT_SERVING
