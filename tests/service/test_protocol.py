"""Request streams that break the protocol, or cannot be right: each is a typed error with the field at fault."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from tests.service.conftest import LIMITS, Start, chunk, decode, failure, spec, transform
from tests.service.fake_engine import FakeEngine

_MIB = 1 << 20
Messages = list[pb.TransformGraphRequest]

STREAMS: dict[str, tuple[Messages, str, str]] = {
    "nothing at all": ([], "PROTOCOL_VIOLATION", "spec"),
    "a chunk before the spec": ([chunk()], "PROTOCOL_VIOLATION", "spec"),
    "a message with nothing in it": ([spec(), pb.TransformGraphRequest()], "PROTOCOL_VIOLATION", "message"),
    "nothing in the first message": ([pb.TransformGraphRequest()], "PROTOCOL_VIOLATION", "message"),
    "a second spec": ([spec(), spec()], "PROTOCOL_VIOLATION", "spec"),
    "a spec after the archive": ([spec(), chunk(), spec()], "PROTOCOL_VIOLATION", "spec"),
    "a chunk of 0 bytes": ([spec(), chunk(b"")], "PROTOCOL_VIOLATION", "archive_chunk"),
    "a chunk over 1 MiB": ([spec(3 * _MIB), chunk(bytes(_MIB + 1))], "PROTOCOL_VIOLATION", "archive_chunk"),
    "a chunk past the announced size": ([spec(3), chunk(b"abcd")], "ARCHIVE_MISMATCH", "spec.archive_size"),
    "a chunk after the archive": ([spec(3), chunk(), chunk()], "ARCHIVE_MISMATCH", "spec.archive_size"),
    "an end too early": ([spec(3), chunk(b"ab")], "ARCHIVE_MISMATCH", "spec.archive_size"),
    "no archive": ([spec(3)], "ARCHIVE_MISMATCH", "spec.archive_size"),
    "another sha256": ([spec(3, archive_sha256=bytes(32)), chunk()], "ARCHIVE_MISMATCH", "spec.archive_sha256"),
    "a sha256 of 31 bytes": ([spec(3, archive_sha256=bytes(31))], "PROTOCOL_VIOLATION", "spec.archive_sha256"),
    "an archive of 0 bytes": ([spec(0)], "ARCHIVE_INVALID", "spec.archive_size"),
    "an archive over the limit": ([spec(LIMITS.max_archive_bytes + 1)], "PROGRAM_TOO_LARGE", "spec.archive_size"),
    "an archive of 16 EiB": ([spec(2**64 - 1)], "PROGRAM_TOO_LARGE", "spec.archive_size"),
    "no pipeline": ([spec(pipeline="")], "PIPELINE_SYNTAX", "spec.pipeline"),
    "a pipeline with a comma too many": ([spec(pipeline="retrace,")], "PIPELINE_SYNTAX", "spec.pipeline"),
    "a pass that is not there": ([spec(pipeline="retracee")], "PASS_UNKNOWN", "spec.pipeline"),
    "an option that is not there": ([spec(pipeline="decompose{tabel=none}")], "OPTION_UNKNOWN", "spec.pipeline"),
    "an option of another type": ([spec(pipeline="decompose{table=1}")], "OPTION_INVALID", "spec.pipeline"),
    "an unknown mode": ([spec(options=pb.TransformOptions(mode=9))], "PROTOCOL_VIOLATION", "spec.options.mode"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", STREAMS)
async def test_a_stream_that_cannot_be_right_is_refused(channel: grpc.aio.Channel, engine: FakeEngine, what: str) -> None:
    messages, reason, field = STREAMS[what]
    error = await failure(channel, messages)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.info.reason, [name for name, _ in error.violations]) == (reason, [field])
    assert all(ticket.request is None and ticket.ended.is_set() for ticket in engine.tickets)
    assert (await transform(channel))[-1].HasField("summary")


async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel) -> None:
    for method in ("TransformGraph", "ListPasses", "GetServerInfo"):
        send: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"/retraced.v1.GraphTransformService/{method}"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(iter([b"\xff\xff\xff"])).read()
        error = decode(caught.value)
        assert (error.code, error.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")
        assert error.violations[0][0] == "message"


@pytest.mark.parametrize(
    "refused",
    [spec(LIMITS.max_archive_bytes + 1), spec(pipeline="nothing"), spec(options=pb.TransformOptions(output=7))],  # type: ignore[arg-type]
)
async def test_what_the_spec_shows_is_refused_before_any_upload(
    channel: grpc.aio.Channel, refused: pb.TransformGraphRequest, engine: FakeEngine
) -> None:
    call = GraphTransformServiceStub(channel).TransformGraph()
    await call.write(refused)
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert engine.tickets == []


async def test_a_message_over_grpcs_own_limit_is_refused_and_the_server_goes_on(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transform(channel, [spec(9 * _MIB), chunk(bytes(8 * _MIB))])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await transform(channel)


@pytest.mark.parametrize("method", ["retraced.v1.GraphTransformService/ListPasses", "grpc.health.v1.Health/Check"])
async def test_a_compressed_message_is_refused_before_it_is_made_larger(address: str, method: str) -> None:
    # A message of a megabyte, of which gzip makes a kilobyte.
    unknown_field = b"\xfa\x7f\x80\x80\x40" + bytes(_MIB)
    async with grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{method}", request_serializer=bytes)(unknown_field)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in str(caught.value.details())
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary(f"/{method}", request_serializer=bytes)(unknown_field)


async def test_an_upload_that_stands_still_is_ended(start: Start, engine: FakeEngine) -> None:
    async with (
        start(dataclasses.replace(LIMITS, upload_idle_timeout=0.2)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = GraphTransformServiceStub(channel).TransformGraph()
        await call.write(spec(3))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        error = decode(caught.value)
        assert (error.code, error.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")
        assert "0.2 s" in error.message
        await asyncio.wait_for(engine.tickets[0].ended.wait(), 10)


async def test_an_upload_that_trickles_is_ended(start: Start, engine: FakeEngine, log: list[Any]) -> None:
    async def never_still_for_long() -> AsyncIterator[pb.TransformGraphRequest]:
        yield spec(100)
        for _ in range(100):
            yield chunk(b"a")
            await asyncio.sleep(0.05)

    async with (
        start(dataclasses.replace(LIMITS, upload_idle_timeout=0.5)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        # A write that fails hides the status from such a caller.
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in GraphTransformServiceStub(channel).TransformGraph(never_still_for_long()):
                pass
        await asyncio.wait_for(engine.tickets[0].ended.wait(), 10)
    (failed,) = [entry for entry in log if entry["event"] == "request failed"]
    assert failed["reason"] == "PROTOCOL_VIOLATION"
    assert "longer than 0.5 s" in failed["error"]
