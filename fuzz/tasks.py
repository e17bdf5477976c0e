"""What clients of a soak ask for, with the right answers, which are computed in this process beforehand."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc

from fuzz.answers import Answer
from fuzz.judge import OPTIONS
from fuzz.streams import frame
from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.passes import run_pipeline
from retraced_server.program import read_program, write_program

PROGRAMS: Final = ("input_and_id", "everything", "nested", "residual_net", "bert", "vit")
PIPELINES: Final = ("retrace", "cse,dce", "decompose,cse,dce", "decompose{table=core-aten}")
_CHUNK: Final = 256 << 10


@dataclass(frozen=True)
class Task:
    """A request, and what has to come of it.

    Attributes:
        name: What it is, for a report.
        frames: Its messages.
        digest: The sha256 of the archive that comes back; empty where none does.
        reason: The reason of the error that comes back; empty where none does.
    """

    name: str
    frames: tuple[bytes, ...]
    digest: str = ""
    reason: str = ""

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether an answer is the right one."""
        if self.reason:
            return answer.reason == self.reason
        if answer.code is not grpc.StatusCode.OK or answer.summary is None:
            return False
        return hashlib.sha256(answer.output).hexdigest() == self.digest


def good_tasks(archives: Mapping[str, bytes]) -> list[Task]:
    """Every program under every pipeline. A program that no pass modifies comes back as it was, byte for byte."""
    tasks = []
    for name, archive in archives.items():
        for pipeline in PIPELINES:
            output = _transformed(archive, pipeline)
            tasks.append(Task(f"{name}: {pipeline}", _frames(archive, pipeline), hashlib.sha256(output).hexdigest()))
    return tasks


def bad_tasks(archives: Mapping[str, bytes]) -> list[Task]:
    """Request that are at fault, each in another way."""
    archive = next(iter(archives.values()))
    spec, *chunks = _frames(archive, "retrace")
    return [
        Task("no program", _frames(b"x" * 10_000, "retrace"), reason="ARCHIVE_INVALID"),
        Task("half a program", _frames(archive[: len(archive) // 2], "retrace"), reason="ARCHIVE_INVALID"),
        Task(
            "damaged program", _frames(archive.replace(b"graph_module", b"graph_nodule"), "retrace"), reason="ARCHIVE_INVALID"
        ),
        Task("no such pass", _frames(archive, "dcee"), reason="PASS_UNKNOWN"),
        Task("no pipeline", _frames(archive, "cse,,dce"), reason="PIPELINE_SYNTAX"),
        Task("chunk before the spec", (*chunks, spec), reason="PROTOCOL_VIOLATION"),
        Task("two specs", (spec, spec, *chunks), reason="PROTOCOL_VIOLATION"),
        Task("too few bytes", (spec,), reason="ARCHIVE_MISMATCH"),
        Task("too many bytes", (spec, *chunks, *chunks), reason="ARCHIVE_MISMATCH"),
        Task("no protobuf", (b"\xff" * 20,), reason="PROTOCOL_VIOLATION"),
        Task("too large", (frame(pb.TransformSpec(pipeline="retrace", archive_size=1 << 62)),), reason="PROGRAM_TOO_LARGE"),
    ]


def _frames(archive: bytes, pipeline: str) -> tuple[bytes, ...]:
    options = pb.TransformOptions(node_metadata=pb.NODE_METADATA_SELECTION_ALL)
    spec = pb.TransformSpec(pipeline=pipeline, options=options, archive_size=len(archive))
    chunks = [archive[start : start + _CHUNK] for start in range(0, len(archive), _CHUNK)]
    return frame(spec), *(pb.TransformGraphRequest(archive_chunk=chunk).SerializeToString() for chunk in chunks)


def _transformed(archive: bytes, pipeline: str) -> bytes:
    with tempfile.TemporaryFile() as file:
        os.write(file.fileno(), archive)
        source = read_program(file, options=OPTIONS)
        result = run_pipeline(source.program, pipeline)
        if not result.modified:
            return archive
        output = io.BytesIO()
        write_program(result.program, output, source=source, records=source.carried())
        return output.getvalue()
