"""What a caller receives, as serialized `TransformGraphResponse` messages. Imports neither torch nor grpc."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from retraced.v1 import graph_transform_pb2, node_metadata_pb2, passes_pb2, program_pb2
from retraced_server.pipeline.domain import PassReport
from retraced_server.worker.texts import bounded

# Of remarks and of guards in one message.
_MOST_TEXTS = 32


class Stage(Enum):
    """What is being done with a request. The values are the names of `retraced.v1.Stage` without their prefix."""

    QUEUED = "QUEUED"
    READING = "READING"
    RUNNING = "RUNNING"
    WRITING = "WRITING"


def progress(stage: Stage, done: int, total: int = 0) -> bytes:
    """Return the message of how far the work is, in the stage's unit; a `total` of 0 is not known."""
    message = graph_transform_pb2.Progress(
        stage=graph_transform_pb2.Stage.Value(f"STAGE_{stage.value}"), done=done, total=total
    )
    return graph_transform_pb2.TransformGraphResponse(progress=message).SerializeToString()


def pass_started(index: int, count: int, name: str, text: str) -> bytes:
    """Return the message that a pass begins."""
    message = graph_transform_pb2.PassStarted(index=index, count=count, name=name, text=text)
    return graph_transform_pb2.TransformGraphResponse(pass_started=message).SerializeToString()


def pass_finished(index: int, report: PassReport) -> bytes:
    """Return the message of what a pass did."""
    encoded = passes_pb2.PassReport(
        name=report.name,
        text=report.text,
        modified=report.modified,
        rewrites=report.rewrites,
        seconds=report.seconds,
        nodes_before=report.nodes_before,
        nodes_after=report.nodes_after,
        remarks=_texts(report.remarks),
        new_guards=_texts(report.new_guards),
    )
    message = graph_transform_pb2.PassFinished(index=index, report=encoded)
    return graph_transform_pb2.TransformGraphResponse(pass_finished=message).SerializeToString()


def node_metadata(batch: node_metadata_pb2.NodeMetadataBatch) -> bytes:
    """Carry metadata of nodes."""
    return graph_transform_pb2.TransformGraphResponse(node_metadata=batch).SerializeToString()


def output_chunk(data: bytes) -> bytes:
    """Carry the next bytes of the output archive."""
    return graph_transform_pb2.TransformGraphResponse(output_chunk=data).SerializeToString()


def summary(
    pipeline: str,
    given: program_pb2.ProgramInfo,
    made: program_pb2.ProgramInfo | None,
    timings: graph_transform_pb2.Timings,
    *,
    modified: bool,
    output_size: int = 0,
    output_sha256: bytes = b"",
    remarks: Sequence[str] = (),
) -> bytes:
    """Return the message of what came out; `made` is None when only validating."""
    message = graph_transform_pb2.Summary(
        modified=modified,
        input=given,
        output=made,
        output_size=output_size,
        output_sha256=output_sha256,
        pipeline=pipeline,
        timings=timings,
        remarks=_texts(remarks),
    )
    return graph_transform_pb2.TransformGraphResponse(summary=message).SerializeToString()


def _texts(texts: Sequence[object]) -> list[str]:
    # Passes are free in what they remark.
    sent = [bounded(str(text)) for text in texts[:_MOST_TEXTS]]
    return sent if len(texts) <= _MOST_TEXTS else [*sent, f"and {len(texts) - _MOST_TEXTS} more"]
