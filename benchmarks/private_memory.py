"""The private memory of processes: of a server's front end and of its workers while they run, and of what this process does."""

from __future__ import annotations

import ctypes
import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERVAL = 0.01
_ZYGOTE = "retraced_server.worker.zygote"


def private_bytes(pid: int) -> int:
    """Memory of a process that no other shares and that is no file's: what it has written to."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) << 10 for found in re.findall(r"^(?:Private_Dirty|Swap): +(\d+) kB", text, re.MULTILINE))


@dataclass
class Peaks:
    """The highest private memory seen, in bytes."""

    front_end: int = 0
    worker: int = 0


@contextmanager
def watched(pid: int) -> Iterator[Peaks]:
    """Watches a server, from its front end's process id, for as long as the context lasts."""
    peaks, done = Peaks(), threading.Event()
    zygote = next(child for child in psutil.Process(pid).children() if _ZYGOTE in child.cmdline())

    def watch() -> None:
        while True:
            peaks.front_end = max(peaks.front_end, private_bytes(pid))
            for worker in zygote.children():
                try:
                    peaks.worker = max(peaks.worker, private_bytes(worker.pid))
                except (FileNotFoundError, ProcessLookupError):
                    continue
            if done.wait(_INTERVAL):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def peak_beyond(task: Callable[[], object]) -> int:
    """Runs a task, and gives how far this process's memory rose above what it was before, in bytes."""
    gc.collect()
    # What was freed before would be used again, and not be seen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    task()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
