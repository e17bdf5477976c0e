"""What is counted and measured, for Prometheus. All names of metrics are here.

No label ever holds text of a caller's: methods, codes, reasons and stages are the server's own words, and passes those of its catalogue.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from importlib import metadata

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from retraced_server.engine.base import Engine
from retraced_server.service.calls import Call
from retraced_server.service.record import STAGES

_STAGE_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_PASS_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


# A second series for each counter and histogram, which says when it was made, and which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one server.

    Args:
        engine: Its engine.
        ready: Says whether a request would be taken now; called from any thread.

    Attributes:
        registry: All of them, with those of the front end's process.
    """

    def __init__(self, engine: Engine, ready: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()
        Info("retraced_build", "1; its labels are the versions that run here.", registry=self.registry).info(_versions())
        self._requests = Counter(
            "retraced_requests",
            "Calls that have ended, by method, gRPC code and reason; the reason is empty where there is none.",
            ("method", "code", "reason"),
            registry=self.registry,
        )
        self._received = Counter("retraced_received_bytes", "Bytes of the requests to transform.", registry=self.registry)
        self._sent = Counter("retraced_sent_bytes", "Bytes of the answers to them.", registry=self.registry)
        self._stages = Histogram(
            "retraced_stage_seconds",
            "Time of requests to transform, by stage: uploading, queued, reading, running, describing, writing.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self._passes = Histogram(
            "retraced_pass_seconds",
            "Time of passes that ended, by pass.",
            ("pass",),
            buckets=_PASS_BUCKETS,
            registry=self.registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)
        self.registry.register(_EngineMetrics(engine, ready))
        ProcessCollector(registry=self.registry)

    def ended(self, call: Call) -> None:
        """Count a call that has ended."""
        record = call.record
        self._requests.labels(record.method, record.code.name, record.reason).inc()
        self._received.inc(record.received_bytes)
        self._sent.inc(record.sent_bytes)
        for stage in record.stages():
            self._stages.labels(stage.name).observe(stage.seconds)
        for ran in record.passes():
            self._passes.labels(ran.name).observe(ran.seconds)


def _versions() -> dict[str, str]:
    # Torch is never loaded here; its distribution says the version that the workers load.
    return {
        "version": metadata.version("retraced"),
        "torch_version": metadata.version("torch"),
        "python_version": platform.python_version(),
    }


class _EngineMetrics(Collector):
    """What the engine knows of itself, asked for whenever the metrics are read: in a thread of the reader's."""

    def __init__(self, engine: Engine, ready: Callable[[], bool]) -> None:
        self._engine = engine
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics now."""
        load, counts = self._engine.load, self._engine.counts
        yield GaugeMetricFamily("retraced_ready", "1 if a request would be taken now, else 0.", self._ready())
        yield GaugeMetricFamily("retraced_requests_waiting", "Requests that upload or wait for a worker.", load.queued)
        yield GaugeMetricFamily("retraced_workers_running", "Workers that run a job.", load.running)
        yield GaugeMetricFamily("retraced_workers_limit", "Workers that may run at a time.", counts.slots)
        memory = self._engine.worker_memory()
        yield GaugeMetricFamily("retraced_worker_memory_bytes", "Memory of all workers beyond what they share.", memory)
        yield CounterMetricFamily("retraced_worker_forks", "Workers that were given a job.", counts.forks)
        kills = CounterMetricFamily(
            "retraced_worker_kills",
            "Workers that ended before they had answered, by cause: a reason, or CALLER_GONE.",
            labels=("cause",),
        )
        for cause, number in counts.kills.items():
            kills.add_metric((cause,), number)
        yield kills
        yield CounterMetricFamily(
            "retraced_zygote_restarts",
            "How often the process that workers are forked from was replaced.",
            counts.restarts,
        )
        yield GaugeMetricFamily("retraced_templates", "Templates of decompositions that jobs share.", counts.templates)
