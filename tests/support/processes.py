"""Asks the system about processes, for tests that nothing is left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def children_of(pid: int | None = None) -> set[int]:
    """The processes that descend from one, this one by default."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True) if is_alive(child.pid)}


def open_fds() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until something holds, for what other processes do in their own time. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
