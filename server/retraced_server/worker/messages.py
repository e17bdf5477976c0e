"""What the front end and the zygote say to each other: from domain objects to serialized messages and back.

With `job_messages`, and `responses`, which makes what a caller receives, this is the only place that touches generated messages in workers
and engine.
It imports neither torch nor grpc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from retraced.v1 import graph_transform_pb2, passes_pb2, program_pb2
from retraced_server.pipeline.catalogue import Catalogue, IrLevel, OptionInfo, OptionType, OptionValue, PassInfo, WeightsNeed
from retraced_server.pipeline.parse import format_value
from retraced_server.pipeline.syntax import parse_syntax
from retraced_server.worker.sandbox import Layer, SandboxReport, State
from retraced_server.worker.texts import bounded, bounded_end
from retraced_server.worker.v1 import messages_pb2


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
class WorkerFacts:
    """What the workers are. A zygote says it when torch is imported and warm.

    Attributes:
        imports: Names of the operator's modules and of the plugins, with their versions, which are empty where they have none.
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
class KeepTemplates:
    """Have other templates: those in the file whose descriptor rides with the command, as `encode_templates` makes it."""


ZygoteCommand = StartJob | KillJob | KeepTemplates
ZygoteEvent = WorkerFacts | ZygoteFailed | WorkerStarted | WorkerEnded


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
    if isinstance(command, KeepTemplates):
        return messages_pb2.ZygoteCommand(keep_templates=messages_pb2.KeepTemplates()).SerializeToString()
    return messages_pb2.ZygoteCommand(kill_job=messages_pb2.KillJob(job_id=command.job_id)).SerializeToString()


def decode_command(data: bytes) -> ZygoteCommand:
    """Read a command to the zygote.

    Raises:
        MessageError: The bytes are not a serialized command.
    """
    message = messages_pb2.ZygoteCommand()
    parse_message(message, data)
    if message.HasField("start_job"):
        start = message.start_job
        return StartJob(start.job_id, start.memory_bytes, start.cpu_seconds, start.read_seconds)
    if message.HasField("kill_job"):
        return KillJob(message.kill_job.job_id)
    if message.HasField("keep_templates"):
        return KeepTemplates()
    raise MessageError("the command to the zygote is empty")


def encode_templates(templates: Mapping[bytes, bytes]) -> bytes:
    """Serialize templates by the keys of their calls."""
    entries = [messages_pb2.Template(key=key, template=template) for key, template in templates.items()]
    return messages_pb2.Templates(templates=entries).SerializeToString()


def decode_templates(data: bytes) -> dict[bytes, bytes]:
    """Read templates by the keys of their calls.

    Raises:
        MessageError: The bytes are none.
    """
    message = messages_pb2.Templates()
    parse_message(message, data)
    return {entry.key: entry.template for entry in message.templates}


def encode_event(event: ZygoteEvent) -> bytes:
    """Serialize an event from the zygote."""
    match event:
        case WorkerFacts():
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
    parse_message(message, data)
    match message.WhichOneof("event"):
        case "ready":
            ready = message.ready
            return WorkerFacts(
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


def parse_message(message: Message, data: bytes) -> None:
    """Read the serialized form of a message into it.

    Raises:
        MessageError: The bytes are none.
    """
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(f"{len(data)} bytes are no {type(message).__name__}") from error


def enum_suffix(name: str, words: int) -> str:
    """Return the name of an enum's value without its first words, which are the enum's name."""
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
                State[enum_suffix(graph_transform_pb2.SandboxLayerState.Name(layer.state), 3)],
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
        ir_level=IrLevel[enum_suffix(passes_pb2.IrLevel.Name(message.ir_level), 2)],
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
    option_type = OptionType[enum_suffix(passes_pb2.OptionType.Name(message.type), 2)]
    default = decode_value(option_type, message.default_value) if message.HasField("default_value") else None
    return OptionInfo(message.name, message.summary, option_type, default, tuple(message.choices))


def decode_value(option_type: OptionType, text: str) -> OptionValue:
    """Return the value of a pass's option that a text of a pipeline stands for. Raises ValueError or `RetracedError` where it is none."""
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
