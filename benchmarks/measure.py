"""Measures ways of doing one thing by turns, and says on what machine."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Task = Callable[[], object]

_FEWEST_RUNS = 2
_ENOUGH_SECONDS = 20.0
_PACKAGES = ("torch", "executorch", "grpcio", "retraced")


def best_of(rounds: int, *tasks: Task) -> list[float]:
    """Run all tasks by turns, in one round more than is asked for, since the first finds things cold, and return the best time of each.

    By turns, so that a machine that becomes slower or faster in between does so for all. Long tasks are run in fewer rounds, twice at least.

    Returns:
        A time in seconds for each task.
    """
    start = time.perf_counter()
    times: list[list[float]] = []
    while len(times) <= rounds and (len(times) < _FEWEST_RUNS or time.perf_counter() - start < _ENOUGH_SECONDS):
        times.append([seconds(task) for task in tasks])
    return [min(of_one) for of_one in zip(*times, strict=True)]


def seconds(task: Task, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a task takes: by `time.process_time`, what it takes of the processor, whatever else the machine does."""
    # The garbage of what was measured before is not this task's.
    gc.collect()
    start = clock()
    task()
    return clock() - start


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    facts = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
