"""Runs jobs in this process, and decodes what they send."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import RetracedError
from retraced_server.passes import catalogue
from retraced_server.pipeline.domain import JobStats, TransformOptions
from retraced_server.pipeline.parse import Pipeline, parse_pipeline
from retraced_server.worker.job import run_job
from retraced_server.worker.job_messages import JobDone, JobEvent, JobRequest
from retraced_server.worker.source import ArchiveFile


@dataclass
class Ran:
    """What a job sent."""

    events: list[JobEvent] = field(default_factory=list)

    @property
    def responses(self) -> list[pb.TransformGraphResponse]:
        return [pb.TransformGraphResponse.FromString(event) for event in self.events if isinstance(event, bytes)]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the responses in order, each run of equal ones once."""
        kinds = [str(response.WhichOneof("message")) for response in self.responses]
        return [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind]

    @property
    def output(self) -> bytes:
        return b"".join(response.output_chunk for response in self.responses)

    @property
    def summary(self) -> pb.Summary:
        assert isinstance(self.events[-1], JobDone), self.events[-1]
        assert self.kinds[-1] == "summary"
        return self.responses[-1].summary

    @property
    def nodes(self) -> int:
        return sum(len(response.node_metadata.nodes) for response in self.responses)

    @property
    def stats(self) -> JobStats:
        """What it said that it took, right before its end."""
        stats = self.events[-2]
        assert isinstance(stats, JobStats)
        return stats

    @property
    def error(self) -> RetracedError:
        error = self.events[-1]
        assert isinstance(error, RetracedError)
        return error


@contextmanager
def archive_file(archive: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        yield file


def job_request(pipeline: str | Pipeline, **options: Any) -> JobRequest:  # Any: fields of TransformOptions.
    parsed = pipeline if isinstance(pipeline, Pipeline) else parse_pipeline(pipeline, catalogue())
    return JobRequest("id", parsed, TransformOptions(**options), queued_seconds=0.25)


def run(
    archive: bytes,
    pipeline: str | Pipeline,
    memory_bytes: int = 0,
    archive_sha256: bytes = b"",
    **options: Any,  # Any: fields of TransformOptions.
) -> Ran:
    ran = Ran()
    with archive_file(archive) as file:
        source = ArchiveFile(file, archive_sha256)
        run_job(job_request(pipeline, **options), source, ran.events.append, memory_bytes=memory_bytes)
    return ran
