"""How requests end early: the caller goes, its deadline passes, it stops reading, the server stops."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.engine.spool import Spool
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.worker import responses
from tests.service.conftest import LIMITS, Start, chunk, decode, spec, transform
from tests.service.fake_engine import FakeEngine, FakeTicket, waits
from tests.support.waiting import until


async def _running(channel: grpc.aio.Channel, engine: FakeEngine, **kwargs: Any) -> tuple[Any, FakeTicket]:
    """A call whose job has begun, and its ticket."""
    engine.job = waits
    call = GraphTransformServiceStub(channel).TransformGraph(iter([spec(), chunk()]), **kwargs)
    async for response in call:
        if response.HasField("pass_started"):
            break
    return call, engine.tickets[-1]


async def test_a_call_that_is_cancelled_gives_its_ticket_back(
    channel: grpc.aio.Channel, engine: FakeEngine, log: list[Any]
) -> None:
    call, ticket = await _running(channel, engine)
    call.cancel()
    await asyncio.wait_for(ticket.ended.wait(), 10)
    assert [entry["code"] for entry in log] == ["CANCELLED"]


class _Wire:
    """A connection in the middle, which can be cut."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._writers += [writer, back]
        await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def test_a_connection_that_breaks_gives_the_ticket_back(address: str, engine: FakeEngine) -> None:
    wire = _Wire(address)
    async with (
        await asyncio.start_server(wire, "127.0.0.1", 0) as proxy,
        grpc.aio.insecure_channel(f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}") as channel,
    ):
        call, ticket = await _running(channel, engine)
        wire.cut()
        await asyncio.wait_for(ticket.ended.wait(), 10)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_deadline_that_passes_gives_the_ticket_back(
    channel: grpc.aio.Channel, engine: FakeEngine, log: list[Any]
) -> None:
    _, ticket = await _running(channel, engine, timeout=0.3)
    await asyncio.wait_for(ticket.ended.wait(), 10)
    assert [entry["code"] for entry in log] == ["DEADLINE_EXCEEDED"]


async def test_a_caller_that_leaves_in_the_middle_of_its_upload_gives_its_ticket_back(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    for _ in range(20):
        call = GraphTransformServiceStub(channel).TransformGraph()
        await call.write(spec(40 << 20))
        for _ in range(3):
            await call.write(chunk(bytes(1 << 20)))
        call.cancel()
    await until(lambda: len(engine.tickets) == 20, "every call has a ticket")
    for ticket in engine.tickets:
        await asyncio.wait_for(ticket.ended.wait(), 10)
    assert await transform(channel)


async def test_a_caller_that_does_not_read_stops_the_job_from_sending(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    sent = 0

    async def pours(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield responses.output_chunk(bytes(1 << 20))
            sent += 1

    engine.job = pours
    call = GraphTransformServiceStub(channel).TransformGraph(iter([spec(), chunk()]))
    first, received = aiter(call), 0
    while received < 8:
        received += (await anext(first)).HasField("output_chunk")
    while (before := sent) is not sent or await _changes(lambda: sent):
        assert sent < 64, f"{sent} MiB were sent to a caller that does not read; at first {before}"
    assert sent - received < 32
    call.cancel()
    await asyncio.wait_for(engine.tickets[0].ended.wait(), 10)


async def _changes(value: Any) -> bool:
    before = value()
    await asyncio.sleep(0.2)
    return bool(value() != before)


async def test_what_runs_when_the_server_stops_is_ended(start: Start, engine: FakeEngine) -> None:
    async with start() as address, grpc.aio.insecure_channel(address) as channel:
        call, ticket = await _running(channel, engine)
    assert ticket.ended.is_set()
    assert await call.code() is not grpc.StatusCode.OK


async def test_while_it_drains_new_requests_are_refused_and_old_ones_end(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    release = asyncio.Event()
    succeeds = engine.job

    async def held(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
        await release.wait()
        async for response in succeeds(request, archive):
            yield response

    engine.job = held
    old = asyncio.create_task(transform(channel))
    await until(lambda: engine.tickets, "the call has a ticket")
    engine.refusal = RetracedError(Reason.SERVER_DRAINING, "the server is shutting down", retry_after=5.0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transform(channel)
    refused = decode(caught.value)
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert refused.retry_after == 5.0
    release.set()
    assert (await old)[-1].HasField("summary")


async def test_a_disk_that_is_full_is_that_requests_error(
    start: Start, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Spool, data: bytes) -> None:
        raise RetracedError(Reason.STORAGE_FULL, "the server cannot store the archive: No space left", retry_after=10.0)

    async with start(dataclasses.replace(LIMITS)) as address, grpc.aio.insecure_channel(address) as channel:
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "write", full)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await transform(channel, [spec(3 << 20), chunk(bytes(1 << 20))])
        assert decode(caught.value).info.reason == "STORAGE_FULL"
        assert await transform(channel)
