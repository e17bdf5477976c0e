"""A front end on a real socket, in this process, over an engine that a test controls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced._feed import StatusKept
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.service.authentication import Authenticator
from retraced_server.service.calls import Observer
from retraced_server.service.connections import ConnectionLimits
from retraced_server.service.front_end import FrontEnd
from retraced_server.service.instance import RequestLimits
from tests.service.fake_engine import FakeEngine

LIMITS = RequestLimits(
    max_archive_bytes=64 << 20,
    max_queued=8,
    workers=2,
    job_timeout=60.0,
    memory_bytes=3 << 30,
    worker_memory_bytes=1 << 30,
    upload_idle_timeout=30.0,
    download_idle_timeout=30.0,
)
SPOOL_MEMORY = 2 << 20
Start = Callable[..., AbstractAsyncContextManager[str]]


@dataclass(frozen=True)
class Failure:
    """How a call failed, its details decoded."""

    code: grpc.StatusCode
    message: str
    status: Any
    info: Any
    violations: tuple[tuple[str, str], ...]
    retry_after: float | None
    headers_bytes: int
    traceback: str


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What is logged, with the context's ids merged in."""
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, captured])
    yield captured.entries
    structlog.reset_defaults()


@pytest.fixture
def start(engine: FakeEngine, tmp_path: Path) -> Start:
    """Starts a front end with other limits, and gives its address."""

    @contextlib.asynccontextmanager
    async def started(
        limits: RequestLimits = LIMITS,
        *observers: Observer,
        opened: bool = True,
        authenticate: Authenticator | None = None,
        credentials: grpc.ServerCredentials | None = None,
        connections: ConnectionLimits | None = None,
        send_tracebacks: bool = False,
    ) -> AsyncIterator[str]:
        front_end = FrontEnd(
            engine, limits, tmp_path, SPOOL_MEMORY, authenticate, connections=connections, send_tracebacks=send_tracebacks
        )
        front_end.observe(*observers)
        address = front_end.listen("127.0.0.1", 0, credentials)
        await front_end.start()
        if opened:
            front_end.open()
        try:
            yield address
        finally:
            await front_end.stop()

    return started


@pytest.fixture
async def address(start: Start) -> AsyncIterator[str]:
    async with start() as address:
        yield address


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


def spec(size: int = 3, pipeline: str = "retrace", **fields: Any) -> pb.TransformGraphRequest:
    """The first message of a request stream."""
    return pb.TransformGraphRequest(spec=pb.TransformSpec(pipeline=pipeline, archive_size=size, **fields))


def chunk(data: bytes = b"abc") -> pb.TransformGraphRequest:
    """A later one."""
    return pb.TransformGraphRequest(archive_chunk=data)


async def transform(
    channel: grpc.aio.Channel, messages: Iterable[pb.TransformGraphRequest] = (spec(), chunk()), metadata: Any = ()
) -> list[pb.TransformGraphResponse]:
    """Sends a request stream, and gives all that is answered."""
    call = GraphTransformServiceStub(channel).TransformGraph(metadata=metadata)
    status = StatusKept(call)

    async def send() -> None:
        for message in messages:
            await call.write(message)
        await call.done_writing()

    sending = asyncio.create_task(send())
    try:
        return [response async for response in call]
    except grpc.aio.AioRpcError as error:
        raise await status.error(error) or error from error
    finally:
        # What cannot be sent any more is not what is looked for.
        await asyncio.wait({sending})
        sending.cancelled() or sending.exception()


async def failure(
    channel: grpc.aio.Channel, messages: Iterable[pb.TransformGraphRequest] = (spec(), chunk()), metadata: Any = ()
) -> Failure:
    """Sends a request stream, and gives how it fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transform(channel, messages, metadata)
    return decode(caught.value)


def decode(error: grpc.aio.AioRpcError) -> Failure:
    """Reads an error's details."""
    trailers = tuple(error.trailing_metadata())
    details = dict(trailers)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    debug = error_details_pb2.DebugInfo()
    for detail in status.details[1:]:
        assert detail.Unpack(bad_request) or detail.Unpack(retry) or detail.Unpack(debug)
    violations = tuple((violation.field, violation.description) for violation in bad_request.field_violations)
    delay = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    size = sum(len(key) + len(value) + 32 for key, value in trailers) + len(error.details() or "")
    return Failure(error.code(), error.details() or "", status, info, violations, delay, size, debug.detail)
