"""What every call has around it: its ids, and one log line that carries them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.errors import Reason, RetracedError
from tests.service.conftest import chunk, failure, spec, transform
from tests.service.fake_engine import FACTS, FakeEngine, fails

_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_request_that_ends_is_logged_once_with_its_ids(channel: grpc.aio.Channel, log: list[Any]) -> None:
    await transform(channel, metadata=(("x-request-id", "mine"), ("traceparent", _PARENT)))
    (entry,) = log
    assert (entry["request_id"], entry["traceparent"]) == ("mine", _PARENT)
    assert (entry["method"], entry["code"], entry["pipeline"], entry["archive_bytes"]) == ("TransformGraph", "OK", "retrace", 3)
    assert entry["peer"].startswith("ipv4:127.0.0.1:")
    assert entry["caller"] == "anonymous"
    assert entry["seconds"] >= 0


async def test_a_request_that_fails_is_logged_with_its_ids_and_reason(
    channel: grpc.aio.Channel, engine: FakeEngine, log: list[Any]
) -> None:
    engine.job = fails(RetracedError(Reason.PASS_FAILED, "at node add_1", metadata={"node": "add_1", "event": "odd"}))
    error = await failure(channel, metadata=(("x-request-id", "mine"), ("traceparent", _PARENT)))
    assert dict(error.info.metadata) == {"node": "add_1", "event": "odd", "request_id": "mine", "traceparent": _PARENT}
    (entry,) = log
    assert (entry["request_id"], entry["traceparent"]) == ("mine", _PARENT)
    assert (entry["code"], entry["reason"]) == ("FAILED_PRECONDITION", "PASS_FAILED")
    assert (entry["error"], entry["error_node"], entry["log_level"]) == ("at node add_1", "add_1", "info")


async def test_a_request_that_is_refused_by_its_spec_is_logged(channel: grpc.aio.Channel, log: list[Any]) -> None:
    await failure(channel, [spec(pipeline="nothing")], metadata=(("x-request-id", "mine"),))
    assert [(entry["request_id"], entry["reason"]) for entry in log] == [("mine", "PASS_UNKNOWN")]


@pytest.mark.parametrize("metadata", [(("x-request-id", "x" * 129),), (("x-request-id", "a"), ("x-request-id", "b"))])
async def test_an_id_that_cannot_be_used_is_refused(channel: grpc.aio.Channel, metadata: Any, engine: FakeEngine) -> None:
    error = await failure(channel, metadata=metadata)
    assert (error.code, error.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")
    assert error.violations[0][0] == "metadata.x-request-id"
    assert len(error.info.metadata["request_id"]) == 32
    assert engine.tickets == []


@pytest.mark.parametrize("request_id", ["x" * 128, "with blanks and ~%\"'", "!"])
async def test_any_printable_id_is_echoed(channel: grpc.aio.Channel, request_id: str) -> None:
    accepted = (await transform(channel, metadata=(("x-request-id", request_id),)))[0].accepted
    assert accepted.request_id == request_id


@pytest.mark.parametrize(
    "parent", ["", "nonsense", _PARENT.upper(), _PARENT.replace("00-4", "ff-4"), f"00-{'0' * 32}-00f067aa0ba902b7-01"]
)
async def test_a_traceparent_that_is_none_is_as_if_it_were_not_there(
    channel: grpc.aio.Channel, engine: FakeEngine, parent: str
) -> None:
    engine.job = fails(RetracedError(Reason.PASS_FAILED, "no"))
    error = await failure(channel, metadata=(("traceparent", parent),))
    assert set(error.info.metadata) == {"request_id"}


async def test_passes_are_listed_by_name_with_their_options(channel: grpc.aio.Channel, log: list[Any]) -> None:
    response = await GraphTransformServiceStub(channel).ListPasses(pb.ListPassesRequest(), metadata=(("x-request-id", "mine"),))
    assert [found.name for found in response.passes] == ["decompose", "retrace"]
    (option,) = response.passes[0].options
    assert (option.name, option.default_value, list(option.choices)) == ("table", "core-aten", ["core-aten", "none"])
    assert (log[0]["request_id"], log[0]["method"]) == ("mine", "ListPasses")


async def test_the_server_says_what_it_is(channel: grpc.aio.Channel) -> None:
    response = await GraphTransformServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
    assert (response.torch_version, response.python_version) == (FACTS.torch_version, FACTS.python_version)
    assert (response.schema_version.major, response.schema_version.minor) == FACTS.schema_version
    assert [(module.name, module.version) for module in response.imports] == [("my_ops", "1.2")]
    assert (response.running, response.queued) == (1, 2)
    limits = response.limits
    assert (limits.max_archive_bytes, limits.max_queued, limits.workers) == (64 << 20, 8, 2)
    assert (limits.job_timeout_seconds, limits.worker_memory_bytes, limits.memory_bytes) == (60.0, 1 << 30, 3 << 30)
    (layer,) = response.sandbox
    assert (layer.name, layer.state, layer.required) == ("landlock", pb.SANDBOX_LAYER_STATE_MISSING, True)
    assert layer.detail == "the kernel has none"
    assert response.version
    assert response.uptime_seconds >= 0


_LOGGING = """
import logging, structlog
from retraced_server.service import logs
logs.configure({format!r}, "info")
class Odd:
    def __repr__(self):
        return "odd\\n[info] forged" + "x" * 5000
