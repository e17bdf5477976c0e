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
# Sizes of what is allocated most, in bytes, and how many pieces at once.
_PIECE, _LARGEST_PIECE, _PIECES = 16, 1 << 10, 1000
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
    """Watch a server, from its front end's process id, for as long as the context lasts."""
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
    """Run a task, and return how far this process's memory rose above what it was before, in bytes.

    For processes that end soon: what they have free is taken first, since a task that used it again would seem to need less.
    """
    gc.collect()
    _take_free_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    task()
    return _status("VmHWM") - before


def _take_free_memory() -> None:
    """Allocate pieces of each size that Python and C++ ask for, until the process has to grow for more, and never free them."""
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    for allocate in (ctypes.pythonapi.PyObject_Malloc, library.malloc):
        allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
        for size in range(_PIECE, _LARGEST_PIECE, _PIECE):
            resident, grown = _status("VmRSS"), 0
            while grown < _PIECES * size // 2:
                for _ in range(_PIECES):
                    allocate(size)
                grown, resident = _status("VmRSS") - resident, _status("VmRSS")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
