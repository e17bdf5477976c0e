"""The forked worker: from a copy of the zygote to a process that runs one job and ends."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import NoReturn

from retraced_server.program import ReadOptions, hold_map, hold_page_map
from retraced_server.worker.frames import receive_frame, send_frame
from retraced_server.worker.job import run_job
from retraced_server.worker.messages import JobEvent, StartJob, decode_job_request, encode_job_event
from retraced_server.worker.process import be_first_out_of_memory, die_with_parent
from retraced_server.worker.sandbox import Limits, Prepared, use_reserve


@dataclass(frozen=True)
class WorkerFds:
    """The descriptors that a worker is given: its end of the job's socket, the archive, and where its output lines go."""

    job: int
    archive: int
    log: int


def become_worker(start: StartJob, fds: WorkerFds, options: ReadOptions, zygote: int, sandbox: Prepared, slot: int) -> NoReturn:
    """Runs one job and ends the process. To be called right after the fork, in the child.

    Args:
        start: What it may use.
        fds: Its descriptors. Every other is closed.
        options: What programs may hold beyond the plain.
        zygote: The process that it was forked from.
        sandbox: What it is locked down with.
        slot: Its place among the workers that run.
    """
    status = 1
    try:
        _settle(fds, zygote)
        hold_map(fds.archive)
        limits = Limits(memory_bytes=start.memory_bytes, cpu_seconds=start.cpu_seconds)
        sandbox.lock_down(keep=(fds.job, fds.archive, hold_page_map()), slot=slot, limits=limits)
        _work(fds, options, start.memory_bytes, sandbox)
        status = 0
    except SystemExit as error:
        status = _status(error.code)
    except BaseException:  # noqa: BLE001 - this is the end of the process
        traceback.print_exc()
    finally:
        # Whatever a pass has made of the streams, from here no process goes back into the zygote's code.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _settle(fds: WorkerFds, zygote: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: what it starts is killed with it.
    os.setpgid(0, 0)
    die_with_parent()
    if os.getppid() != zygote:
        raise SystemExit(1)
    os.dup2(fds.log, 1)
    os.dup2(fds.log, 2)
    be_first_out_of_memory()
    # Python gives each forked process another seed; the same request is to have the same answer.
    random.seed(0)


def _work(fds: WorkerFds, options: ReadOptions, memory_bytes: int, sandbox: Prepared) -> None:
    with socket.socket(fileno=fds.job) as sock, os.fdopen(fds.archive, "rb") as archive:

        def emit(event: JobEvent) -> None:
            send_frame(sock, encode_job_event(event))

        # Where the front end is gone, it wants no answer any more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            request = receive_frame(sock)
            if request is not None:
                job = decode_job_request(request)
                run_job(
                    job,
                    archive,
                    emit,
                    options=options,
                    memory_bytes=memory_bytes,
                    on_memory_error=use_reserve,
                    violation_of=sandbox.violation_of,
                )


def _status(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
