"""Measures two ways of doing one thing, and says on what machine."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """The best times of stock torch and of retraced, in seconds, at one task on one program."""

    program: str
    nodes: int
    task: str
    stock: float
    retraced: float

    @property
    def ratio(self) -> float:
        """How many times faster retraced is."""
        return self.stock / self.retraced


def best_of(rounds: int, stock: Callable[[], object], retraced: Callable[[], object]) -> tuple[float, float]:
    """Runs both once to warm up, then by turns, and gives the best time of each in seconds.

    By turns, so that a machine that becomes slower or faster in between does so for both.
    """
    stock()
    retraced()
    times = [(_seconds(stock), _seconds(retraced)) for _ in range(rounds)]
    return min(first for first, _ in times), min(second for _, second in times)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "grpcio": version("grpcio"),
        "retraced": version("retraced"),
    }


def _seconds(task: Callable[[], object]) -> float:
    # The garbage of what was measured before is not this task's.
    gc.collect()
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
