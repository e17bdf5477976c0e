"""What the end of a worker says to its caller."""

from __future__ import annotations

import signal

from retraced_server.errors import Failure, Reason
from retraced_server.worker.messages import WorkerEnded

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


def ending_failure(ended: WorkerEnded, *, out_of_memory: bool, read_seconds: float) -> Failure:
    """Return why a worker ended that gave no answer and that the server did not kill.

    Args:
        ended: How it ended.
        out_of_memory: The kernel has killed a process for lack of memory meanwhile.
        read_seconds: Processor time that it had for reading.
    """
    if ended.signal is not None:
        return _signalled(ended.signal, out_of_memory, read_seconds)
    if ended.exit_status is not None:
        return Failure(
            Reason.WORKER_EXITED,
            f"the worker exited with status {ended.exit_status} before it had answered; a pass may have ended it",
            metadata={"exit_status": str(ended.exit_status)},
        )
    return Failure(
        Reason.WORKERS_UNAVAILABLE, "no worker could be forked: the machine is short of memory or processes", retry_after=2.0
    )


def zygote_gone() -> Failure:
    """Return the failure of a worker that ended because the process that it was forked from did."""
    return Failure(
        Reason.WORKER_KILLED,
        "the process that workers are forked from ended, and the worker with it; the request can be repeated",
    )


def _signalled(number: int, out_of_memory: bool, read_seconds: float) -> Failure:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    metadata = {"signal": name}
    if number == signal.SIGKILL and out_of_memory:
        reason, message = Reason.WORKER_OUT_OF_MEMORY, "the kernel killed the worker for lack of memory"
    elif number == signal.SIGXCPU:
        reason = Reason.CPU_LIMIT_EXCEEDED
        message = "the job used more processor time than this server allows; several threads use it faster than time passes"
    elif number == signal.SIGPROF:
        reason, seconds = Reason.CPU_LIMIT_EXCEEDED, f"{read_seconds:g}"
        message = f"reading the program took more than the {seconds} seconds of processor time that this server allows (`serve --read-timeout`)"
        metadata = {"read_timeout_seconds": seconds, **metadata}
    elif number == signal.SIGSYS:
        reason = Reason.SANDBOX_OPERATION_DENIED
        message = "the sandbox ended the worker for a system call that workers may not make"
    elif number in _FROM_OUTSIDE:
        reason, message = Reason.WORKER_KILLED, f"the worker was killed from outside ({name}) before it had answered"
    else:
        reason, blamed = Reason.WORKER_CRASHED, "the pass that ran, or an operator that it called, is at fault"
        message = f"the worker crashed ({name}) before it had answered; {blamed}"
    return Failure(reason, message, metadata=metadata)
