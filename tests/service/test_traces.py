"""Traces: a request's spans go on from its caller's, and are there only when somebody asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import JobStats, Period
from retraced_server.service.observers import wants_traces
from retraced_server.service.traces import Traces
from tests.service.conftest import LIMITS, Start, chunk, failure, spec, transform
from tests.service.fake_engine import FakeEngine, fails

_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
_PARENT = (("traceparent", f"00-{_TRACE}-{_SPAN}-01"),)
_TOP = "retraced.v1.GraphTransformService/TransformGraph"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def traced(start: Start, spans: InMemorySpanExporter) -> AsyncIterator[grpc.aio.Channel]:
    traces = Traces(SimpleSpanProcessor(spans))
    async with start(LIMITS, traces) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel
    traces.close()


def _by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def test_spans_go_on_from_the_callers_and_lie_in_one_another(
    traced: grpc.aio.Channel, engine: FakeEngine, spans: InMemorySpanExporter
) -> None:
    engine.stats = JobStats(
        (Period("reading", 0.0, 0.5), Period("running", 0.5, 2.0)), (Period("decompose", 0.5, 1.5), Period("retrace", 2.0, 0.5))
    )
    await transform(traced, [spec(pipeline="decompose,retrace"), chunk()], (*_PARENT, ("x-request-id", "mine")))
    found = _by_name(spans)
    assert {f"{span.context.trace_id:032x}" for span in found.values() if span.context} == {_TRACE}
    top = found.pop(_TOP)
    assert (top.parent is not None, top.kind, top.status.status_code) == (True, SpanKind.SERVER, StatusCode.UNSET)
    assert f"{top.parent.span_id:016x}" == _SPAN if top.parent else False
    ids = {_id(span): name for name, span in found.items()} | {_id(top): "top"}
    assert {name: ids[span.parent.span_id] for name, span in found.items() if span.parent} == {
        "uploading": "top",
        "queued": "top",
        "job": "top",
        "reading": "job",
        "running": "job",
        "pass decompose": "running",
        "pass retrace": "running",
    }
    attributes = dict(top.attributes or {})
    assert attributes["retraced.request_id"] == "mine"
    assert attributes["retraced.pipeline"] == "decompose,retrace"
    assert attributes["rpc.grpc.status_code"] == 0


async def test_spans_have_the_times_of_the_record(
    traced: grpc.aio.Channel, engine: FakeEngine, spans: InMemorySpanExporter
) -> None:
    engine.stats = JobStats((Period("running", 1.0, 2.0),), (Period("retrace", 1.5, 0.25),))
    await transform(traced)
    found = _by_name(spans)
    job, running, ran = found["job"], found["running"], found["pass retrace"]
    assert job.start_time
    assert [_seconds(running), _seconds(ran)] == pytest.approx([2.0, 0.25], abs=1e-3)
    assert ((running.start_time or 0) - job.start_time) / 1e9 == pytest.approx(1.0, abs=1e-3)
    assert ((ran.start_time or 0) - job.start_time) / 1e9 == pytest.approx(1.5, abs=1e-3)
    assert (found[_TOP].start_time or 0) <= job.start_time


def _seconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


async def test_a_request_that_fails_is_a_span_with_its_reason(
    traced: grpc.aio.Channel, engine: FakeEngine, spans: InMemorySpanExporter
) -> None:
    engine.job = fails(RetracedError(Reason.PASS_FAILED, "no"))
    await failure(traced)
    top = _by_name(spans)[_TOP]
    assert (top.status.status_code, top.status.description) == (StatusCode.ERROR, "PASS_FAILED")
    assert (top.attributes or {})["retraced.reason"] == "PASS_FAILED"
    assert top.parent is None


async def test_a_caller_that_does_not_sample_is_not_traced_and_other_methods_are_not(
    traced: grpc.aio.Channel, spans: InMemorySpanExporter
) -> None:
    await transform(traced, metadata=(("traceparent", f"00-{_TRACE}-{_SPAN}-00"),))
    await GraphTransformServiceStub(traced).ListPasses(pb.ListPassesRequest())
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces(environment: dict[str, str], wanted: bool) -> None:
    assert wants_traces(environment) is wanted


class _Collector(HTTPServer):
    """Takes what an exporter sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.taken: list[tuple[str, ExportTraceServiceRequest]] = []


class _Take(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


async def test_spans_are_sent_where_the_variable_says(
    start: Start, collector: _Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    traces = Traces()
    async with start(LIMITS, traces) as address, grpc.aio.insecure_channel(address) as channel:
        await transform(channel)
    traces.close()
    ((path, sent),) = collector.taken
    assert path == "/v1/traces"
    (resource,) = sent.resource_spans
    names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert names["service.name"] == "retraced"
    assert _TOP in {span.name for span in resource.scope_spans[0].spans}


def test_without_being_asked_for_no_telemetry_is_imported() -> None:
    code = (
        "import sys, retraced_server.service.command\n"
        "assert not {'opentelemetry', 'prometheus_client', 'requests', 'wsgiref'} & {name.split('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_traces_that_cannot_be_sent_are_one_line_and_a_failure() -> None:
    command = [sys.executable, "-m", "tests.service.served_fake", "nothing", "--port", "0", "--traces"]
    hidden = "import sys; sys.modules['opentelemetry.sdk'] = None; sys.argv[0] = 'x'; import runpy; "
    hidden += "runpy.run_module('tests.service.served_fake', run_name='__main__')"
    for arguments, variables, said in (
        ([sys.executable, "-c", hidden, *command[3:]], {}, "pip install '.[server,otel]' in a checkout of retraced"),
        (command, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "over 'http/protobuf' only"),
    ):
        ended = subprocess.run(arguments, env=os.environ | variables, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("Error: traces are asked for")
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
