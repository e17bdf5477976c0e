"""Messages of `retraced.v1` to domain objects and back. The only module of the service that touches generated messages of its own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from google.protobuf.message import DecodeError

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import program_pb2
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.pipeline.catalogue import Catalogue
from retraced_server.pipeline.domain import NodeSelection, OutputDelivery, RetraceMode, TransformOptions, TransformRequest
from retraced_server.service.instance import ServerInfo
from retraced_server.worker.messages import encode_pass, encode_sandbox

SERVICE = pb.DESCRIPTOR.services_by_name["GraphTransformService"].full_name
"""The service's full name."""

DESCRIPTION = "the stream is one `spec`, then the archive in `archive_chunk`s, then the half-close"
"""What a request stream is, for messages."""

Request = TransformRequest | bytes
"""A message of the request stream: a spec, or the bytes of a chunk."""

_E = TypeVar("_E", bound=Enum)

_NODE_METADATA: Mapping[int, NodeSelection] = {
    pb.NODE_METADATA_SELECTION_UNSPECIFIED: NodeSelection.NONE,
    pb.NODE_METADATA_SELECTION_NONE: NodeSelection.NONE,
    pb.NODE_METADATA_SELECTION_CHANGED: NodeSelection.CHANGED,
    pb.NODE_METADATA_SELECTION_ALL: NodeSelection.ALL,
}
_MODE: Mapping[int, RetraceMode] = {
    pb.RETRACE_MODE_UNSPECIFIED: RetraceMode.INCREMENTAL,
    pb.RETRACE_MODE_INCREMENTAL: RetraceMode.INCREMENTAL,
    pb.RETRACE_MODE_FULL: RetraceMode.FULL,
}
_OUTPUT: Mapping[int, OutputDelivery] = {
    pb.OUTPUT_DELIVERY_UNSPECIFIED: OutputDelivery.ALWAYS,
    pb.OUTPUT_DELIVERY_ALWAYS: OutputDelivery.ALWAYS,
    pb.OUTPUT_DELIVERY_IF_MODIFIED: OutputDelivery.IF_MODIFIED,
    pb.OUTPUT_DELIVERY_NEVER: OutputDelivery.NEVER,
}


def violation(field: str, message: str) -> RetracedError:
    """Return the error of a request stream that breaks the protocol, at a field."""
    return RetracedError(Reason.PROTOCOL_VIOLATION, message, violations=[FieldViolation(field, message)])


def read_request(data: bytes) -> Request:
    """Read a message of the request stream: a spec, or the bytes of a chunk.

    Raises:
        RetracedError: PROTOCOL_VIOLATION.
    """
    message = pb.TransformGraphRequest()
    _parse(message, data)
    match message.WhichOneof("message"):
        case "spec":
            return _read_spec(message.spec)
        case "archive_chunk":
            return message.archive_chunk
        case None:
            raise violation("message", f"a message has neither a spec nor a chunk; {DESCRIPTION}")


def _read_spec(spec: pb.TransformSpec) -> TransformRequest:
    options = spec.options
    return TransformRequest(
        pipeline=spec.pipeline,
        archive_size=spec.archive_size,
        archive_sha256=spec.archive_sha256,
        options=TransformOptions(
            node_metadata=_read_choice("node_metadata", options.node_metadata, _NODE_METADATA),
            validate_only=options.validate_only,
            mode=_read_choice("mode", options.mode, _MODE),
            refuse_new_guards=options.refuse_new_guards,
            output=_read_choice("output", options.output, _OUTPUT),
        ),
    )


def _read_choice(field: str, number: int, choices: Mapping[int, _E]) -> _E:
    if number not in choices:
        names = ", ".join(dict.fromkeys(choice.value for choice in choices.values()))
        raise violation(f"spec.options.{field}", f"this server does not know value {number} of `{field}`; it knows {names}")
    return choices[number]


def accepted(request_id: str, queue_position: int) -> bytes:
    """Return the message that a request was taken."""
    message = pb.Accepted(request_id=request_id, queue_position=queue_position)
    return pb.TransformGraphResponse(accepted=message).SerializeToString()


def read_list_passes(data: bytes) -> None:
    """Read the request for the passes, which asks for nothing in particular.

    Raises:
        RetracedError: PROTOCOL_VIOLATION.
    """
    _parse(pb.ListPassesRequest(), data)


def passes(catalogue: Catalogue) -> bytes:
    """List passes, by name."""
    ordered = [encode_pass(catalogue[name]) for name in sorted(catalogue)]
    return pb.ListPassesResponse(passes=ordered).SerializeToString()


def read_get_server_info(data: bytes) -> None:
    """Read the request for what the server is.

    Raises:
        RetracedError: PROTOCOL_VIOLATION.
    """
    _parse(pb.GetServerInfoRequest(), data)


def server_info(info: ServerInfo) -> bytes:
    """Return the message of what the server is."""
    major, minor = info.facts.schema_version
    limits = info.limits
    return pb.GetServerInfoResponse(
        version=info.version,
        torch_version=info.facts.torch_version,
        python_version=info.facts.python_version,
        schema_version=program_pb2.SchemaVersion(major=major, minor=minor),
        imports=[pb.ImportedModule(name=name, version=version) for name, version in info.facts.imports],
        limits=pb.Limits(
            max_archive_bytes=limits.max_archive_bytes,
            max_queued=limits.max_queued,
            workers=limits.workers,
            job_timeout_seconds=limits.job_timeout,
            worker_memory_bytes=limits.worker_memory_bytes,
            memory_bytes=limits.memory_bytes,
        ),
        running=info.load.running,
        queued=info.load.queued,
        uptime_seconds=info.uptime,
        sandbox=encode_sandbox(info.facts.sandbox),
    ).SerializeToString()


def _parse(message: pb.TransformGraphRequest | pb.ListPassesRequest | pb.GetServerInfoRequest, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        name = message.DESCRIPTOR.full_name
        raise violation("message", f"{len(data)} bytes are no {name}: is the caller of another version?") from error
