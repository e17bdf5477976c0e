"""The pages that every job writes to, if only to count references: found out once, and copied ahead in each worker.

A forked process shares the pages of its parent until it writes to one, and then waits for a copy of it: some thousand times in a job.
"""

from __future__ import annotations

import array
import contextlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from retraced_server.worker import _libc
from retraced_server.worker.huge_pages import private_memory
from retraced_server.worker.sandbox.children import in_child

_MADV_POPULATE_WRITE = 23
_ENTRY_BYTES = 8
# Of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst): the page is in memory, and no other process has it.
_COPIED = 1 << 63 | 1 << 56


class WrittenPages:
    """The pages of this process that some work writes to, but for data of libraries; none where the kernel does not tell.

    The work is done in a forked process, for which this one must have one thread.

    Args:
        work: Does what a job does.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        memory = tuple(private_memory())

        def tried() -> str:
            work()
            return " ".join(f"{begin} {end}" for begin, end in _joined(_copied(memory)))

        numbers = map(int, in_child(tried, name="the warm-up in a worker").split())
        # As addresses: where each run of them begins and ends.
        self._runs = tuple(zip(numbers, numbers, strict=True))

    @property
    def count(self) -> int:
        """How many they are."""
        return sum(end - begin for begin, end in self._runs) // mmap.PAGESIZE

    def copy(self) -> None:
        """Give this process, a fork of the one that found them out, its own copies, as far as the kernel does that: none before Linux 5.14."""
        for begin, end in self._runs:
            _libc.madvise(begin, end, _MADV_POPULATE_WRITE)


def _copied(memory: tuple[tuple[int, int], ...]) -> Iterator[int]:
    """Yield the addresses of pages that this process shares with no other any more."""
    # Some sandboxes have no such file, and no job needs this.
    with contextlib.suppress(OSError), Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        for begin, end in memory:
            entries = array.array("Q")
            pages.seek(begin // mmap.PAGESIZE * _ENTRY_BYTES)
            entries.frombytes(pages.read((end - begin) // mmap.PAGESIZE * _ENTRY_BYTES))
            for index, entry in enumerate(entries):
                if entry & _COPIED == _COPIED:
                    yield begin + index * mmap.PAGESIZE


def _joined(pages: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Run of pages that follow one another, from ascending addresses."""
    begin = end = 0
    for page in pages:
        if page != end:
            if begin < end:
                yield begin, end
            begin = page
        end = page + mmap.PAGESIZE
    if begin < end:
        yield begin, end
