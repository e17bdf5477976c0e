"""What the service does, without gRPC: checks a request, takes it into the queue, says what the server is."""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path

from retraced_server.engine.base import Engine, Load, Ticket
from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.pipeline.parse import Pipeline, parse_pipeline
from retraced_server.service.readiness import spool_obstacle
from retraced_server.service.record import CallRecord
from retraced_server.service.upload import Read, Upload
from retraced_server.worker.messages import WorkerFacts

_SHA256_BYTES = 32
_START_SECONDS = 2.0


@dataclass(frozen=True)
class RequestLimits:
    """What the server allows.

    Attributes:
        max_archive_bytes: The largest archive.
        max_queued: Requests that may wait.
        workers: Requests that run at a time.
        job_timeout: Seconds of wall time of one job.
        memory_bytes: Memory that jobs may have together; 0 is no limit.
        worker_memory_bytes: Memory of one worker beyond what it shares with the others; 0 is no limit.
        upload_idle_timeout: Seconds that an upload may stand still, or take for each MiB.
        download_idle_timeout: Seconds that a caller may not read its answer.
    """

    max_archive_bytes: int
    max_queued: int
    workers: int
    job_timeout: float
    memory_bytes: int
    worker_memory_bytes: int
    upload_idle_timeout: float
    download_idle_timeout: float


@dataclass(frozen=True)
class ServerInfo:
    """What the server is. `uptime` is in seconds since it was ready."""

    version: str
    facts: WorkerFacts
    limits: RequestLimits
    load: Load
    uptime: float


class GraphTransforms:
    """The transforms of one engine.

    Args:
        engine: Where jobs run.
        limits: What is allowed.
        spool_dir: Where archives go that are too large for memory.
        spool_memory: Bytes up to which an archive is kept in memory.
    """

    def __init__(self, engine: Engine, limits: RequestLimits, spool_dir: Path, spool_memory: int) -> None:
        self.limits = limits
        self._engine = engine
        self._spool_dir = spool_dir
        self._spool_memory = spool_memory
        self._version = importlib.metadata.version("retraced")
        self._opened: float | None = None

    def open(self) -> None:
        """Request are taken from now on: the engine has started."""
        self._opened = time.monotonic()

    def obstacles(self) -> list[str]:
        """Why no request would be taken and answered now; none where one would. A queue that is full is none: it says when to come again."""
        if self._opened is None:
            return ["the server is starting: its workers are not there yet"]
        spool = spool_obstacle(self._spool_dir, self.limits.max_archive_bytes)
        return [obstacle for obstacle in (self._engine.obstacle, spool) if obstacle]

    @property
    def facts(self) -> WorkerFacts:
        """What the workers are.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE while the engine has yet to start.
        """
        self._require_open()
        return self._engine.facts

    def info(self) -> ServerInfo:
        """Return what the server is.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE while the engine has yet to start.
        """
        opened = self._require_open()
        return ServerInfo(self._version, self._engine.facts, self.limits, self._engine.load, time.monotonic() - opened)

    def check(self, request: TransformRequest, max_archive_bytes: int = 0) -> Pipeline:
        """Check what can be known before the archive is there.

        Args:
            request: What is asked for.
            max_archive_bytes: The largest archive of this caller; 0: the server's.

        Returns:
            The pipeline.

        Raises:
            RetracedError: The size, the digest or the pipeline cannot be right, or is not allowed.
        """
        if request.archive_size == 0:
            raise _at("archive_size", Reason.ARCHIVE_INVALID, "the archive is empty: it has 0 bytes")
        largest = max_archive_bytes or self.limits.max_archive_bytes
        if request.archive_size > largest:
            whose, takes = ("caller", "this caller may send") if max_archive_bytes else ("server", "this server takes")
            message = f"the archive has {request.archive_size} bytes; {takes} at most {largest}"
            raise _at("archive_size", Reason.PROGRAM_TOO_LARGE, message, limit=str(largest), limit_of=whose)
        if len(request.archive_sha256) not in (0, _SHA256_BYTES):
            message = f"a sha256 has {_SHA256_BYTES} bytes, not {len(request.archive_sha256)}"
            raise _at("archive_sha256", Reason.PROTOCOL_VIOLATION, message)
        return parse_pipeline(request.pipeline, self.facts.catalogue)

    def admit(self, request_id: str) -> Ticket:
        """Take a place in the queue.

        Raises:
            RetracedError: QUEUE_FULL, SERVER_DRAINING or WORKERS_UNAVAILABLE.
        """
        self._require_open()
        return self._engine.admit(request_id)

    def upload(self, request: TransformRequest, read: Read, record: CallRecord) -> Upload:
        """Return the archive of a call, which is yet to be received."""
        return Upload(request, read, record, self._spool_dir, self._spool_memory)

    def _require_open(self) -> float:
        if self._opened is None:
            raise RetracedError(
                Reason.WORKERS_UNAVAILABLE, "the server is starting: its workers are not there yet", retry_after=_START_SECONDS
            )
        return self._opened


def _at(field: str, reason: Reason, message: str, **metadata: str) -> RetracedError:
    return RetracedError(reason, message, metadata=metadata, violations=[FieldViolation(f"spec.{field}", message)])
