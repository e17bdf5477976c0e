"""Kills a server's workers and its zygote at random, and knows afterwards which requests that may have cost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

import psutil

from tests.e2e.processes import Observed

_RESTART: Final = 60.0
"""Seconds after the zygote's death in which there may be no workers: importing torch takes a few, on a busy machine many."""


class Chaos:
    """Kills processes of one server, by how many requests were begun, in a thread of its own.

    Args:
        observed: The server's processes.
        chance: Decides when, and which.
        begun: Says how many requests were begun so far.
        between_workers: Requests between two kills of workers, on average.
        between_zygotes: Requests between two kills of the zygote, on average.
    """

    def __init__(
        self, observed: Observed, chance: random.Random, begun: Callable[[], int], *, between_workers: int, between_zygotes: int
    ) -> None:
        self.workers_killed = 0
        self.zygotes_killed = 0
        self._observed = observed
        self._chance = chance
        self._begun = begun
        self._between = between_workers, between_zygotes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos")
        self._times: list[tuple[float, bool]] = []

    def start(self) -> None:
        """Begins to kill."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def explains(self, reason: str, start: float, end: float) -> bool:
        """Whether an error of a request that ran from one time to another is of a process that was killed then."""
        if reason == "WORKER_KILLED":
            return any(start <= time <= end for time, _ in self._times)
        if reason == "WORKERS_UNAVAILABLE":
            return any(time <= end and start <= time + _RESTART for time, of_zygote in self._times if of_zygote)
        return False

    def _run(self) -> None:
        next_worker, next_zygote = (self._after(0, between) for between in self._between)
        while not self._stop.wait(0.01):
            begun = self._begun()
            if begun >= next_worker and self._kill_worker():
                next_worker = self._after(begun, self._between[0])
            if begun >= next_zygote and self._kill_zygote():
                next_zygote = self._after(begun, self._between[1])

    def _after(self, begun: int, between: int) -> int:
        return begun + max(1, round(between * self._chance.uniform(0.5, 1.5)))

    def _kill_worker(self) -> bool:
        try:
            if not self._observed.workers():
                return False
            # Anywhere in its work, not at its start. Most jobs are short: so are most waits.
            self._stop.wait(0.3 * self._chance.random() ** 3)
            workers = self._observed.workers()
            if not workers:
                return False
            self._kill(self._chance.choice(workers), of_zygote=False)
        # It has ended by itself, or the zygote is being replaced.
        except (psutil.NoSuchProcess, ValueError):
            return False
        self.workers_killed += 1
        return True

    def _kill_zygote(self) -> bool:
        try:
            self._kill(self._observed.zygote, of_zygote=True)
        except (psutil.NoSuchProcess, ValueError):
            return False
        self.zygotes_killed += 1
        return True

    def _kill(self, process: psutil.Process, *, of_zygote: bool) -> None:
        # Before the deed: its consequence may be seen at once.
        self._times.append((time.monotonic(), of_zygote))
        try:
            process.kill()
        except psutil.NoSuchProcess:
            self._times.pop()
            raise
