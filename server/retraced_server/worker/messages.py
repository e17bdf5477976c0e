"""What the front end, the zygote and the workers say to each other: from domain objects to serialized messages and back.

With `responses`, which makes what a caller receives, this is the only place that touches generated messages in workers and engine.
It imports neither torch nor grpc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import MappingProxyType

from google.protobuf.message import DecodeError

from retraced.v1 import graph_transform_pb2, passes_pb2, program_pb2
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.pipeline.catalogue import Catalogue, IrLevel, OptionInfo, OptionType, OptionValue, PassInfo, WeightsNeed
from retraced_server.pipeline.domain import JobStats, NodeSelection, OutputDelivery, Period, RetraceMode, TransformOptions
from retraced_server.pipeline.parse import PassCall, Pipeline, format_value
from retraced_server.pipeline.syntax import MAX_PASSES, parse_syntax
from retraced_server.worker.sandbox import Layer, SandboxReport, State
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


class MessageError(Exception):
    """A frame is not the message that it should be."""


@dataclass(frozen=True)
class StartJob:
    """Fork a worker.

    Attributes:
        job_id: The job.
        memory_bytes: Its memory beyond what it shares with the zygote; 0 is no limit.
        cpu_seconds: Processor time of all its threads; 0 is no limit.
        read_seconds: How much of that reading the program may take; 0 is no limit.
    """

    job_id: int
    memory_bytes: int
    cpu_seconds: int
    read_seconds: float


@dataclass(frozen=True)
class KillJob:
    """Kill a worker, if it still runs."""

    job_id: int


@dataclass(frozen=True)
class ZygoteReady:
    """Torch is imported and warm.

    Attributes:
        imports: Names and versions of the operator's modules and of the plugins.
        sandbox: What workers run in.
    """

    catalogue: Catalogue
    torch_version: str
    python_version: str
    schema_version: tuple[int, int]
    imports: tuple[tuple[str, str], ...]
    sandbox: SandboxReport


@dataclass(frozen=True)
class ZygoteFailed:
    """The zygote cannot start. `traceback` is of a module of the operator's, where that is why."""

    message: str
    traceback: str = ""


@dataclass(frozen=True)
class WorkerStarted:
    """A worker was forked."""

    job_id: int
    pid: int


@dataclass(frozen=True)
class WorkerEnded:
    """A worker has ended and was reaped. With neither status nor signal it could not be forked."""

    job_id: int
    exit_status: int | None = None
    signal: int | None = None


@dataclass(frozen=True)
class JobRequest:
    """What a worker is to do.

    Attributes:
        request_id: The request's id, for logs.
        pipeline: The passes.
        options: What else is asked for.
        archive_sha256: The digest of the archive that was uploaded; empty where it is not known.
        queued_seconds: How long the request waited for the worker.
    """

    request_id: str
    pipeline: Pipeline
    options: TransformOptions = field(default_factory=TransformOptions)
    archive_sha256: bytes = b""
    queued_seconds: float = 0.0


@dataclass(frozen=True)
class JobDone:
    """The summary was sent."""


ZygoteCommand = StartJob | KillJob
ZygoteEvent = ZygoteReady | ZygoteFailed | WorkerStarted | WorkerEnded
JobEvent = bytes | RetracedError | JobDone | JobStats
"""A serialized `TransformGraphResponse`, or why the job failed, or that it is done; and before one of these two, what it took."""


def encode_command(command: ZygoteCommand) -> bytes:
    """Serialize a command to the zygote."""
    if isinstance(command, StartJob):
        start = messages_pb2.StartJob(
            job_id=command.job_id,
            memory_bytes=command.memory_bytes,
            cpu_seconds=command.cpu_seconds,
            read_seconds=command.read_seconds,
        )
        return messages_pb2.ZygoteCommand(start_job=start).SerializeToString()
    return messages_pb2.ZygoteCommand(kill_job=messages_pb2.KillJob(job_id=command.job_id)).SerializeToString()


