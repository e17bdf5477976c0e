"""Who looks at the calls of a server, as its settings say: the audit log, metrics, traces."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Mapping

import structlog

from retraced._install import install_advice
from retraced_server.engine.base import Engine
from retraced_server.service import audit
from retraced_server.service.front_end import FrontEnd
from retraced_server.service.listen import AddressError
from retraced_server.service.settings import Settings

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"

_log = structlog.stdlib.get_logger("retraced")


class ObserverError(Exception):
    """One of them cannot be had; the message says which, and why."""


class Observers:
    """Those of one server. What is not asked for is not imported.

    Args:
        settings: What is asked for.
        engine: The server's engine.
        front_end: Whose calls they look at.

    Raises:
        ObserverError: A file, an address or a package cannot be used.
    """

    def __init__(self, settings: Settings, engine: Engine, front_end: FrontEnd) -> None:
        if settings.audit_log is not None:
            try:
                audit.also_write_to(settings.audit_log)
            except OSError as error:
                raise ObserverError(f"cannot write to the audit log {settings.audit_log}: {error.strerror}") from error
        front_end.observe(audit.Audit())
        self._traces = None
        if settings.traces or wants_traces(os.environ):
            _check_otel(os.environ)
            from retraced_server.service.traces import Traces

            self._traces = Traces()
            front_end.observe(self._traces)
        self._monitor = None
        if settings.metrics_port is not None:
            from retraced_server.service.metrics import Metrics
            from retraced_server.service.monitor import Monitor

            metrics = Metrics(engine, lambda: not front_end.obstacles())
            front_end.observe(metrics)
            self._monitor = Monitor(metrics.registry, front_end.obstacles)
            try:
                url = self._monitor.start(settings.metrics_host, settings.metrics_port)
            except AddressError as error:
                raise ObserverError(str(error)) from error
            _log.info("metrics", url=f"{url}/metrics")

    async def stop(self) -> None:
        """End what looks on, when no calls are left."""
        if self._monitor is not None:
            await self._monitor.stop()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)


def wants_traces(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces."""
    off = environment.get("OTEL_TRACES_EXPORTER") == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and any(environment.get(name) for name in _ENDPOINTS)


def _check_otel(environment: Mapping[str, str]) -> None:
    if _missing("opentelemetry.sdk") or _missing("opentelemetry.exporter.otlp.proto.http"):
        raise ObserverError(f"traces are asked for, and OpenTelemetry is not installed; {install_advice('server,otel')}")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _HTTP)
    if protocol != _HTTP:
        raise ObserverError(f"traces are asked for over {protocol!r}, and they are sent over {_HTTP!r} only")


def _missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True
