"""One request from its spec to its summary, through a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import os

import grpc.aio
import pytest

from retraced import AsyncClient
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.pipeline.domain import NodeSelection, OutputDelivery, RetraceMode, TransformOptions, TransformRequest
from tests.service.conftest import SPOOL_MEMORY, chunk, spec, transform
from tests.service.fake_engine import FakeEngine, changes_nothing


async def test_accepted_comes_first_and_then_what_the_job_sends_as_it_is(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    engine.queue_position = 4
    first, second, last = await transform(channel, metadata=(("x-request-id", "mine"),))
    assert first.accepted == pb.Accepted(request_id="mine", queue_position=4)
    assert second.output_chunk == b"output"
    assert last.summary.pipeline == "retrace"
    assert engine.tickets[0].request_id == "mine"
    assert engine.tickets[0].ended.is_set()


async def test_a_request_without_an_id_gets_one(channel: grpc.aio.Channel) -> None:
    ids = {(await transform(channel))[0].accepted.request_id for _ in range(3)}
    assert len(ids) == 3
    assert all(ids)


async def test_accepted_comes_before_the_upload(channel: grpc.aio.Channel) -> None:
    call = GraphTransformServiceStub(channel).TransformGraph()
    await call.write(spec(3))
    responses = aiter(call)
    assert (await anext(responses)).HasField("accepted")
    await call.write(chunk(b"abc"))
    await call.done_writing()
    assert [message.WhichOneof("message") async for message in responses] == ["output_chunk", "summary"]


@pytest.mark.parametrize("size", [1, SPOOL_MEMORY, SPOOL_MEMORY + 1, 9 << 20])
async def test_the_archive_reaches_the_job_byte_for_byte(channel: grpc.aio.Channel, engine: FakeEngine, size: int) -> None:
    archive = os.urandom(size)
    chunks = [chunk(archive[offset : offset + (1 << 20)]) for offset in range(0, size, 1 << 20)]
    await transform(channel, [spec(size, archive_sha256=hashlib.sha256(archive).digest()), *chunks])
    assert engine.tickets[0].archive == archive


async def test_chunks_of_any_size_make_one_archive(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    parts = [b"a", bytes(70_000), b"bc", bytes(1 << 20)]
    await transform(channel, [spec(sum(map(len, parts))), *map(chunk, parts)])
    assert engine.tickets[0].archive == b"".join(parts)


async def test_options_that_are_left_out_have_their_documented_meaning(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    await transform(channel)
    assert engine.tickets[0].request == TransformRequest("retrace", 3, hashlib.sha256(b"abc").digest())


async def test_every_option_reaches_the_job(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    digest = hashlib.sha256(b"abc").digest()
    options = pb.TransformOptions(
        node_metadata=pb.NODE_METADATA_SELECTION_CHANGED,
        validate_only=True,
        mode=pb.RETRACE_MODE_FULL,
        refuse_new_guards=True,
        output=pb.OUTPUT_DELIVERY_NEVER,
    )
    await transform(channel, [spec(3, "decompose", options=options, archive_sha256=digest), chunk()])
    assert engine.tickets[0].request == TransformRequest(
        "decompose",
        3,
        digest,
        TransformOptions(
            node_metadata=NodeSelection.CHANGED,
            validate_only=True,
            mode=RetraceMode.FULL,
            refuse_new_guards=True,
            output=OutputDelivery.NEVER,
        ),
    )


async def test_the_spool_is_given_up_when_the_request_ends(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await transform(channel)
        spool = engine.tickets[-1].spool
        assert spool is not None
        assert spool.fileno() == -1
    assert len(os.listdir("/proc/self/fd")) <= before + 2


async def test_fifty_requests_at_once_are_all_answered(address: str, engine: FakeEngine) -> None:
    engine.job = changes_nothing
    async with AsyncClient(address) as client:
        sources = [os.urandom(200_000 + number) for number in range(50)]
        await asyncio.gather(
            *(client.transform(source, "retrace", want_output=False, request_id=str(i)) for i, source in enumerate(sources))
        )
    assert {ticket.request_id: ticket.archive for ticket in engine.tickets} == {
        str(number): source for number, source in enumerate(sources)
    }
    assert not engine.running
