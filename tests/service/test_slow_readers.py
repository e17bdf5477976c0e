"""Callers that do not read their answers: they are ended, and leave nothing behind that grows."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced import AsyncClient, errors
from retraced._feed import TransformCall
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.engine.spool import Spool
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.service.authentication import Authenticator
from retraced_server.service.callers import CallerLimits
from retraced_server.worker import responses
from tests.service.conftest import LIMITS, Start, chunk, decode, failure, spec, transform
from tests.service.fake_engine import FakeEngine, summary
from tests.support.waiting import until

IMPATIENT = dataclasses.replace(LIMITS, download_idle_timeout=0.3)
FIXED_WINDOW = (("grpc.http2.bdp_probe", 0),)
"""A channel's options, with which gRPC takes no more of an answer that is not read than it says at first. Else it may take what the
server waits with, however late, where the machine is slow and so the connection looks long."""


async def _pours(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
    while True:
        yield responses.output_chunk(bytes(1 << 20))


async def _trickles(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
    for _ in range(40):
        yield responses.output_chunk(bytes(1 << 20))
    yield summary()


async def _stalled(channel: grpc.aio.Channel, engine: FakeEngine) -> TransformCall:
    """A call whose answer was not read, and which has given its ticket back for that."""
    call = GraphTransformServiceStub(channel).TransformGraph(iter([spec(), chunk()]))
    await call.read()
    await asyncio.wait_for(engine.tickets[-1].ended.wait(), 30)
    return call


async def _is_served(channel: grpc.aio.Channel) -> bool:
    try:
        await transform(channel)
    except grpc.aio.AioRpcError:
        return False
    return True


async def _read_to_the_end(call: TransformCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_caller_that_does_not_read_gives_its_ticket_back_and_hears_why_when_it_does(
    start: Start, engine: FakeEngine
) -> None:
    async with start(IMPATIENT) as address, grpc.aio.insecure_channel(address, FIXED_WINDOW) as channel:
        engine.job, succeeds = _pours, engine.job
        call = await _stalled(channel, engine)
        engine.job = succeeds
        assert await transform(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_to_the_end(call)
        error = decode(caught.value)
    assert (error.code, error.info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DOWNLOAD_STALLED")
    assert error.info.metadata["download_idle_timeout_seconds"] == "0.3"


async def test_a_caller_that_reads_slowly_is_served_to_the_end(start: Start, engine: FakeEngine) -> None:
    engine.job = _trickles
    received = 0
    async with start(IMPATIENT) as address, grpc.aio.insecure_channel(address, FIXED_WINDOW) as channel:
        async for response in GraphTransformServiceStub(channel).TransformGraph(iter([spec(), chunk()])):
            received += len(response.output_chunk)
            # In all far longer than the server waits for one message.
            await asyncio.sleep(0.03)
    assert received == 40 << 20
    assert response.HasField("summary")


async def test_a_caller_has_no_more_unread_answers_than_calls(start: Start, engine: FakeEngine, log: list[Any]) -> None:
    authenticate = Authenticator(limits=CallerLimits(max_requests=2))
    async with (
        start(IMPATIENT, authenticate=authenticate) as address,
        grpc.aio.insecure_channel(address, FIXED_WINDOW) as channel,
    ):
        engine.job, succeeds = _pours, engine.job
        stalled = [await _stalled(channel, engine) for _ in range(2)]
        engine.job = succeeds
        assert (await failure(channel)).info.reason == "CALLER_LIMIT_EXCEEDED"
        stalled[0].cancel()
        await until(lambda: _is_served(channel), "the caller has room again")
        stalled[1].cancel()
    assert [entry["reason"] for entry in log[:2]] == ["DOWNLOAD_STALLED"] * 2


async def test_a_server_stops_though_answers_are_not_read(start: Start, engine: FakeEngine) -> None:
    engine.job = _pours
    async with contextlib.AsyncExitStack() as channels:
        async with start(IMPATIENT) as address:
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(address, FIXED_WINDOW))
            call = await _stalled(channel, engine)
        assert not call.done()
        async with AsyncClient(address) as client:
            with pytest.raises(errors.ServerUnreachable):
                await client.info()
