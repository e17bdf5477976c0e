"""What the service asks of an engine: admission, and a job's messages. Engines are `local` now, others later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from retraced_server.engine.spool import Spool
from retraced_server.pipeline.domain import JobStats, TransformOptions
from retraced_server.pipeline.parse import Pipeline
from retraced_server.worker.messages import WorkerFacts


@dataclass(frozen=True)
class Load:
    """How busy an engine is: jobs that run, tickets that wait (uploading or queued)."""

    running: int
    queued: int


@dataclass(frozen=True)
class EngineCounts:
    """What an engine has done since it began, and what it can do.

    Attributes:
        slots: Jobs that may run at a time; known before it is started.
        forks: Workers that were given a job.
        kills: Workers that ended before they had answered, by cause: a reason of `errors.Reason`, or CALLER_GONE.
        restarts: How often what runs the jobs had ended and was replaced.
        templates: Templates of decompositions that jobs share now.
    """

    slots: int
    forks: int = 0
    kills: Mapping[str, int] = field(default_factory=dict)
    restarts: int = 0
    templates: int = 0


@dataclass
class JobReport:
    """How a request fared in an engine, filled in while it does. Times are those of `time.monotonic`, None until they come.

    Attributes:
        queued_at: When it got in line for a worker.
        started_at: When its worker was there.
        ended_at: When its worker had answered, or was given up.
        stats: What the job took, where the worker lived to say so.
    """

    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    stats: JobStats | None = None


class ProgramSource(Protocol):
    """Where the program of a request comes from, which need not be here when its job is given to an engine."""

    async def archive(self) -> Spool:
        """Ask for the whole archive, and return it once it is here. It stays open for as long as the ticket is held.

        Raises:
            RetracedError: It does not come, or is not the one that was announced.
        """
        ...


class Ticket(Protocol):
    """A place in the queue, taken before the upload. Leaving the context gives it back, and kills the job if it still runs."""

    @property
    def queue_position(self) -> int:
        """Requests before this one; 0 if a worker is free for it."""
        ...

    @property
    def report(self) -> JobReport:
        """How it fares; the same object from admission on."""
        ...

    def run(self, pipeline: Pipeline, options: TransformOptions, source: ProgramSource) -> AsyncIterator[bytes]:
        """Queue the job, and yield its serialized `TransformGraphResponse` messages as they are made.

        Asks the source first, and then yields STAGE_QUEUED progress while it waits. Ends after the summary.

        Raises:
            RetracedError: The program did not come, the job failed, or its worker did.
        """
        ...

    async def __aenter__(self) -> Ticket: ...

    async def __aexit__(self, *exc: object) -> None: ...


class Engine(Protocol):
    """Runs jobs."""

    async def start(self) -> WorkerFacts:
        """Start it and wait until a job can run.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE, and why.
        """
        ...

    @property
    def obstacle(self) -> str:
        """Why no job can run now: it has not started, what workers are forked from is replaced, or it drains. Empty where one can."""
        ...

    @property
    def facts(self) -> WorkerFacts:
        """What the workers are."""
        ...

    @property
    def load(self) -> Load:
        """How busy it is now."""
        ...

    @property
    def counts(self) -> EngineCounts:
        """What it has done so far."""
        ...

    def worker_memory(self) -> int:
        """Memory of all workers that run now, in bytes, without what they share. May be called from any thread."""
        ...

    def admit(self, request_id: str) -> Ticket:
        """Take a place in the queue.

        Raises:
            RetracedError: QUEUE_FULL, SERVER_DRAINING or WORKERS_UNAVAILABLE.
        """
        ...

    async def drain(self, grace: float) -> None:
        """Admit nothing more, wait up to `grace` seconds for what runs, and end the rest."""
        ...
