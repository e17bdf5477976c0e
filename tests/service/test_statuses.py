"""Errors as statuses: codes, details, sizes; and that a fault of the server stays in its log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.service.statuses import CODES, status_of
from tests.service.conftest import Start, decode, failure, spec, transform
from tests.service.fake_engine import FakeEngine, fails

_PROTO = Path(__file__).parents[2] / "proto/retraced/v1/graph_transform.proto"
# What a peer that keeps to HTTP/2's usual limit takes as the headers of one response.
_HEADERS_BYTES = 8 << 10


def test_every_reason_has_the_status_that_the_wire_contract_names() -> None:
    documented = {
        reason: next(word for word in re.findall(r"\b[A-Z_]+\b", comment) if word in grpc.StatusCode.__members__)
        for comment, reason in re.findall(r"// ([^\n]*)\n  ERROR_REASON_(\w+) = [1-9]", _PROTO.read_text())
    }
    assert {reason.value: code.name for reason, code in CODES.items()} == documented
    assert set(CODES) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
async def test_what_a_job_raises_reaches_the_caller_whole(
    channel: grpc.aio.Channel, engine: FakeEngine, reason: Reason
) -> None:
    engine.job = fails(
        RetracedError(
            reason,
            "what is wrong,\n  and wo: im Südflügel",
            metadata={"pass": "cse", "node": "add_1"},
            violations=[FieldViolation("spec.pipeline", "position 3"), FieldViolation("spec.options.mode", "neither")],
            retry_after=2.5,
        )
    )
    error = await failure(channel, metadata=(("x-request-id", "mine"),))
    assert error.code is CODES[reason]
    assert error.message == error.status.message == "what is wrong,\n  and wo: im Südflügel"
    assert error.status.code == error.code.value[0]
    assert (error.info.domain, error.info.reason) == ("retraced.dev", reason.value)
    assert dict(error.info.metadata) == {"pass": "cse", "node": "add_1", "request_id": "mine"}
    assert error.violations == (("spec.pipeline", "position 3"), ("spec.options.mode", "neither"))
    assert error.retry_after == 2.5
    assert engine.tickets[0].ended.is_set()


async def test_an_engine_that_refuses_is_heard_before_the_upload(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    engine.refusal = RetracedError(Reason.QUEUE_FULL, "8 requests wait; come later", retry_after=4.0)
    call = GraphTransformServiceStub(channel).TransformGraph()
    await call.write(spec())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    error = decode(caught.value)
    assert (error.code, error.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert error.retry_after == 4.0


async def test_a_fault_of_the_server_shows_only_the_requests_id(
    channel: grpc.aio.Channel, engine: FakeEngine, log: list[Any]
) -> None:
    engine.job = fails(ZeroDivisionError("the password is swordfish"))
    error = await failure(channel, metadata=(("x-request-id", "mine"),))
    assert (error.code, error.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "mine" in error.message
    assert "swordfish" not in str(error)
    (entry,) = [entry for entry in log if entry["log_level"] == "error"]
    assert (entry["request_id"], entry["exc_info"]) == ("mine", True)
    engine.job = FakeEngine().job
    assert await transform(channel)


async def test_a_server_that_starts_tells_callers_to_come_later(start: Start) -> None:
    async with start(opened=False) as address, grpc.aio.insecure_channel(address) as channel:
        error = await failure(channel)
    assert (error.code, error.info.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKERS_UNAVAILABLE")
    assert error.retry_after


@pytest.mark.parametrize("character", ["a", "%", "\x00", "\n", "é", "漢", "\ud800"], ids=ascii)
async def test_an_error_of_any_length_fits_into_the_headers_of_a_response(
    channel: grpc.aio.Channel, engine: FakeEngine, character: str
) -> None:
    text = character * 100_000
    engine.job = fails(
        RetracedError(
            Reason.PASS_FAILED,
            text,
            metadata={"pass": "cse", "node": text, **{f"{number}{text}": text for number in range(30)}},
            violations=[FieldViolation(text, text)] * 30,
        )
    )
    error = await failure(channel, metadata=(("x-request-id", "x" * 128),))
    assert (error.code, error.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PASS_FAILED")
    assert error.info.metadata["request_id"] == "x" * 128
    assert error.info.metadata["pass"] == "cse"
    assert error.message.endswith("...")
    assert error.headers_bytes < _HEADERS_BYTES


def test_a_text_is_cut_no_shorter_than_it_has_to_be() -> None:
    error = RetracedError(Reason.PASS_FAILED, "m" * 900, metadata={"remaining_pipeline": "p" * 900})
    status = status_of(error, {"request_id": "mine"})
    assert status.message == "m" * 900
    assert b"p" * 900 in status.details


def test_a_retry_is_never_at_once() -> None:
    status = status_of(RetracedError(Reason.QUEUE_FULL, "full", retry_after=0.0), {})
    assert status.details != status_of(RetracedError(Reason.QUEUE_FULL, "full"), {}).details
