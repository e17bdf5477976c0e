"""The forked worker: from a copy of the zygote to a process that runs one job and ends."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from retraced_server.program import ReadOptions
from retraced_server.worker.frames import close_fds, receive_frame, send_frame
from retraced_server.worker.job import run_job
from retraced_server.worker.messages import JobEvent, decode_job_request, encode_job_event
from retraced_server.worker.process import be_first_out_of_memory, die_with_parent, limit_memory, use_reserve


@dataclass(frozen=True)
class WorkerFds:
    """The descriptors that a worker is given: its end of the job's socket, the archive, and where its output lines go."""

    job: int
    archive: int
    log: int


def become_worker(fds: WorkerFds, options: ReadOptions, memory_bytes: int, zygote: int, zygote_fds: Sequence[int]) -> NoReturn:
    """Runs one job and ends the process. To be called right after the fork, in the child.

    Args:
        fds: Its descriptors.
        options: What programs may hold beyond the plain.
        memory_bytes: Its memory beyond what it shares; 0 for no limit.
        zygote: The process that it was forked from.
        zygote_fds: Descriptors of that process, which are closed.
    """
    status = 1
    try:
        _settle(fds, zygote, zygote_fds)
        if memory_bytes:
            # Weights are mapped copy-on-write, which counts whole as memory that the process could come to need.
            limit_memory(memory_bytes + os.fstat(fds.archive).st_size)
        _work(fds, options, memory_bytes)
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


def _settle(fds: WorkerFds, zygote: int, zygote_fds: Sequence[int]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: what it starts is killed with it.
    os.setpgid(0, 0)
    die_with_parent()
    if os.getppid() != zygote:
        raise SystemExit(1)
    close_fds(zygote_fds)
    os.dup2(fds.log, 1)
    os.dup2(fds.log, 2)
    os.close(fds.log)
    be_first_out_of_memory()
    # Python gives each forked process another seed; the same request is to have the same answer.
    random.seed(0)


def _work(fds: WorkerFds, options: ReadOptions, memory_bytes: int) -> None:
    with socket.socket(fileno=fds.job) as sock, os.fdopen(fds.archive, "rb") as archive:

        def emit(event: JobEvent) -> None:
            send_frame(sock, encode_job_event(event))

        # Where the front end is gone, it wants no answer any more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            request = receive_frame(sock)
            if request is not None:
                job = decode_job_request(request)
                run_job(job, archive, emit, options=options, memory_bytes=memory_bytes, on_memory_error=use_reserve)


def _status(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
