"""What the service asks of an engine: admission, and a job's messages. Engines are `local` now, others later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from retraced_server.engine.spool import Spool
from retraced_server.pipeline.catalogue import Catalogue
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.worker.sandbox import SandboxReport


@dataclass(frozen=True)
class ImportedModule:
    """A module that the operator loaded into the workers. `version` is empty where it has none."""

    name: str
    version: str


@dataclass(frozen=True)
class WorkerFacts:
    """What the workers are, as the zygote said when it was ready."""

    catalogue: Catalogue
    torch_version: str
    python_version: str
    schema_version: tuple[int, int]
    imports: tuple[ImportedModule, ...]
    sandbox: SandboxReport


@dataclass(frozen=True)
class Load:
    """How busy an engine is: jobs that run, tickets that wait (uploading or queued)."""

    running: int
    queued: int


class Ticket(Protocol):
    """A place in the queue, taken before the upload. Leaving the context gives it back, and kills the job if it still runs."""

    @property
    def queue_position(self) -> int:
        """Requests before this one; 0 if a worker is free for it."""
        ...

    def run(self, request: TransformRequest, archive: Spool) -> AsyncIterator[bytes]:
        """Queues the job, and yields its serialized `TransformGraphResponse` messages as they are made.

        Yields STAGE_QUEUED progress while it waits. Ends after the summary.

        Raises:
            RetracedError: The job failed, or its worker did.
        """
        ...

    async def __aenter__(self) -> Ticket: ...

    async def __aexit__(self, *exc: object) -> None: ...


class Engine(Protocol):
    """Runs jobs."""

    async def start(self) -> WorkerFacts:
        """Starts it and waits until a job can run.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE, with what the zygote said.
        """
        ...

    @property
    def ready(self) -> bool:
        """Whether a job can run now: False before it has started, while what workers are forked from is replaced, and once it drains."""
        ...

    @property
    def facts(self) -> WorkerFacts:
        """What the workers are."""
        ...

    @property
    def load(self) -> Load:
        """How busy it is now."""
        ...

    def admit(self, request_id: str) -> Ticket:
        """Takes a place in the queue.

        Raises:
            RetracedError: QUEUE_FULL, SERVER_DRAINING or WORKERS_UNAVAILABLE.
        """
        ...

    async def drain(self, grace: float) -> None:
        """Admits nothing more, waits up to `grace` seconds for what runs, and ends the rest."""
        ...
