"""What the front end and the workers say to each other: from domain objects to serialized messages and back.

It imports neither torch nor grpc.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType

from retraced.v1 import graph_transform_pb2
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.pipeline.catalogue import Catalogue, PassInfo
from retraced_server.pipeline.domain import (
    LARGEST_TEMPLATE,
    MOST_TEMPLATE_KEYS,
    JobStats,
    NodeSelection,
    OutputDelivery,
    Period,
    RetraceMode,
    TransformOptions,
)
from retraced_server.pipeline.parse import PassCall, Pipeline, format_value
from retraced_server.pipeline.syntax import MAX_PASSES
from retraced_server.worker.messages import MessageError, decode_value, enum_suffix, parse_message
from retraced_server.worker.texts import LONGEST_TEXT, bounded, bounded_end
from retraced_server.worker.v1 import messages_pb2

# A job's times are below; what is not was made up.
_LONGEST_SECONDS = 1e9
_STAGES = {"reading", "running", "describing", "writing"}
_MOST_STAGES = 16
_LONGEST_NAME = 256
# What is bounded when it is encoded is bounded when it is decoded too: a worker that was taken over encodes what it likes.
_LONGEST_ENCODED = LONGEST_TEXT + len("...")
_MOST_METADATA, _MOST_VIOLATIONS = 64, 64
_METADATA_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SHA256_BYTES = 32
# The first byte of a worker's frame: what follows is a TransformGraphResponse, which the front end forwards as it is, or a JobEvent.
_RESPONSE, _EVENT = b"\x00", b"\x01"


@dataclass(frozen=True)
class JobRequest:
    """What a worker is to do.

    Attributes:
        request_id: The request's id, for logs.
        pipeline: The passes.
        options: What else is asked for.
        archive_sha256: The digest of the archive that was uploaded; empty where it is not known.
        queued_seconds: How long the request waited for the worker.
        share_templates: Whether the keys of the calls are wanted that it finds no template for.
        template_key: Instead of all else but the id, the key of a call whose template is to be made.
    """

    request_id: str
    pipeline: Pipeline
    options: TransformOptions = field(default_factory=TransformOptions)
    archive_sha256: bytes = b""
    queued_seconds: float = 0.0
    share_templates: bool = False
    template_key: bytes = b""


@dataclass(frozen=True)
class JobDone:
    """The summary was sent."""


@dataclass(frozen=True)
class TemplatesMissed:
    """The keys of calls that the job found no template for."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True)
class TemplateMade:
    """The template that the job was to make; empty where none can be shared."""

    template: bytes


JobEvent = bytes | RetracedError | JobDone | JobStats | TemplatesMissed | TemplateMade
"""A serialized `TransformGraphResponse`, or why the job failed, or that it is done; and before one of these two, what it took and missed."""


def encode_job_request(job: JobRequest) -> bytes:
    """Serialize what a worker is to do."""
    asked = job.options
    options = graph_transform_pb2.TransformOptions(
        node_metadata=graph_transform_pb2.NodeMetadataSelection.Value(f"NODE_METADATA_SELECTION_{asked.node_metadata.name}"),
        validate_only=asked.validate_only,
        mode=graph_transform_pb2.RetraceMode.Value(f"RETRACE_MODE_{asked.mode.name}"),
        refuse_new_guards=asked.refuse_new_guards,
        output=graph_transform_pb2.OutputDelivery.Value(f"OUTPUT_DELIVERY_{asked.output.name}"),
    )
    return messages_pb2.JobRequest(
        request_id=job.request_id,
        passes=map(_encode_call, job.pipeline.passes),
        options=options,
        archive_sha256=job.archive_sha256,
        queued_seconds=job.queued_seconds,
        share_templates=job.share_templates,
        template_key=job.template_key,
    ).SerializeToString()


def decode_job_request(data: bytes, catalogue: Catalogue) -> JobRequest:
    """Read what a worker is to do. Every option has to be set: the front end has filled in what its caller left out.

    Args:
        data: The message.
        catalogue: The passes of this worker. One that it does not have is refused when it is to be created.

    Raises:
        MessageError: The bytes are not a serialized job request.
    """
    message = messages_pb2.JobRequest()
    parse_message(message, data)
    asked = message.options
    try:
        options = TransformOptions(
            node_metadata=NodeSelection[enum_suffix(graph_transform_pb2.NodeMetadataSelection.Name(asked.node_metadata), 3)],
            validate_only=asked.validate_only,
            mode=RetraceMode[enum_suffix(graph_transform_pb2.RetraceMode.Name(asked.mode), 2)],
            refuse_new_guards=asked.refuse_new_guards,
            output=OutputDelivery[enum_suffix(graph_transform_pb2.OutputDelivery.Name(asked.output), 2)],
        )
    except (KeyError, ValueError) as error:
        raise MessageError(f"the job request has an option without a value: {error}") from error
    pipeline = Pipeline(tuple(_decode_call(call, catalogue) for call in message.passes))
    return JobRequest(
        message.request_id,
        pipeline,
        options,
        message.archive_sha256,
        message.queued_seconds,
        share_templates=message.share_templates,
        template_key=message.template_key,
    )


def encode_job_event(event: JobEvent) -> bytes:
    """Serialize what a worker sends: a frame's content."""
    return _RESPONSE + event if isinstance(event, bytes) else _EVENT + _encode_event(event).SerializeToString()


