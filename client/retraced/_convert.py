"""Wire messages to and from domain objects. Only this module and `_convert_nodes` touch generated messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeVar

from google.protobuf.message import Message

from retraced import events, program, reports, server_info
from retraced._options import TransformOptions, is_request_id
from retraced.errors import ResponseInvalid
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import passes_pb2, program_pb2

_Enum = TypeVar("_Enum", bound=StrEnum)
_Number = TypeVar("_Number")

_SHA256_BYTES: Final = 32
# Of a catalogue of passes, which has some ten thousand bytes, or of what a server is.
_LARGEST_ANSWER: Final = 4 << 20

_SELECTIONS = {
    "none": pb.NODE_METADATA_SELECTION_NONE,
    "changed": pb.NODE_METADATA_SELECTION_CHANGED,
    "all": pb.NODE_METADATA_SELECTION_ALL,
}
_MODES = {
    None: pb.RETRACE_MODE_UNSPECIFIED,
    "incremental": pb.RETRACE_MODE_INCREMENTAL,
    "full": pb.RETRACE_MODE_FULL,
}


def spec_request(pipeline: str, options: TransformOptions, archive_size: int, *, can_reread: bool) -> pb.TransformGraphRequest:
    """Return the first message of a request."""
    if not options.want_output:
        output = pb.OUTPUT_DELIVERY_NEVER
    elif can_reread:
        output = pb.OUTPUT_DELIVERY_IF_MODIFIED
    else:
        output = pb.OUTPUT_DELIVERY_ALWAYS
    return pb.TransformGraphRequest(
        spec=pb.TransformSpec(
            pipeline=pipeline,
            options=pb.TransformOptions(
                node_metadata=_SELECTIONS[options.node_metadata],
                validate_only=options.validate_only,
                mode=_MODES[options.mode],
                refuse_new_guards=options.refuse_new_guards,
                output=output,
            ),
            archive_size=archive_size,
        )
    )


def chunk_request(chunk: bytes) -> pb.TransformGraphRequest:
    """Return a message with the next bytes of the archive."""
    return pb.TransformGraphRequest(archive_chunk=chunk)


class ValueInvalidError(Exception):
    """A server's message holds a value that cannot be what it stands for."""


def accepted(message: pb.Accepted) -> events.Accepted:
    """Return the request was taken."""
    if message.request_id and not is_request_id(message.request_id):
        raise ValueInvalidError("a request id that is none")
    return events.Accepted(message.request_id, message.queue_position)


def progress(message: pb.Progress) -> events.Progress:
    """How far the work is."""
    stage = enum_value(pb.Stage.Name, message.stage, "STAGE_", events.Stage.UNKNOWN)
    return events.Progress(stage, message.done, message.total)


def pass_started(message: pb.PassStarted) -> events.PassStarted:
    """Return a pass begins."""
    return events.PassStarted(message.index, message.count, message.name, message.text)


def pass_finished(message: pb.PassFinished) -> events.PassFinished:
    """Return a pass has ended."""
    return events.PassFinished(message.index, pass_report(message.report))


def pass_report(message: passes_pb2.PassReport) -> reports.PassReport:
    """Return what one pass did."""
    return reports.PassReport(
        name=message.name,
        text=message.text,
        modified=message.modified,
        rewrites=message.rewrites,
        seconds=_seconds(message.seconds),
        nodes_before=message.nodes_before,
        nodes_after=message.nodes_after,
        remarks=tuple(message.remarks),
        new_guards=tuple(message.new_guards),
    )


def summary(message: pb.Summary) -> reports.Summary:
    """Return what came out."""
    timings = message.timings
    return reports.Summary(
        modified=message.modified,
        input=program_info(message.input),
        output=program_info(message.output) if message.HasField("output") else None,
        output_size=message.output_size,
        output_sha256=_sha256(message.output_sha256),
        pipeline=message.pipeline,
        timings=reports.Timings(
            *map(_seconds, (timings.queued, timings.reading, timings.running, timings.describing, timings.writing))
        ),
        remarks=tuple(message.remarks),
    )


def program_info(message: program_pb2.ProgramInfo) -> program.ProgramInfo:
    """Return a program as a whole."""
    return program.ProgramInfo(
        inputs=tuple(map(_input_spec, message.signature.inputs)),
        outputs=tuple(map(_output_spec, message.signature.outputs)),
        symbols=tuple(map(_symbol, message.symbols)),
        schema_version=(
            (message.schema_version.major, message.schema_version.minor) if message.HasField("schema_version") else None
        ),
        torch_version=message.torch_version,
        node_count=message.node_count,
        graph_count=message.graph_count,
        dialect=message.dialect,
        guards=tuple(message.guards),
        targets={target.target: target.count for target in message.targets},
    )


