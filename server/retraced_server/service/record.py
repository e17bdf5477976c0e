"""What is kept of a call while it is answered, for those who look at calls that have ended: metrics, the audit log, traces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from retraced_server.engine.base import JobReport
from retraced_server.pipeline.domain import JobStats, Period

STAGES = ("uploading", "queued", "reading", "running", "describing", "writing")
"""The stages of a request, in order: the upload, then those of `retraced.v1.Timings`."""


@dataclass
class CallRecord:
    """One call, filled in while it is answered. Times are those of `time.monotonic`, None until they come.

    Attributes:
        method: The method's name.
        peer: Where the call came from, as gRPC says it.
        code: The status that it ended with.
        reason: Why it failed, as its error says; empty where it has none.
        begun_at: When it came.
        ended_at: When it had ended.
        upload_at: When the upload could begin.
        uploaded_at: When the archive was there.
        pipeline: The pipeline in canonical form, or as it came where it was refused; empty where no spec came.
        archive_bytes: The size that was announced.
        archive_sha256: The digest of what was received, in hexadecimal; empty where that was not all.
        received_bytes: The sizes of the messages that came.
        sent_bytes: The sizes of the messages that went.
        job: How its job fared; None where it was not admitted.
    """

    method: str = ""
    peer: str = ""
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    reason: str = ""
    begun_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    upload_at: float | None = None
    uploaded_at: float | None = None
    pipeline: str = ""
    archive_bytes: int = 0
    archive_sha256: str = ""
    received_bytes: int = 0
    sent_bytes: int = 0
    job: JobReport | None = None

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended_at or time.monotonic()) - self.begun_at

    @property
    def stats(self) -> JobStats:
        """What its job took, as far as it is known."""
        return self.job.stats if self.job is not None and self.job.stats is not None else JobStats()

    def job_period(self) -> Period | None:
        """Return the time that it had a worker, from its begin on."""
        return None if self.job is None else self._between("job", self.job.started_at, self.job.ended_at)

    def stages(self) -> Iterator[Period]:
        """Its stages in order, each from the call's begin on; of one that was not finished, what there was of it."""
        yield from filter(None, [self._between("uploading", self.upload_at, self.uploaded_at)])
        if self.job is not None:
            yield from filter(None, [self._between("queued", self.job.queued_at, self.job.started_at)])
            yield from self._in_job(self.stats.stages)

    def passes(self) -> Iterator[Period]:
        """Return the passes that ended, each from the call's begin on."""
        return self._in_job(self.stats.passes)

    def _in_job(self, periods: tuple[Period, ...]) -> Iterator[Period]:
        if (job := self.job_period()) is not None:
            for period in periods:
                yield Period(period.name, job.start + period.start, period.seconds)

    def _between(self, name: str, start: float | None, end: float | None) -> Period | None:
        if start is None:
            return None
        end = end or self.ended_at or time.monotonic()
        return Period(name, start - self.begun_at, end - start)
