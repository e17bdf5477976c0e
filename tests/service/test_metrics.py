"""What is counted, and that no text of a caller's is ever a label."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator
from importlib import metadata

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.engine.base import EngineCounts
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import JobStats, Period
from retraced_server.service.metrics import Metrics
from tests.service.conftest import LIMITS, Start, chunk, failure, spec, transform
from tests.service.fake_engine import FakeEngine, fails


@pytest.fixture
def metrics(engine: FakeEngine) -> Metrics:
    return Metrics(engine, lambda: engine.ready)


@pytest.fixture
async def counted(start: Start, metrics: Metrics) -> AsyncIterator[grpc.aio.Channel]:
    async with start(LIMITS, metrics) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


def _values(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name that are not 0, by the values of their labels."""
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {tuple(sample.labels.values()): sample.value for sample in samples if sample.name == name and sample.value}


async def test_calls_are_counted_by_method_code_and_reason(
    counted: grpc.aio.Channel, engine: FakeEngine, metrics: Metrics
) -> None:
    await transform(counted)
    await transform(counted)
    await failure(counted, [spec(pipeline="a-name-of-the-callers"), chunk()])
    engine.job = fails(RetracedError(Reason.PASS_FAILED, "no"))
    await failure(counted)
    await GraphTransformServiceStub(counted).ListPasses(pb.ListPassesRequest())
    assert _values(metrics.registry, "retraced_requests_total") == {
        ("TransformGraph", "OK", ""): 2,
        ("TransformGraph", "INVALID_ARGUMENT", "PASS_UNKNOWN"): 1,
        ("TransformGraph", "FAILED_PRECONDITION", "PASS_FAILED"): 1,
        ("ListPasses", "OK", ""): 1,
    }


async def test_bytes_in_and_out_are_those_of_the_messages(counted: grpc.aio.Channel, metrics: Metrics) -> None:
    sent = [spec(3 << 20), *(chunk(bytes(1 << 20)) for _ in range(3))]
    received = await transform(counted, sent)
    ((_, bytes_in),) = _values(metrics.registry, "retraced_received_bytes_total").items()
    ((_, bytes_out),) = _values(metrics.registry, "retraced_sent_bytes_total").items()
    assert bytes_in == sum(message.ByteSize() for message in sent)
    assert bytes_out == sum(message.ByteSize() for message in received)


async def test_stages_and_passes_are_timed(counted: grpc.aio.Channel, engine: FakeEngine, metrics: Metrics) -> None:
    engine.stats = JobStats(
        (Period("reading", 0.0, 0.25), Period("running", 0.25, 8.0)),
        (Period("decompose", 0.25, 6.0), Period("retrace", 6.25, 1.0), Period("retrace", 7.25, 1.0)),
    )
    await transform(counted)
    assert _values(metrics.registry, "retraced_stage_seconds_count") == {
        ("uploading",): 1,
        ("queued",): 1,
        ("reading",): 1,
        ("running",): 1,
    }
    assert _values(metrics.registry, "retraced_stage_seconds_sum").items() >= {("reading",): 0.25, ("running",): 8.0}.items()
    assert _values(metrics.registry, "retraced_pass_seconds_count") == {("decompose",): 1, ("retrace",): 2}
    assert _values(metrics.registry, "retraced_pass_seconds_sum") == {("decompose",): 6.0, ("retrace",): 2.0}


async def test_stages_of_a_request_that_fails_in_its_upload_are_those_that_it_had(
    counted: grpc.aio.Channel, metrics: Metrics
) -> None:
    await failure(counted, [spec(2), chunk()])
    assert _values(metrics.registry, "retraced_stage_seconds_count") == {("uploading",): 1}


def test_the_engine_is_asked_when_the_metrics_are_read(engine: FakeEngine, metrics: Metrics) -> None:
    engine.counts = EngineCounts(slots=4, forks=9, kills={"JOB_TIMED_OUT": 2, "CALLER_GONE": 1}, restarts=3, templates=7)
    names = ("ready", "requests_waiting", "workers_running", "workers_limit", "worker_memory_bytes", "worker_forks_total")
    found = [_values(metrics.registry, f"retraced_{name}").get(()) for name in names]
    assert found == [1, 2, 1, 4, 7 << 20, 9]
    assert _values(metrics.registry, "retraced_worker_kills_total") == {("JOB_TIMED_OUT",): 2, ("CALLER_GONE",): 1}
    assert _values(metrics.registry, "retraced_zygote_restarts_total") == {(): 3}
    assert _values(metrics.registry, "retraced_templates") == {(): 7}
    engine.ready = False
    assert _values(metrics.registry, "retraced_ready") == {}


def test_the_front_ends_own_process_is_measured(metrics: Metrics) -> None:
    assert _values(metrics.registry, "process_open_fds")
    assert _values(metrics.registry, "process_resident_memory_bytes")


def test_the_versions_that_run_are_the_labels_of_a_metric(metrics: Metrics) -> None:
    (family,) = [family for family in metrics.registry.collect() if family.name == "retraced_build"]
    (sample,) = family.samples
    assert (sample.name, sample.value) == ("retraced_build_info", 1)
    assert sample.labels == {
        "version": metadata.version("retraced"),
        "torch_version": metadata.version("torch"),
        "python_version": platform.python_version(),
    }


async def test_no_series_says_when_another_was_made(counted: grpc.aio.Channel, metrics: Metrics) -> None:
    await transform(counted)
    text = generate_latest(metrics.registry).decode()
    assert "retraced_stage_seconds_bucket" in text
    assert "_created" not in text
