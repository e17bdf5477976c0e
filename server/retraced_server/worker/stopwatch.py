"""What a job takes, noted while it runs, so that it is known of a job that fails too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from retraced.v1.graph_transform_pb2 import Timings
from retraced_server.pipeline.domain import JobStats, Period


class Stopwatch:
    """Notes the stages and passes of one job, from its begin on.

    Args:
        queued: Seconds that the request waited before.
    """

    def __init__(self, queued: float) -> None:
        self.output_size = 0
        self.output_sha256 = b""
        self._queued = queued
        self._begun = time.perf_counter()
        self._stages: list[Period] = []
        self._passes: list[Period] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note a stage, whichever way it ends. `name` is a field of `Timings`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages.append(Period(name, started - self._begun, time.perf_counter() - started))

    def pass_ended(self, name: str, seconds: float) -> None:
        """Note a pass that has just ended."""
        self._passes.append(Period(name, time.perf_counter() - self._begun - seconds, seconds))

    @property
    def timings(self) -> Timings:
        """The stages so far, for the caller."""
        timings = Timings(queued=self._queued)
        for period in self._stages:
            setattr(timings, period.name, getattr(timings, period.name) + period.seconds)
        return timings

    @property
    def stats(self) -> JobStats:
        """All of it so far, for the operator."""
        return JobStats(tuple(self._stages), tuple(self._passes), self.output_size, self.output_sha256)
