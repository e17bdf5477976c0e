"""Runs jobs in this process, and decodes what they send."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import RetracedError
from retraced_server.pipeline.domain import JobStats, TransformRequest
from retraced_server.worker.job import run_job
from retraced_server.worker.messages import JobDone, JobEvent, JobRequest


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


def run(archive: bytes, pipeline: str, memory_bytes: int = 0, **options: Any) -> Ran:  # Any: fields of TransformRequest.
    ran = Ran()
    with archive_file(archive) as file:
        size = os.fstat(file.fileno()).st_size
        request = JobRequest("id", TransformRequest(pipeline, size, **options), 0.25)
        run_job(request, file, ran.events.append, memory_bytes=memory_bytes)
    return ran
