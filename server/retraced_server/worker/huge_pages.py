"""Memory in huge pages: a fork copies its parent's page tables, in which a huge page has one entry and small ones have 512 (madvise(2))."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retraced_server.worker import _libc

_HUGE_PAGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25


def collapse_memory() -> None:
    """Move the private memory of this process into huge pages, as far as the kernel does that: none before Linux 6.1.

    Workers that are forked from it then start and end sooner. What they write to is copied to them in small pages all the same.
    """
    for begin, end in private_memory():
        begin, end = -(-begin // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES, end // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
        if begin < end:
            # Where it fails, the pages are as they were.
            _libc.madvise(begin, end, _MADV_COLLAPSE)


def private_memory() -> Iterator[tuple[int, int]]:
    """Yield the addresses of memory that can be written to and is no file's (proc_pid_maps(5)): where each begins and ends."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, mode, _, _, inode, *path = line.split(maxsplit=5)
        if mode == "rw-p" and inode == "0" and path != ["[stack]"]:
            begin, end = addresses.split("-")
            yield int(begin, 16), int(end, 16)
