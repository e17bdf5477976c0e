"""What a worker may use. Every excess is possible without the limit."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import ResourceLimits, ViolationKind, use_reserve
from tests.worker.sandbox import attempts
from tests.worker.sandbox.conftest import Needs
from tests.worker.sandbox.host import Host

_MEMORY = 256 << 20
_OF_MEMORY = ResourceLimits(memory_bytes=_MEMORY)


@pytest.mark.parametrize(
    ("allocate", "error"),
    [
        (attempts.allocate, "MemoryError"),
        (attempts.allocate_in_pieces, "MemoryError"),
        (attempts.allocate_in_torch, "RuntimeError"),
    ],
    ids=["at once", "in pieces", "in torch"],
)
def test_memory_past_the_limit_cannot_be_had(host: Host, allocate: Callable[[int], int], error: str) -> None:
    outcome = host.run(allocate, 2 * _MEMORY, limits=_OF_MEMORY)

    assert outcome.error.startswith(error)
    assert outcome.status == 0
    assert host.run(allocate, 2 * _MEMORY).error == ""
    assert host.run(allocate, _MEMORY // 2, limits=_OF_MEMORY).error == ""


def test_a_file_that_was_mapped_copy_on_write_before_comes_on_top(host: Host) -> None:
    assert host.run(allocate_beside, _MEMORY // 2, before=a_mapped_file, limits=_OF_MEMORY).error == ""
    assert host.run(allocate_beside, 2 * _MEMORY, before=a_mapped_file, limits=_OF_MEMORY).error.startswith("MemoryError")
    assert host.run(map_copy_on_write, before=a_large_file, limits=_OF_MEMORY).errno == errno.ENOMEM


def test_a_worker_without_memory_has_a_reserve_to_say_so(host: Host) -> None:
    assert host.run(allocate_after_running_out, 8 << 20, limits=_OF_MEMORY).value == 8 << 20


def test_processor_time_past_the_limit_ends_the_worker_with_a_signal_of_its_own(host: Host) -> None:
    assert host.run(attempts.compute, 1.2, limits=ResourceLimits(cpu_seconds=1)).status == -signal.SIGXCPU
    assert host.run(attempts.compute, 1.2).status == 0


def test_ignoring_that_signal_gains_a_second(host: Host) -> None:
    assert host.run(attempts.compute_and_ignore, 4.0, limits=ResourceLimits(cpu_seconds=1)).status == -signal.SIGKILL


def test_a_file_past_the_limit_is_not_written(host: Host, scratch: Path) -> None:
    limits = ResourceLimits(file_bytes=1 << 20)

    outcome = host.run(attempts.write_much, scratch / "file", 1 << 20, scratch=scratch, limits=limits)

    assert outcome.violation is ViolationKind.LIMIT
    assert (scratch / "file").stat().st_size == 1 << 20
    assert host.run(attempts.write_much, scratch / "other", 1 << 20, scratch=scratch).value == 1


def test_files_past_the_limit_are_not_opened(host: Host) -> None:
    readable = Path(os.__file__)
    assert host.run(attempts.open_many, readable, 20).value == 20

    outcome = host.run(attempts.open_many, readable, 20, limits=ResourceLimits(open_files=16))

    assert outcome.violation is ViolationKind.LIMIT


def test_a_worker_starts_threads_up_to_the_limit(host: Host, needs: Needs) -> None:
    assert host.run(attempts.start_threads, 3).value == 3
    needs("user")

    outcome = host.run(attempts.start_threads, 30, limits=ResourceLimits(threads=10))

    assert outcome.violation is ViolationKind.LIMIT
    assert host.run(attempts.start_threads, 30).value == 30


def allocate_after_running_out(count: int) -> int:
    held = []
    try:
        while True:
            held.append(bytearray(1 << 20))
    except MemoryError:
        use_reserve()
        return len(bytearray(count))


def a_large_file() -> attempts.Opened:
    file = attempts.Opened(os.memfd_create("large"))
    os.truncate(file.fd, 2 * _MEMORY)
    return file


def a_mapped_file() -> mmap.mmap:
    return mmap.mmap(a_large_file().fd, 0, access=mmap.ACCESS_COPY)


def allocate_beside(_: mmap.mmap, count: int) -> int:
    return attempts.allocate(count)


def map_copy_on_write(file: attempts.Opened) -> int:
    with mmap.mmap(file.fd, 0, access=mmap.ACCESS_COPY) as mapped:
        return len(mapped)