def decode_job_event(data: bytes) -> JobEvent:
    """Read what a worker sends. A response is not looked into: it is for the caller, whose program and passes it is of.

    Raises:
        MessageError: The bytes are not a serialized event of a job, nor of the kind of a response.
    """
    kind, content = data[:1], data[1:]
    if kind == _RESPONSE:
        return content
    if kind != _EVENT:
        raise MessageError(f"{len(data)} bytes of the worker are neither a response nor an event")
    message = messages_pb2.JobEvent()
    parse_message(message, content)
    match message.WhichOneof("event"):
        case "done":
            return JobDone()
        case "stats":
            return _decode_stats(message.stats)
        case "error":
            return _decode_error(message.error)
        case "templates_missed":
            keys = tuple(message.templates_missed.keys)
            if len(keys) > MOST_TEMPLATE_KEYS or any(len(key) > LARGEST_TEMPLATE for key in keys):
                raise MessageError("the worker names more or larger calls than it may")
            return TemplatesMissed(keys)
        case "template_made":
            if len(message.template_made.template) > LARGEST_TEMPLATE:
                raise MessageError(f"the worker has made a template of {len(message.template_made.template)} bytes")
            return TemplateMade(message.template_made.template)
        case None:
            raise MessageError("the event from the worker is empty")


def _encode_event(event: RetracedError | JobDone | JobStats | TemplatesMissed | TemplateMade) -> messages_pb2.JobEvent:
    if isinstance(event, JobDone):
        return messages_pb2.JobEvent(done=messages_pb2.JobDone())
    if isinstance(event, JobStats):
        return messages_pb2.JobEvent(stats=_encode_stats(event))
    if isinstance(event, TemplatesMissed):
        return messages_pb2.JobEvent(templates_missed=messages_pb2.TemplatesMissed(keys=event.keys))
    if isinstance(event, TemplateMade):
        return messages_pb2.JobEvent(template_made=messages_pb2.TemplateMade(template=event.template))
    error = messages_pb2.JobError(
        reason=event.reason.value,
        message=bounded(event.message),
        metadata={key: bounded(value) for key, value in event.metadata.items()},
        violations=[
            messages_pb2.FieldViolation(field=violation.field, description=bounded(violation.description))
            for violation in event.violations
        ],
        traceback=bounded_end(event.traceback),
    )
    return messages_pb2.JobEvent(error=error)


def _decode_error(message: messages_pb2.JobError) -> RetracedError:
    try:
        reason = Reason(message.reason)
    except ValueError as fault:
        raise MessageError(f"the worker names a reason that there is not: {message.reason[:80]!r}") from fault
    if len(message.metadata) > _MOST_METADATA or len(message.violations) > _MOST_VIOLATIONS:
        raise MessageError("the worker's error has more entries than an error may have")
    if not all(map(_METADATA_KEY.fullmatch, message.metadata)):
        raise MessageError("the worker's error has metadata under a key that is no name")
    violations = [FieldViolation(violation.field, violation.description) for violation in message.violations]
    texts = [
        message.message,
        message.traceback,
        *message.metadata.values(),
        *(text for v in violations for text in (v.field, v.description)),
    ]
    if any(len(text) > _LONGEST_ENCODED for text in texts):
        raise MessageError("the worker's error has a longer text than an error may have")
    return RetracedError(reason, message.message, metadata=message.metadata, violations=violations, traceback=message.traceback)


def _encode_stats(stats: JobStats) -> messages_pb2.JobStats:
    return messages_pb2.JobStats(
        stages=map(_encode_period, stats.stages),
        passes=map(_encode_period, stats.passes),
        output_size=stats.output_size,
        output_sha256=stats.output_sha256,
    )


def _decode_stats(message: messages_pb2.JobStats) -> JobStats:
    names = {period.name for period in message.stages}
    if not names <= _STAGES or len(message.stages) > _MOST_STAGES or len(message.passes) > MAX_PASSES:
        raise MessageError("the worker names stages or passes that there are not")
    if any(len(period.name) > _LONGEST_NAME for period in message.passes):
        raise MessageError("the worker names a pass by a longer name than a pass may have")
    if len(message.output_sha256) not in (0, _SHA256_BYTES):
        raise MessageError(f"the worker names a sha256 of {len(message.output_sha256)} bytes")
    return JobStats(
        tuple(map(_decode_period, message.stages)),
        tuple(map(_decode_period, message.passes)),
        message.output_size,
        message.output_sha256,
    )


def _encode_period(period: Period) -> messages_pb2.Period:
    return messages_pb2.Period(name=period.name, start=period.start, seconds=period.seconds)


def _decode_period(message: messages_pb2.Period) -> Period:
    # The comparison is not true of NaN either.
    if not (0.0 <= message.start < _LONGEST_SECONDS and 0.0 <= message.seconds < _LONGEST_SECONDS):
        raise MessageError("the worker names a time that there is not")
    return Period(message.name, message.start, message.seconds)


def _encode_call(call: PassCall) -> messages_pb2.PassCall:
    options = {name: format_value(value) for name, value in call.options.items()}
    return messages_pb2.PassCall(name=call.info.name, options=options)


def _decode_call(message: messages_pb2.PassCall, catalogue: Catalogue) -> PassCall:
    info, given = catalogue.get(message.name, PassInfo(message.name, "")), dict(message.options)
    try:
        options = {option.name: decode_value(option.type, given[option.name]) for option in info.options}
    except (KeyError, ValueError, RetracedError) as error:
        raise MessageError(f"the job request has other options of `{message.name}` than the pass takes") from error
    return PassCall(info, MappingProxyType(options))
