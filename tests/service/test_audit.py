"""The audit log: one line for each request to transform, whatever came of it, that a caller cannot forge."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.engine.spool import Spool
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import JobStats, TransformRequest
from retraced_server.service import audit, logs
from retraced_server.service.calls import Call
from tests.service.conftest import LIMITS, Start, chunk, failure, spec, transform
from tests.service.fake_engine import FakeEngine, fails, waits

_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_SHA256 = hashlib.sha256(b"abc").hexdigest()


@pytest.fixture
async def audited(start: Start) -> AsyncIterator[grpc.aio.Channel]:
    async with start(LIMITS, audit.Audit()) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def _logs_as_they_were() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger(audit.LOGGER)
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    # Not the attribute alone: loggers remember what is logged.
    root.setLevel(level)
    for handler in own.handlers:
        handler.close()
    own.handlers = []


def _lines(log: list[Any]) -> list[Any]:
    return [entry for entry in log if entry["event"] == "audit"]


async def test_a_request_that_ends_well_is_one_line_of_who_what_and_how(
    audited: grpc.aio.Channel, engine: FakeEngine, log: list[Any]
) -> None:
    engine.stats = JobStats(output_size=6, output_sha256=hashlib.sha256(b"output").digest())
    await transform(audited, metadata=(("x-request-id", "mine"), ("traceparent", _PARENT)))
    (line,) = _lines(log)
    expected = {
        "request_id": "mine",
        "traceparent": _PARENT,
        "caller": "anonymous",
        "archive_bytes": 3,
        "archive_sha256": _SHA256,
        "pipeline": "retrace",
        "output_bytes": 6,
        "output_sha256": hashlib.sha256(b"output").hexdigest(),
        "code": "OK",
        "reason": "",
        "log_level": "info",
    }
    assert line.items() >= expected.items()
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["received_bytes"] > 3
    assert line["sent_bytes"] > 6
    assert line["seconds"] >= 0


async def test_the_pipeline_is_in_its_canonical_form(audited: grpc.aio.Channel, log: list[Any]) -> None:
    await transform(audited, [spec(pipeline=' decompose { table = "none" } ,retrace'), chunk()])
    assert _lines(log)[0]["pipeline"] == "decompose{table=none},retrace"


async def test_a_request_that_fails_is_one_line_with_its_reason(
    audited: grpc.aio.Channel, engine: FakeEngine, log: list[Any]
) -> None:
    engine.job = fails(RetracedError(Reason.PASS_FAILED, "no"))
    await failure(audited)
    await failure(audited, [spec(pipeline="nothing")])
    await failure(audited, [chunk()])
    await failure(audited, [spec(2), chunk()])
    found = [(line["code"], line["reason"], line["pipeline"], line["archive_sha256"]) for line in _lines(log)]
    assert found == [
        ("FAILED_PRECONDITION", "PASS_FAILED", "retrace", _SHA256),
        ("INVALID_ARGUMENT", "PASS_UNKNOWN", "nothing", ""),
        ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION", "", ""),
        ("INVALID_ARGUMENT", "ARCHIVE_MISMATCH", "retrace", ""),
    ]


async def test_a_request_whose_caller_goes_is_one_line(audited: grpc.aio.Channel, engine: FakeEngine, log: list[Any]) -> None:
    engine.job = waits
    call = GraphTransformServiceStub(audited).TransformGraph(iter([spec(), chunk()]))
    async for response in call:
        if response.HasField("pass_started"):
            break
    call.cancel()
    await engine.tickets[0].ended.wait()
    (line,) = _lines(log)
    assert (line["code"], line["reason"]) == ("CANCELLED", "")


async def test_a_fault_of_the_server_is_one_line(audited: grpc.aio.Channel, engine: FakeEngine, log: list[Any]) -> None:
    engine.job = fails(LookupError("a bug"))
    await failure(audited)
    assert [(line["code"], line["reason"]) for line in _lines(log)] == [("INTERNAL", "INTERNAL")]


async def test_other_methods_are_not_audited(audited: grpc.aio.Channel, log: list[Any]) -> None:
    await GraphTransformServiceStub(audited).ListPasses(pb.ListPassesRequest())
    assert _lines(log) == []


async def test_what_fails_to_look_on_does_not_take_the_call_down(start: Start, log: list[Any]) -> None:
    class Broken:
        def ended(self, call: Call) -> None:
            raise OSError("no")

    async with start(LIMITS, Broken(), audit.Audit()) as address, grpc.aio.insecure_channel(address) as channel:
        assert (await transform(channel))[-1].HasField("summary")
    assert len(_lines(log)) == 1
    assert [entry["observer"] for entry in log if entry["log_level"] == "error"] == ["Broken"]


_HOSTILE = 'a\n{"event": "audit"}\r\x1b[2J\x7f\u2028\u202e\ud800'


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.usefixtures("_logs_as_they_were")
def test_no_text_of_a_callers_begins_a_line_or_commands_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    logs.configure(log_format, "error")
    file = tmp_path / "audit.jsonl"
    audit.also_write_to(file)
    call = Call(_HOSTILE, _HOSTILE, _HOSTILE)
    call.record.method, call.record.peer, call.record.pipeline = audit.METHOD, _HOSTILE, _HOSTILE * 1000
    audit.Audit().ended(call)
    shown = capsys.readouterr().err
    for text in (shown, file.read_text()):
        assert text.count("\n") == 1
        assert text.endswith("\n")
        assert text[:-1].isprintable()
        assert len(text) < 15_000
    written = json.loads(file.read_text())
    assert written["caller"] == ascii(_HOSTILE)[1:-1]
    assert written["pipeline"].startswith("a\\n{")


@pytest.mark.usefixtures("_logs_as_they_were")
def test_a_file_is_written_to_at_its_end_and_made_anew_where_it_was_moved_away(tmp_path: Path) -> None:
    logs.configure("text", "error")
    file = tmp_path / "audit.jsonl"
    file.write_text("{}\n")
    audit.also_write_to(file)
    call = Call("one", "")
    call.record.method = audit.METHOD
    audit.Audit().ended(call)
    file.rename(tmp_path / "audit.jsonl.1")
    audit.Audit().ended(call)
    for path, count in ((tmp_path / "audit.jsonl.1", 2), (file, 1)):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == count
        assert lines[-1]["request_id"] == "one"
        assert {"timestamp", "level", "logger"} <= lines[-1].keys()


async def test_the_digest_is_of_all_chunks(audited: grpc.aio.Channel, engine: FakeEngine, log: list[Any]) -> None:
    digest = hashlib.sha256()

    async def counts(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
        digest.update(engine.tickets[0].archive)
        yield b""

    engine.job = counts
    pieces = [bytes([number]) * (1 << 20) for number in range(3)]
    await transform(audited, [spec(3 << 20), *map(chunk, pieces)])
    assert _lines(log)[0]["archive_sha256"] == digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