def decode_command(data: bytes) -> ZygoteCommand:
    """Read a command to the zygote.

    Raises:
        MessageError: The bytes are not a serialized command.
    """
    message = messages_pb2.ZygoteCommand()
    _parse(message, data)
    if message.HasField("start_job"):
        start = message.start_job
        return StartJob(start.job_id, start.memory_bytes, start.cpu_seconds, start.read_seconds)
    if message.HasField("kill_job"):
        return KillJob(message.kill_job.job_id)
    raise MessageError("the command to the zygote is empty")


def encode_event(event: ZygoteEvent) -> bytes:
    """Serialize an event from the zygote."""
    match event:
        case ZygoteReady():
            major, minor = event.schema_version
            ready = messages_pb2.ZygoteReady(
                passes=[encode_pass(info) for info in event.catalogue.values()],
                torch_version=event.torch_version,
                python_version=event.python_version,
                schema_version=program_pb2.SchemaVersion(major=major, minor=minor),
                imports=[graph_transform_pb2.ImportedModule(name=name, version=version) for name, version in event.imports],
                sandbox=encode_sandbox(event.sandbox),
            )
            message = messages_pb2.ZygoteEvent(ready=ready)
        case ZygoteFailed():
            message = messages_pb2.ZygoteEvent(
                failed=messages_pb2.ZygoteFailed(message=bounded(event.message), traceback=bounded_end(event.traceback))
            )
        case WorkerStarted():
            message = messages_pb2.ZygoteEvent(worker_started=messages_pb2.WorkerStarted(job_id=event.job_id, pid=event.pid))
        case WorkerEnded():
            ended = messages_pb2.WorkerEnded(job_id=event.job_id, exit_status=event.exit_status, signal=event.signal)
            message = messages_pb2.ZygoteEvent(worker_ended=ended)
    return message.SerializeToString()


def decode_event(data: bytes) -> ZygoteEvent:
    """Read an event from the zygote.

    Raises:
        MessageError: The bytes are not a serialized event.
    """
    message = messages_pb2.ZygoteEvent()
    _parse(message, data)
    match message.WhichOneof("event"):
        case "ready":
            ready = message.ready
            return ZygoteReady(
                catalogue={info.name: info for info in map(_decode_pass, ready.passes)},
                torch_version=ready.torch_version,
                python_version=ready.python_version,
                schema_version=(ready.schema_version.major, ready.schema_version.minor),
                imports=tuple((module.name, module.version) for module in ready.imports),
                sandbox=_decode_sandbox(ready.sandbox),
            )
        case "failed":
            return ZygoteFailed(message.failed.message, message.failed.traceback)
        case "worker_started":
            return WorkerStarted(message.worker_started.job_id, message.worker_started.pid)
        case "worker_ended":
            ended = message.worker_ended
            return WorkerEnded(
                ended.job_id,
                ended.exit_status if ended.HasField("exit_status") else None,
                ended.signal if ended.HasField("signal") else None,
            )
        case None:
            raise MessageError("the event from the zygote is empty")


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
    _parse(message, data)
    asked = message.options
    try:
        options = TransformOptions(
            node_metadata=NodeSelection[_suffix(graph_transform_pb2.NodeMetadataSelection.Name(asked.node_metadata), 3)],
            validate_only=asked.validate_only,
            mode=RetraceMode[_suffix(graph_transform_pb2.RetraceMode.Name(asked.mode), 2)],
            refuse_new_guards=asked.refuse_new_guards,
            output=OutputDelivery[_suffix(graph_transform_pb2.OutputDelivery.Name(asked.output), 2)],
        )
    except (KeyError, ValueError) as error:
        raise MessageError(f"the job request has an option without a value: {error}") from error
    pipeline = Pipeline(tuple(_decode_call(call, catalogue) for call in message.passes))
    return JobRequest(message.request_id, pipeline, options, message.archive_sha256, message.queued_seconds)


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
    _parse(message, content)
    match message.WhichOneof("event"):
        case "done":
            return JobDone()
        case "stats":
            return _decode_stats(message.stats)
        case "error":
            return _decode_error(message.error)
        case None:
            raise MessageError("the event from the worker is empty")


