"""What a locked-down worker may use: memory, processor time, files, threads (getrlimit(2))."""

from __future__ import annotations

import resource
from dataclasses import dataclass

_PAGE_BYTES = resource.getpagesize()
_STATM_SIZE, _STATM_DATA = 0, 5
# What is left to a worker at its limit, so that it can still say that it ran out.
_RESERVE_BYTES = 16 << 20
# Address space for mapped files, whose pages are not the worker's. Bounded, since the kernel's tables for them are its own memory: 1/512.
_MAPPED_BYTES = 64 << 30
# The limit on memory does not count the main thread's stack.
_STACK_BYTES = 64 << 20
# Between the signal that can be caught and the one that cannot.
_CPU_GRACE_SECONDS = 1


@dataclass(frozen=True)
class ResourceLimits:
    """What one worker may use.

    Attributes:
        memory_bytes: Private memory beyond what it shares with the process that it was forked from, and what it has mapped already; 0 is
            no limit. Files that it maps copy on write later count whole, written to or not.
        cpu_seconds: Processor time, of all its threads together; 0 is no limit.
        file_bytes: Size of a file that it writes.
        open_files: Descriptors.
        threads: Threads, where the worker's user has no other processes; else they are bounded by memory only.
    """

    memory_bytes: int = 0
    cpu_seconds: int = 0
    file_bytes: int = 256 << 20
    open_files: int = 64
    threads: int = 64


def apply(limits: ResourceLimits, statm: bytes) -> None:
    """Bound this process, and the threads it starts. Not the number of threads: see `bound_threads`.

    Args:
        limits: The bounds.
        statm: How much memory it has now, as in /proc/self/statm.
    """
    if limits.memory_bytes:
        _bound_memory(statm, limits.memory_bytes)
    if limits.cpu_seconds:
        _lower(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + _CPU_GRACE_SECONDS)
    for kind, value in (
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(kind, value, value)


def bound_threads(limits: ResourceLimits) -> None:
    """Bound the threads of all processes of this user together, so to be called once the worker is a user of its own."""
    _lower(resource.RLIMIT_NPROC, limits.threads, limits.threads)


def use_reserve() -> None:
    """Let this process take the little memory that its limit kept back. To be called once an allocation has failed."""
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (hard, hard))


def _bound_memory(statm: bytes, additional: int) -> None:
    counts = statm.split()
    # What counts is private and writable, in use or not; shared anonymous memory does not, and is refused (see `syscalls`).
    data = int(counts[_STATM_DATA]) * _PAGE_BYTES + additional
    _lower(resource.RLIMIT_DATA, data, data + _RESERVE_BYTES)
    space = int(counts[_STATM_SIZE]) * _PAGE_BYTES + additional + _MAPPED_BYTES
    _lower(resource.RLIMIT_AS, space, space + _RESERVE_BYTES)


def _lower(kind: int, soft: int, hard: int) -> None:
    now_soft, now_hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (_least(soft, now_soft), _least(hard, now_hard)))


def _least(wanted: int, now: int) -> int:
    return wanted if now == resource.RLIM_INFINITY else min(wanted, now)
