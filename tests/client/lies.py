"""What a lying server may answer: one lie each, for tests of clients and of the command, and to fuzz them with.

No lie may make a caller wait without end, fill a disk or memory, or meet an error that is none of `retraced.errors`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import node_metadata_pb2 as nodes_pb
from retraced.v1 import passes_pb2
from tests.client.fake_server import Behaviour, accepted, output_chunks, replies, summary

HOSTILE = "A\x1b]0;owned\x07\x1b[8mhidden\x9b8m\r\b\x00\u202e[/x][link=http://evil]\x7fZ"
"""A text that sets a terminal's title, hides what follows, rings, overwrites, reverses, and is no markup of rich."""

Response = pb.TransformGraphResponse


@dataclass(frozen=True)
class Lie:
    """A lie, and what a caller of `Client.transform` has to ask for to hear it.

    Attributes:
        behaviour: The server's.
        ask: Options of `transform`.
        refused: Whether a caller has to refuse it. Otherwise it may be taken, where it does no harm.
    """

    behaviour: Behaviour
    ask: Mapping[str, Any] = field(default_factory=dict)
    refused: bool = True


def filled(message: Message, number: float = 1.5) -> Any:
    """Fill every field of a message, of messages in it too: strings with `HOSTILE`, lists with one entry, other numbers and indices with 1.

    Args:
        message: It is changed, and returned. Of fields of which there is one at a time, such as the kinds of a value, it gets the first.
        number: What is no whole number is this.
    """
    for one in message.DESCRIPTOR.fields:
        if one.containing_oneof is not None and message.WhichOneof(one.containing_oneof.name) is not None:
            continue
        if one.type == FieldDescriptor.TYPE_MESSAGE:
            part = getattr(message, one.name)
            filled(part.add() if one.is_repeated else part, number)
            continue
        value = _filling(one, number)
        if one.is_repeated:
            getattr(message, one.name).append(value)
        else:
            setattr(message, one.name, value)
    return message


def _filling(one: Any, number: float) -> str | bytes | float | int:
    match one.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return b"" if one.type == FieldDescriptor.TYPE_BYTES else HOSTILE
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return number
        case _:
            return 1


def node(custom: str = "", **fields: Any) -> Response:
    """Metadata of one node, with a text in `custom`."""
    described = nodes_pb.NodeMetadata(**{"name": 1, "op": 1, "target": 1, "custom": 2 if custom else 0, **fields})
    return Response(node_metadata=nodes_pb.NodeMetadataBatch(strings=["n", custom], nodes=[described]))


def told(report: passes_pb2.PassReport | None = None, **fields: Any) -> Behaviour:
    """A server that tells of one pass, and sums up with some fields of its own."""
    last = summary(output=None, modified=False)
    last.summary.MergeFrom(pb.Summary(**fields))
    between = () if report is None else (Response(pass_finished=pb.PassFinished(report=report)),)
    return replies(accepted(), *between, last)


def endless(response: Callable[[], Response]) -> Behaviour:
    """A server that sends the same again until the caller has enough."""

    def transform(requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext) -> Iterator[Response]:
        one = response()
        yield accepted()
        while context.is_active():
            yield one

    return transform


def status(*details: Message, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, message: str = "no") -> Behaviour:
    """A server that ends the call with these details."""

    def transform(requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext) -> Iterator[Response]:
        yield accepted()
        packed = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed.details.add().Pack(detail)
        context.set_trailing_metadata((("grpc-status-details-bin", packed.SerializeToString()),))
        context.abort(code, message)

    return transform


def later(seconds: int, nanos: int = 0) -> Behaviour:
    """A server that is busy, and says when to come back."""
    delay = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))
    return status(error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="retraced.dev"), delay)


def error(reason: str, text: str = HOSTILE) -> Behaviour:
    """A server that fails with a hostile text wherever an error has one."""
    keys = ("pass", "graph", "node", "target", "source", "error_type", "error_line", "completed_pipeline", "remaining_pipeline")
    return status(
        error_details_pb2.ErrorInfo(
            reason=reason, domain="retraced.dev", metadata={text: text, "request_id": text, **dict.fromkeys(keys, text)}
        ),
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field=text, description=text)]
        ),
        error_details_pb2.DebugInfo(detail=text, stack_entries=[text]),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3600)),
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message=text,
    )


_NO_OUTPUT = {"want_output": False}
_NODES = {"want_output": False, "node_metadata": "all"}
_BATCH = nodes_pb.NodeMetadataBatch


def _nodes(*responses: Response, refused: bool = True) -> Lie:
    return Lie(replies(accepted(), *responses, summary(output=None, modified=False)), _NODES, refused)


