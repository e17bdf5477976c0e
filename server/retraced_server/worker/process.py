"""What a process asks of the kernel for itself: whom it dies with, whom it adopts, and who goes first."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retraced_server.worker import _libc

SPARE, AT_WORK = "retraced-spare", "retraced-worker"
"""The names of a worker that waits, and of one that has a job. Linux keeps 15 bytes."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends. A parent that is already gone is not noticed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parents end, so that it can reap them."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def dump_no_core() -> None:
    """Have no core file written of this process and its children: it would hold a caller's tensors."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Have the kernel end this process by SIGPROF where what is inside takes more processor time than `seconds`; 0 is no limit.

    Nothing that runs has to look at a clock, so that native code is ended too.
    """
    if not seconds:
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def be_first_out_of_memory() -> None:
    """Have the kernel choose this process first when the machine or the container runs out of memory."""
    # Some sandboxes have no such file; then the kernel chooses as it does.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def take_name(name: str) -> None:
    """Name this process, for `ps` and `top`."""
    _libc.prctl_text(_PR_SET_NAME, name)