def passes(message: pb.ListPassesResponse) -> tuple[server_info.PassInfo, ...]:
    """Return the passes that a server can run.

    Raises:
        ResponseInvalid: They are too many.
    """
    _check_size(message)
    return tuple(map(_pass_info, message.passes))


def _pass_info(message: passes_pb2.Pass) -> server_info.PassInfo:
    return server_info.PassInfo(
        name=message.name,
        summary=message.summary,
        description=message.description,
        options=tuple(map(_pass_option, message.options)),
        needs_weights=message.needs_weights,
        ir_level=enum_value(passes_pb2.IrLevel.Name, message.ir_level, "IR_LEVEL_", server_info.IrLevel.UNKNOWN),
        provider=message.provider,
    )


def info(message: pb.GetServerInfoResponse) -> server_info.ServerInfo:
    """Return what a server is.

    Raises:
        ResponseInvalid: It is too much, or a duration is none.
    """
    _check_size(message)
    try:
        return _info(message)
    except ValueInvalidError as error:
        raise ResponseInvalid(f"the server's answer cannot be used: {error}") from None


def _info(message: pb.GetServerInfoResponse) -> server_info.ServerInfo:
    limits = message.limits
    return server_info.ServerInfo(
        version=message.version,
        torch_version=message.torch_version,
        python_version=message.python_version,
        schema_version=(message.schema_version.major, message.schema_version.minor),
        imports=tuple(server_info.ImportedModule(module.name, module.version) for module in message.imports),
        limits=server_info.Limits(
            max_archive_bytes=limits.max_archive_bytes,
            max_queued=limits.max_queued,
            workers=limits.workers,
            job_timeout_seconds=_seconds(limits.job_timeout_seconds),
            worker_memory_bytes=limits.worker_memory_bytes,
            memory_bytes=limits.memory_bytes,
        ),
        running=message.running,
        queued=message.queued,
        uptime_seconds=_seconds(message.uptime_seconds),
        sandbox=tuple(map(_sandbox_layer, message.sandbox)),
    )


def _check_size(message: Message) -> None:
    if message.ByteSize() > _LARGEST_ANSWER:
        raise ResponseInvalid(f"the server's answer cannot be used: it has more than {_LARGEST_ANSWER} bytes")


def _seconds(value: float) -> float:
    # NaN compares with nothing; and neither it nor infinity is a number of JSON.
    if not 0 <= value < math.inf:
        raise ValueInvalidError(f"a duration of {value} s")
    return value


def _sha256(digest: bytes) -> bytes:
    if len(digest) not in (0, _SHA256_BYTES):
        raise ValueInvalidError(f"a sha256 of {len(digest)} bytes")
    return digest


def _sandbox_layer(message: pb.SandboxLayer) -> server_info.SandboxLayer:
    unknown = server_info.SandboxLayerState.UNKNOWN
    state = enum_value(pb.SandboxLayerState.Name, message.state, "SANDBOX_LAYER_STATE_", unknown)
    return server_info.SandboxLayer(message.name, state, message.detail, message.required)


def enum_value(name_of: Callable[[_Number], str], number: _Number, prefix: str, unknown: _Enum) -> _Enum:
    """Return the domain's value of a wire enum's number; `unknown` for one that this client does not know."""
    try:
        return type(unknown)(name_of(number).removeprefix(prefix).lower())
    except ValueError:
        return unknown


def _input_spec(message: program_pb2.InputSpec) -> program.InputSpec:
    return program.InputSpec(
        kind=enum_value(program_pb2.InputKind.Name, message.kind, "INPUT_KIND_", program.InputKind.UNKNOWN),
        name=message.name,
        target=message.target,
        persistent=message.persistent if message.HasField("persistent") else None,
        constant=message.constant if message.HasField("constant") else None,
    )


def _output_spec(message: program_pb2.OutputSpec) -> program.OutputSpec:
    return program.OutputSpec(
        kind=enum_value(program_pb2.OutputKind.Name, message.kind, "OUTPUT_KIND_", program.OutputKind.UNKNOWN),
        name=message.name,
        target=message.target,
        constant=message.constant if message.HasField("constant") else None,
    )


def _symbol(message: program_pb2.Symbol) -> program.Symbol:
    return program.Symbol(
        name=message.name,
        lower=message.lower if message.HasField("lower") else None,
        upper=message.upper if message.HasField("upper") else None,
        hint=message.hint if message.HasField("hint") else None,
    )


def _pass_option(message: passes_pb2.PassOption) -> server_info.PassOption:
    return server_info.PassOption(
        name=message.name,
        summary=message.summary,
        type=enum_value(passes_pb2.OptionType.Name, message.type, "OPTION_TYPE_", server_info.OptionType.UNKNOWN),
        default=message.default_value if message.HasField("default_value") else None,
        choices=tuple(message.choices),
    )
