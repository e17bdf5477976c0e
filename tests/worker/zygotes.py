"""Starts zygotes as processes, and talks to them without an engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retraced_server.engine.environment import zygote_environment
from retraced_server.pipeline.catalogue import Catalogue
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.worker.frames import encode_frame, receive_frame, send_frame
from retraced_server.worker.job_messages import JobEvent, JobRequest, decode_job_event, encode_job_request
from retraced_server.worker.messages import (
    KillJob,
    StartJob,
    WorkerEnded,
    WorkerFacts,
    WorkerStarted,
    ZygoteEvent,
    decode_event,
    encode_command,
)

ROOT = Path(__file__).parents[2]


def command_line(fd: int, *imports: str) -> list[str]:
    return [sys.executable, "-m", "retraced_server.worker.zygote", str(fd), *(f"--import={name}" for name in imports)]


@dataclass
class Job:
    """A job of a zygote, seen from its front end."""

    id: int
    pid: int
    socket: socket.socket

    def events(self) -> list[JobEvent]:
        """All that it sends until its socket closes."""
        events = []
        while (frame := receive_frame(self.socket)) is not None:
            events.append(decode_job_event(frame))
        return events


class RunningZygote:
    """A zygote and the front end's end of its socket."""

    def __init__(self, *imports: str, path: Path = ROOT) -> None:
        self.control, theirs = socket.socketpair()
        environment = zygote_environment(
            {**os.environ, "PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"}, Path("/tmp")
        )
        with theirs:
            self.process = subprocess.Popen(
                command_line(theirs.fileno(), *imports),
                pass_fds=(theirs.fileno(),),
                env=environment,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        self._ids = iter(range(1, 1000))
        self._sockets: list[socket.socket] = []
        self.catalogue: Catalogue = {}

    def event(self) -> ZygoteEvent | None:
        frame = receive_frame(self.control)
        event = None if frame is None else decode_event(frame)
        if isinstance(event, WorkerFacts):
            self.catalogue = event.catalogue
        return event

    def start(self, archive: bytes, pipeline: str, memory_bytes: int = 0) -> Job:
        job_id = next(self._ids)
        ours, theirs = socket.socketpair()
        file = os.memfd_create("archive")
        os.write(file, archive)
        log = os.open(os.devnull, os.O_WRONLY)
        command = encode_frame(encode_command(StartJob(job_id, memory_bytes, cpu_seconds=0, read_seconds=0)))
        socket.send_fds(self.control, [command], [theirs.fileno(), file, log])
        theirs.close()
        os.close(file)
        os.close(log)
        started = self.event()
        assert isinstance(started, WorkerStarted)
        assert started.job_id == job_id
        send_frame(ours, encode_job_request(JobRequest("id", parse_pipeline(pipeline, self.catalogue))))
        self._sockets.append(ours)
        return Job(job_id, started.pid, ours)

    def end(self) -> None:
        for sock in (self.control, *self._sockets):
            sock.close()
        self.process.kill()
        self.process.communicate()

    def kill(self, job: Job) -> None:
        send_frame(self.control, encode_command(KillJob(job.id)))

    def ended(self, job: Job) -> WorkerEnded:
        event = self.event()
        assert isinstance(event, WorkerEnded)
        assert event.job_id == job.id
        job.socket.close()
        return event


@contextmanager
def zygote(*imports: str, path: Path = ROOT) -> Iterator[RunningZygote]:
    running = RunningZygote(*imports, path=path)
    try:
        yield running
    finally:
        running.end()