def _encode_event(event: RetracedError | JobDone | JobStats) -> messages_pb2.JobEvent:
    if isinstance(event, JobDone):
        return messages_pb2.JobEvent(done=messages_pb2.JobDone())
    if isinstance(event, JobStats):
        return messages_pb2.JobEvent(stats=_encode_stats(event))
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
        options = {option.name: _decode_value(option.type, given[option.name]) for option in info.options}
    except (KeyError, ValueError, RetracedError) as error:
        raise MessageError(f"the job request has other options of `{message.name}` than the pass takes") from error
    return PassCall(info, MappingProxyType(options))


def _parse(
    message: messages_pb2.ZygoteCommand | messages_pb2.ZygoteEvent | messages_pb2.JobRequest | messages_pb2.JobEvent,
    data: bytes,
) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(f"{len(data)} bytes are no {type(message).__name__}") from error


def _suffix(name: str, words: int) -> str:
    # The generated names of enum values begin with the enum's name: `OUTPUT_DELIVERY_IF_MODIFIED`.
    return name.split("_", words)[words]


def encode_pass(info: PassInfo) -> passes_pb2.Pass:
    """Return a pass as a message."""
    return passes_pb2.Pass(
        name=info.name,
        summary=info.summary,
        description=info.description,
        options=[_encode_option(option) for option in info.options],
        needs_weights=info.needs_weights is WeightsNeed.VALUES,
        ir_level=passes_pb2.IrLevel.Value(f"IR_LEVEL_{info.ir_level.name}"),
        provider=info.provider,
    )


def encode_sandbox(report: SandboxReport) -> list[graph_transform_pb2.SandboxLayer]:
    """Return the layers of a sandbox as messages."""
    return [
        graph_transform_pb2.SandboxLayer(
            name=layer.name,
            state=graph_transform_pb2.SandboxLayerState.Value(f"SANDBOX_LAYER_STATE_{layer.state.name}"),
            detail=layer.detail,
            required=layer.required,
        )
        for layer in report.layers
    ]


def _decode_sandbox(layers: Iterable[graph_transform_pb2.SandboxLayer]) -> SandboxReport:
    return SandboxReport(
        tuple(
            Layer(
                layer.name,
                State[_suffix(graph_transform_pb2.SandboxLayerState.Name(layer.state), 3)],
                layer.detail,
                required=layer.required,
            )
            for layer in layers
        )
    )


def _decode_pass(message: passes_pb2.Pass) -> PassInfo:
    return PassInfo(
        name=message.name,
        summary=message.summary,
        description=message.description,
        options=tuple(_decode_option(option) for option in message.options),
        needs_weights=WeightsNeed.VALUES if message.needs_weights else WeightsNeed.NONE,
        ir_level=IrLevel[_suffix(passes_pb2.IrLevel.Name(message.ir_level), 2)],
        provider=message.provider,
    )


def _encode_option(option: OptionInfo) -> passes_pb2.PassOption:
    return passes_pb2.PassOption(
        name=option.name,
        summary=option.summary,
        type=passes_pb2.OptionType.Value(f"OPTION_TYPE_{option.type.name}"),
        default_value=None if option.default is None else format_value(option.default),
        choices=option.choices,
    )


def _decode_option(message: passes_pb2.PassOption) -> OptionInfo:
    option_type = OptionType[_suffix(passes_pb2.OptionType.Name(message.type), 2)]
    default = _decode_value(option_type, message.default_value) if message.HasField("default_value") else None
    return OptionInfo(message.name, message.summary, option_type, default, tuple(message.choices))


def _decode_value(option_type: OptionType, text: str) -> OptionValue:
    match option_type:
        case OptionType.BOOL:
            return text == "true"
        case OptionType.INT:
            return int(text)
        case OptionType.FLOAT:
            return float(text)
        case OptionType.STRING | OptionType.CHOICE:
            (call,) = parse_syntax(f"p{{o={text}}}")
            return call.options[0].text
