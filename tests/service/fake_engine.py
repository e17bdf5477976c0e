"""An engine whose jobs do what a test tells them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Self

from retraced.v1 import program_pb2
from retraced.v1.graph_transform_pb2 import Timings
from retraced_server.engine.base import EngineCounts, JobReport, Load, ProgramSource
from retraced_server.engine.spool import Spool
from retraced_server.errors import RetracedError
from retraced_server.pipeline.catalogue import IrLevel, OptionInfo, OptionType, PassInfo, WeightsNeed
from retraced_server.pipeline.domain import JobStats, TransformOptions, TransformRequest
from retraced_server.pipeline.parse import Pipeline
from retraced_server.worker import responses
from retraced_server.worker.messages import WorkerFacts
from retraced_server.worker.sandbox import Layer, SandboxReport, State

Job = Callable[[TransformRequest, Spool], AsyncIterator[bytes]]

FACTS = WorkerFacts(
    catalogue={
        info.name: info
        for info in (
            PassInfo("retrace", "Changes nothing."),
            PassInfo(
                "decompose",
                "Decomposes operators.",
                options=(OptionInfo("table", "Which.", OptionType.CHOICE, "core-aten", ("core-aten", "none")),),
                needs_weights=WeightsNeed.VALUES,
                ir_level=IrLevel.FUNCTIONAL,
            ),
        )
    },
    torch_version="2.13.0",
    python_version="3.11.9",
    schema_version=(8, 20),
    imports=(("my_ops", "1.2"),),
    sandbox=SandboxReport((Layer("landlock", State.MISSING, "the kernel has none"),)),
)


class FakeTicket:
    """A place in the fake engine. `ended` is set when the service gives it back."""

    def __init__(self, engine: FakeEngine, request_id: str) -> None:
        self.request_id = request_id
        self.report = JobReport()
        self.ended = asyncio.Event()
        self.request: TransformRequest | None = None
        self.archive = b""
        self.spool: Spool | None = None
        self._engine = engine

    @property
    def queue_position(self) -> int:
        return self._engine.queue_position

    async def run(self, pipeline: Pipeline, options: TransformOptions, source: ProgramSource) -> AsyncIterator[bytes]:
        self.spool = archive = await source.archive()
        self.request = request = TransformRequest(str(pipeline), archive.size, archive.sha256, options)
        self.archive = os.pread(archive.fileno(), archive.size, 0)
        self.report.queued_at = self.report.started_at = time.monotonic()
        self.report.stats = self._engine.stats
        async for response in self._engine.job(request, archive):
            yield response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.report.ended_at = time.monotonic()
        self._engine.running.discard(self)
        self.ended.set()


class FakeEngine:
    """Implements `Engine`. Tests set its attributes."""

    def __init__(self) -> None:
        self.job: Job = succeeds
        self.queue_position = 0
        self.refusal: RetracedError | None = None
        self.ready = True
        self.load = Load(running=1, queued=2)
        self.counts = EngineCounts(slots=2)
        self.stats: JobStats | None = None
        self.facts = FACTS
        self.tickets: list[FakeTicket] = []
        self.running: set[FakeTicket] = set()

    @property
    def obstacle(self) -> str:
        return "" if self.ready else "the fake engine is not ready"

    def worker_memory(self) -> int:
        return 7 << 20

    async def start(self) -> WorkerFacts:
        return self.facts

    def admit(self, request_id: str) -> FakeTicket:
        if self.refusal is not None:
            raise self.refusal
        ticket = FakeTicket(self, request_id)
        self.tickets.append(ticket)
        self.running.add(ticket)
        return ticket

    async def drain(self, grace: float) -> None:
        self.ready = False


async def succeeds(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
    """A job that sends one chunk and a summary."""
    yield responses.output_chunk(b"output")
    yield summary()


async def changes_nothing(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
    """A job whose output is what it was given, and is not sent."""
    program = program_pb2.ProgramInfo(node_count=4)
    yield responses.summary("retrace", program, program, Timings(), modified=False)


def summary() -> bytes:
    """The end of a job."""
    program = program_pb2.ProgramInfo(node_count=4)
    digest = hashlib.sha256(b"output").digest()
    return responses.summary(
        "retrace", program, program, Timings(), modified=True, output_size=len(b"output"), output_sha256=digest
    )


def fails(error: Exception) -> Job:
    """A job that raises."""

    async def job(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
        yield responses.progress(responses.Stage.READING, 0)
        raise error

    return job


async def waits(request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
    """A job that begins, and does not end by itself."""
    yield responses.pass_started(0, 1, "retrace", "retrace")
    await asyncio.Event().wait()