with structlog.contextvars.bound_contextvars(request_id="mine"):
    structlog.stdlib.get_logger("retraced").info("ended", pipeline="a\\n[info] forged\\x1b[2J")
    logging.getLogger("grpc").warning("of a library: %s", "broken")
    structlog.stdlib.get_logger("retraced").debug("not to be seen")
    try:
        raise ValueError("x" * 5000 + "\\ny" * 50_000 + "\\n[info] forged\x1b[2J")
    except ValueError:
        structlog.stdlib.get_logger("retraced").exception("failed")
    structlog.stdlib.get_logger("retraced").info("last", odd=Odd(), **{{"a key\\n[info] audit": "x" * 5000}})
"""


def _logged(log_format: str) -> str:
    code = _LOGGING.format(format=log_format)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    return run.stderr


def test_json_logs_are_one_object_a_line_for_our_own_lines_and_for_libraries() -> None:
    own, library, failed, last = map(json.loads, _logged("json").splitlines())
    assert (own["event"], own["request_id"], own["level"], own["logger"]) == ("ended", "mine", "info", "retraced")
    assert own["pipeline"] == "a\n[info] forged\x1b[2J"
    assert (library["event"], library["request_id"], library["level"]) == ("of a library: broken", "mine", "warning")
    assert failed["exception"].endswith("\ny" * 100 + "\n[info] forged\x1b[2J")
    assert len(failed["exception"]) < 20_100
    assert own["timestamp"].endswith("Z")
    assert last["a key\n[info] audit"] == "x" * 2000 + "..."
    assert len(last["odd"]) < 2100


def test_text_logs_let_nobody_forge_a_line_or_command_the_terminal() -> None:
    own, library, failed, *trace, last = _logged("text").splitlines()
    assert "forged" in own
    assert "mine" in own
    assert "of a library: broken" in library
    assert "failed" in failed
    assert trace[-2:] == ["    y", r"    [info] forged\x1b[2J"]
    # No line begins at its first column but those of the log.
    assert all(line.startswith("    ") for line in trace)
    assert "audit" in last
    assert max(map(len, (own, library, failed, *trace))) < 2200
    assert len(last) < 4400
    assert "\x1b" not in _logged("text")


async def test_a_second_request_has_ids_of_its_own_in_the_log(channel: grpc.aio.Channel, log: list[Any]) -> None:
    await transform(channel, metadata=(("x-request-id", "first"), ("traceparent", _PARENT)))
    await transform(channel, [spec(3, "decompose"), chunk()], metadata=(("x-request-id", "second"),))
    assert [(entry["request_id"], entry.get("traceparent"), entry["pipeline"]) for entry in log] == [
        ("first", _PARENT, "retrace"),
        ("second", None, "decompose"),
    ]
