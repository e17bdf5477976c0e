"""The forked worker: from a copy of the zygote to a process that runs one job and ends."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import NoReturn

from retraced_server.passes import catalogue
from retraced_server.passes.decompose.make_template import make_template
from retraced_server.passes.decompose.shared_templates import SHARED
from retraced_server.program import hold_map, hold_page_map
from retraced_server.worker.frames import receive_frame, receive_frame_with_fds, send_frame
from retraced_server.worker.job import run_job
from retraced_server.worker.job_messages import JobDone, JobEvent, TemplateMade, decode_job_request, encode_job_event
from retraced_server.worker.messages import MessageError, StartJob, decode_command
from retraced_server.worker.prepared import Prepared
from retraced_server.worker.process import AT_WORK, SPARE, be_first_out_of_memory, die_with_parent, take_name
from retraced_server.worker.sandbox import ResourceLimits, use_reserve
from retraced_server.worker.source import ArchiveFile


@dataclass(frozen=True)
class WorkerFds:
    """The descriptors that a worker is given: its end of the job's socket, the archive, and where its output lines go."""

    job: int
    archive: int
    log: int


def become_worker(control: socket.socket, prepared: Prepared, zygote: int, slot: int) -> NoReturn:
    """Wait for a job, runs it and end the process. To be called right after the fork, in the child.

    Args:
        control: Where the job comes from, with its descriptors; nothing else comes. Every other descriptor is closed.
        prepared: What the zygote has made ready.
        zygote: The process that it was forked from.
        slot: Its place among the workers that there are.
    """
    status = 1
    try:
        _settle(zygote)
        lockdown = prepared.sandbox.begin_lockdown(open_descriptors=(control.fileno(), hold_page_map()), slot=slot)
        if not select.select([control], [], [], 0)[0]:
            prepared.written.copy()
        with control:
            received = receive_frame_with_fds(control)
        if received is not None:
            start, fds = decode_command(received[0]), WorkerFds(*received[1])
            if not isinstance(start, StartJob):
                raise MessageError("a worker is told nothing but its job")
            for stream in (1, 2):
                os.dup2(fds.log, stream)
            os.close(fds.log)
            take_name(AT_WORK)
            hold_map(fds.archive)
            lockdown.complete(ResourceLimits(memory_bytes=start.memory_bytes, cpu_seconds=start.cpu_seconds))
            _work(fds, start, prepared)
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


def _settle(zygote: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: what it starts is killed with it.
    os.setpgid(0, 0)
    take_name(SPARE)
    die_with_parent()
    if os.getppid() != zygote:
        raise SystemExit(1)
    be_first_out_of_memory()
    # Python gives each forked process another seed; the same request is to have the same answer.
    random.seed(0)


def _work(fds: WorkerFds, start: StartJob, prepared: Prepared) -> None:
    with socket.socket(fileno=fds.job) as sock, os.fdopen(fds.archive, "rb") as archive:

        def emit(event: JobEvent) -> None:
            send_frame(sock, encode_job_event(event))

        # Where the front end is gone, it wants no answer any more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            request = receive_frame(sock)
            if request is not None:
                job = decode_job_request(request, catalogue())
                if job.template_key:
                    emit(TemplateMade(_template(job.template_key)))
                    emit(JobDone())
                    return
                SHARED.collects = job.share_templates
                run_job(
                    job,
                    ArchiveFile(archive, job.archive_sha256),
                    emit,
                    options=prepared.options,
                    memory_bytes=start.memory_bytes,
                    read_seconds=start.read_seconds,
                    on_memory_error=use_reserve,
                    violation_of=prepared.sandbox.violation_of,
                )


def _template(key: bytes) -> bytes:
    try:
        return make_template(key)
    # Without the program around it a call may be one that torch refuses.
    except Exception:  # noqa: BLE001
        return b""


def _status(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
