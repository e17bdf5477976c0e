"""OpenTelemetry traces: for each request to transform, a span that goes on from the caller's, with its stages and passes below it.

The spans are made when the request has ended, with the times that its record has. Needs the extra `otel`; imported where traces are
asked for, and nowhere else. What can be set is set by OpenTelemetry's own variables, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER.
"""

from __future__ import annotations

import time

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from retraced_server.pipeline.domain import Period
from retraced_server.service import convert
from retraced_server.service.audit import METHOD
from retraced_server.service.calls import Call

_LONGEST = 1000


class Traces:
    """Makes the spans.

    Args:
        processor: Takes them; None sends them where OpenTelemetry's variables say, over HTTP.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        # A name that is set goes before ours.
        resource = Resource.create({SERVICE_NAME: "retraced", **OTELResourceDetector().detect().attributes})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("retraced")
        self._propagator = TraceContextTextMapPropagator()

    def ended(self, call: Call) -> None:
        """Make the spans of a request that has ended."""
        record = call.record
        if record.method != METHOD:
            return
        begun = time.time() - record.seconds
        whole = Period(f"{convert.SERVICE}/{METHOD}", 0.0, record.seconds)
        parent = self._propagator.extract({"traceparent": call.traceparent}) if call.traceparent else Context()
        number: int = record.code.value[0]
        attributes: dict[str, str | int] = {
            "rpc.system": "grpc",
            "rpc.service": convert.SERVICE,
            "rpc.method": METHOD,
            "rpc.grpc.status_code": number,
            "retraced.request_id": call.request_id,
            "retraced.caller": call.caller,
            "retraced.pipeline": record.pipeline[:_LONGEST],
            "retraced.archive_bytes": record.archive_bytes,
        }
        if record.reason:
            attributes["retraced.reason"] = record.reason
        top = self._tracer.start_span(whole.name, parent, trace.SpanKind.SERVER, attributes, start_time=_ns(begun))
        if record.code is not grpc.StatusCode.OK:
            top.set_status(trace.StatusCode.ERROR, record.reason or record.code.name)
        in_request = trace.set_span_in_context(top, Context())
        job = record.job_period()
        in_job = self._span(job, begun, in_request) if job is not None else in_request
        in_passes = in_job
        for stage in record.stages():
            below = self._span(stage, begun, in_request if stage.name in ("uploading", "queued") else in_job)
            if stage.name == "running":
                in_passes = below
        for ran in record.passes():
            self._span(Period(f"pass {ran.name}", ran.start, ran.seconds), begun, in_passes)
        top.end(_ns(begun + whole.seconds))

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()

    def _span(self, period: Period, begun: float, parent: Context) -> Context:
        """Make one span, and return what makes others its children."""
        start = begun + period.start
        span = self._tracer.start_span(period.name, parent, start_time=_ns(start))
        span.end(_ns(start + period.seconds))
        return trace.set_span_in_context(span, Context())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