LIES: Mapping[str, Lie] = {
    "an output that was not asked for": Lie(replies(*output_chunks(b"x"), summary(output=b"x")), _NO_OUTPUT),
    "an output when only validating": Lie(replies(*output_chunks(b"x"), summary(output=b"x")), {"validate_only": True}),
    "an empty output that was not asked for": Lie(replies(summary(output=b"")), _NO_OUTPUT),
    "node metadata that was not asked for": Lie(replies(node(), summary(output=None, modified=False))),
    "an output without end": Lie(endless(lambda: Response(output_chunk=bytes(1 << 20)))),
    "empty chunks without end": Lie(endless(lambda: Response(output_chunk=b""))),
    "an output longer than it says": Lie(replies(*output_chunks(bytes(9)), summary(output=bytes(8)))),
    "a sha256 that is none": Lie(told(output_sha256=bytes(100_000)), _NO_OUTPUT),
    "strings without end": Lie(endless(lambda: Response(node_metadata=_BATCH(strings=["x" * (1 << 20)]))), _NODES),
    "empty nodes without end": Lie(
        endless(lambda: Response(node_metadata=_BATCH(nodes=[nodes_pb.NodeMetadata()] * 10_000))), _NODES
    ),
    "remarks without end": Lie(
        endless(lambda: Response(pass_finished=pb.PassFinished(report=passes_pb2.PassReport(remarks=["x" * 1000] * 1000))))
    ),
    "progress without end": Lie(endless(lambda: Response(progress=pb.Progress(stage=pb.STAGE_RUNNING, done=1)))),
    "messages of no known kind without end": Lie(endless(Response)),
    "a long request id": Lie(replies(accepted("x" * 1_000_000), summary(output=None, modified=False))),
    "a request id that commands": Lie(replies(accepted(HOSTILE), summary(output=None, modified=False))),
    "no summary": Lie(replies(accepted())),
    "a message after the summary": Lie(replies(summary(output=None, modified=False), accepted())),
    "a pass that took NaN seconds": Lie(told(passes_pb2.PassReport(seconds=math.nan)), _NO_OUTPUT),
    "a pass that took forever": Lie(told(passes_pb2.PassReport(seconds=math.inf)), _NO_OUTPUT),
    "a queue of less than no time": Lie(told(timings=pb.Timings(queued=-1.0)), _NO_OUTPUT),
    "come back in 10,000 years": Lie(later(315_576_000_000)),
    "come back in more time than can be said": Lie(later(1 << 62)),
    "come back before now": Lie(later(-5, -(1 << 31))),
    "a string that is in no table": _nodes(node(name=1 << 31)),
    "an expression that is in no table": _nodes(node(value=nodes_pb.Value(sym_int=7))),
    "a tensor that is in no table": _nodes(node(value=nodes_pb.Value(tensor=7))),
    "a module stack that is in no table": _nodes(node(nn_module_stack=7)),
    "a source function stack that is in no table": _nodes(node(source_fn_stack=7)),
    "a tensor whose size is in no table": _nodes(
        Response(node_metadata=_BATCH(tensors=[nodes_pb.TensorDescription(shape=[nodes_pb.Dim(expression=9)])]))
    ),
    "a value of no kind": _nodes(node(value=nodes_pb.Value())),
    "an argument of no kind": _nodes(node(args=[nodes_pb.Argument()])),
    "metadata that is deep": _nodes(node("[" * 200_000 + "]" * 200_000), refused=False),
    "metadata that is nearly too deep": _nodes(*(node("[" * n + "]" * n) for n in range(100, 1_000, 7)), refused=False),
    "metadata with infinities": _nodes(node('{"a": 1e999, "b": [NaN, -Infinity]}'), refused=False),
    "metadata with a long number": _nodes(node("1" * 6_000), refused=False),
    "metadata that is no text": _nodes(node('"\\ud800"'), refused=False),
    "metadata that is no JSON": _nodes(node("{"), refused=False),
    "an argument that is NaN": _nodes(node(args=[nodes_pb.Argument(float_value=math.nan)]), refused=False),
    "text everywhere, numbers that are none": Lie(
        replies(accepted(), Response(summary=filled(pb.Summary(), math.nan))), _NO_OUTPUT
    ),
    **{f"an error {reason}": Lie(error(reason)) for reason in ("PASS_FAILED", "PIPELINE_SYNTAX", f"BAD{HOSTILE}")},
}
"""By what is told."""


def told_bytes(name: str) -> int:
    """How much a server may tell besides the output where a lie is tested: less of what it tells without end."""
    return 100_000 if name.endswith("without end") else 1 << 20
