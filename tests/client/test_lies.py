"""Both clients against servers that lie: what was not asked for is refused, the rest is bounded, and nothing but our errors is raised."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from retraced import AsyncClient, Client, _allowance, errors
from retraced._node_json import node_to_json
from retraced._redaction import Redaction
from retraced._source import BytesSource
from retraced.v1 import graph_transform_pb2 as pb
from tests.client import archives, fake_server
from tests.client.fake_server import FakeServer, answers, replies, summary
from tests.client.lies import HOSTILE, LIES, filled, later, told_bytes

_SECONDS = 60.0


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Little is allowed, so that what has no end ends soon."""
    monkeypatch.setattr(_allowance, "_OUTPUT_BYTES", 8 << 20)
    monkeypatch.setattr(_allowance, "_TOLD_BYTES", told_bytes(name))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_with_an_error_of_ours_or_does_no_harm(call: Any, name: str) -> None:
    lie = LIES[name]
    failure: errors.RetracedError | None = None
    with FakeServer(lie.behaviour) as server:
        begun = time.monotonic()
        try:
            with call(server.address, archives.archive(), "cse", timeout=_SECONDS, **lie.ask) as result:
                told = [json.dumps(node_to_json(node), allow_nan=False) for node in result.nodes]
            assert all(map(json.loads, told))
        except errors.RetracedError as error:
            failure = error
        assert (failure is not None) is lie.refused
        assert not isinstance(failure, errors.DeadlineExceeded | errors.InternalError)
        assert time.monotonic() - begun < _SECONDS / 2
        assert len(server.callers) == 1, "and it is not asked again"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("an output that was not asked for", "an output that was not asked for"),
        ("an output when only validating", "an output that was not asked for"),
        ("an empty output that was not asked for", "an output that was not asked for"),
        ("node metadata that was not asked for", "node metadata that was not asked for"),
        ("an output without end", "an output of more than 8[0-9]{6} bytes"),
        ("strings without end", "reports and metadata of more than 1[0-9]{5} bytes"),
        ("empty nodes without end", "reports and metadata of more than"),
        ("remarks without end", "reports and metadata of more than"),
        ("progress without end", "reports and metadata of more than"),
        ("empty chunks without end", "reports and metadata of more than"),
        ("messages of no known kind without end", "reports and metadata of more than"),
        ("a request id that commands", "a request id that is none"),
        ("a pass that took NaN seconds", "a duration of nan s"),
        ("a queue of less than no time", "a duration of -1.0 s"),
        ("a sha256 that is none", "a sha256 of 100000 bytes"),
        ("a string that is in no table", "index 2147483648 in a table of 2 strings"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_what_is_refused_is_said(call: Any, name: str, why: str) -> None:
    lie = LIES[name]
    with FakeServer(lie.behaviour) as server, pytest.raises(errors.ResponseInvalid, match=why) as caught:
        call(server.address, archives.archive(), "cse", timeout=_SECONDS, **lie.ask).nodes  # noqa: B018 - decodes them
    assert caught.value.request_id


def test_a_large_program_may_have_more_told_of_it(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_allowance, "_TOLD_BYTES", 0)
    much = summary(output=None, modified=False)
    much.summary.remarks.append("x" * 1_000_000)
    with FakeServer(replies(much)) as server:
        assert len(call(server.address, bytes(100_000), "cse").summary.remarks[-1]) == 1_000_000
        with pytest.raises(errors.ResponseInvalid):
            call(server.address, bytes(10_000), "cse")


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(1 << 62, 0), (-(1 << 62), 0), (-5, -1), (0, -1), (0, 1 << 30), (315_576_000_001, 0)]
)
def test_a_delay_that_is_none_is_as_though_none_were_given(call: Any, seconds: int, nanos: int) -> None:
    with FakeServer(later(seconds, nanos)) as server:
        with pytest.raises(errors.QueueFull) as caught:
            call(server.address, b"archive", "cse")
        assert (caught.value.retry_after, len(server.callers)) == (None, 1)


def test_a_server_that_is_always_busy_is_asked_five_times(call: Any) -> None:
    with FakeServer(later(0)) as server:
        with pytest.raises(errors.QueueFull) as caught:
            call(server.address, b"archive", "cse")
        assert (caught.value.retry_after, len(server.callers)) == (0.0, 5)


def test_a_request_id_of_an_error_that_is_none_is_not_taken(call: Any) -> None:
    with FakeServer(LIES["an error PASS_FAILED"].behaviour) as server, pytest.raises(errors.PassFailed) as caught:
        call(server.address, b"archive", "cse", request_id="mine")
    assert caught.value.request_id == "mine"
    assert caught.value.metadata["node"] == HOSTILE


class _Rubbish(grpc.GenericRpcHandler):
    """Answers whatever is called with bytes that are no message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/TransformGraph"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: iter([b"\xff"]))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff")


@pytest.fixture
def rubbish() -> Iterator[str]:
    """The address of a server whose answers are no messages."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=[_Rubbish()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


async def test_bytes_that_are_no_message_are_a_failure_of_either_client(call: Any, rubbish: str) -> None:
    with pytest.raises(errors.TransformFailed):
        await asyncio.to_thread(call, rubbish, b"archive", "cse", timeout=_SECONDS)
    with Client(rubbish, timeout=_SECONDS) as client:
        for blocking in (client.passes, client.info, client.wait_ready):
            with pytest.raises(errors.TransformFailed):
                blocking()
    async with AsyncClient(rubbish, timeout=_SECONDS) as other:
        for asked in (other.passes, other.info, other.wait_ready):
            with pytest.raises(errors.TransformFailed):
                await asked()


def test_a_call_for_what_the_server_is_refuses_numbers_that_are_none_and_answers_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeServer(answers(b"")) as server, Client(server.address) as client:
        monkeypatch.setattr(fake_server, "INFO", filled(pb.GetServerInfoResponse(), float("nan")))
        with pytest.raises(errors.ResponseInvalid, match="a duration of nan s"):
            client.info()
        monkeypatch.setattr(fake_server, "INFO", pb.GetServerInfoResponse(version="x" * (5 << 20)))
        with pytest.raises(errors.ResponseInvalid, match="more than 4194304 bytes"):
            client.info()
        monkeypatch.setattr(fake_server, "PASSES", [{"name": "x" * (5 << 20)}])
        with pytest.raises(errors.ResponseInvalid, match="more than 4194304 bytes"):
            client.passes()


def test_what_is_kept_at_home_is_put_back_into_texts_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = "x" * 1_000
    sent = archives.changed(lambda model: model.update(guards_code=[guard]))
    monkeypatch.setattr("retraced._redaction._MOST_PUT_BACK", 10_000)
    redaction = Redaction(BytesSource(sent), ["guards"])
    token = next(iter(redaction._tokens.values()))
    assert redaction.text(token) == guard
    assert redaction.text(token * 1_000).count(guard) == 9
    assert redaction.text(token[:-1] + "9" * 5_000)
