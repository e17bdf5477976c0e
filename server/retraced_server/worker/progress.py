"""Tells how far a job is, not more often than somebody would look: each message costs three processes a little."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from retraced_server.worker import responses
from retraced_server.worker.responses import Stage

INTERVAL: Final = 0.1
"""Seconds between two messages about one stage, at least."""


class JobProgress:
    """The progress of one job.

    Args:
        emit: Takes each response, encoded.
        clock: Tells seconds.
    """

    def __init__(self, emit: Callable[[bytes], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._clock = clock
        self._told = clock()

    def begin(self, stage: Stage, total: int) -> None:
        """Tell that a stage begins, which is always told."""
        self._tell(stage, 0, total)

    def restart(self) -> None:
        """Hear that a stage or pass begins, which something else has told."""
        self._told = self._clock()

    def reach(self, stage: Stage, done: int, total: int) -> None:
        """So much of a stage is done."""
        if self._clock() - self._told >= INTERVAL:
            self._tell(stage, done, total)

    def _tell(self, stage: Stage, done: int, total: int) -> None:
        self.restart()
        self._emit(responses.progress(stage, done, total))
