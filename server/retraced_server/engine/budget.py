"""Memory over all jobs: how much of it there is, and how many jobs that lets run at a time.

Each job may take up to the memory of one worker, and nobody knows beforehand how much it will. So that is set aside for it from when it
is given its slot until its process is gone, and a job for which too little is left waits in the one queue, in the order of asking, as it
does for a processor. All jobs have the same limit, so the budget comes to a number of slots, and needs no accounts of its own.
"""

from __future__ import annotations

import os

from retraced_server.engine.cgroup import memory_limit
from retraced_server.errors import Reason, RetracedError

_GIB = 1 << 30
# For the front end and the zygote, and what the kernel keeps of archives.
_OF_THE_SERVER = _GIB
LEAST_WORKER_MEMORY = 64 << 20
"""Bytes that one worker has at the least: less holds no program worth a server, and is a slip of the unit, such as `8` for 8 GiB."""

_LEAST_OF_A_WORKER, _MOST_OF_A_WORKER = _GIB, 8 * _GIB


def memory_for_jobs() -> int:
    """Return what jobs may have together where nobody says: the memory of the machine, or of its control group, less the server's own."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    total = min(machine, memory_limit() or machine)
    return max(total - _OF_THE_SERVER, total // 2)


def memory_of_a_worker(memory: int, workers: int) -> int:
    """Return what one job may have where nobody says: an equal share, but enough for a real program, and never more than there is.

    Args:
        memory: What all may have together; 0 is no limit.
        workers: Jobs that run at a time, if memory allows.
    """
    if not memory:
        return _MOST_OF_A_WORKER
    return min(max(memory // workers, _LEAST_OF_A_WORKER), _MOST_OF_A_WORKER, memory)


def jobs_at_a_time(workers: int, memory: int, worker_memory: int) -> int:
    """How many jobs run at a time.

    Args:
        workers: The most.
        memory: What all may have together; 0 is no limit.
        worker_memory: What one may have; 0 is no limit, and then nothing is set aside.

    Raises:
        RetracedError: WORKERS_UNAVAILABLE: not even one ever fits.
    """
    if not memory or not worker_memory:
        return workers
    if worker_memory > memory:
        raise RetracedError(
            Reason.WORKERS_UNAVAILABLE,
            f"a worker may take {worker_memory} bytes, and all together {memory}: no job would ever fit; "
            "give less of --worker-memory, or more of --memory",
        )
    return min(workers, memory // worker_memory)
