"""The zygote as a process: what it says when it is ready, how it forks and kills, and with whom it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import torch

from retraced_server.worker.job_messages import JobDone
from retraced_server.worker.messages import WorkerEnded, WorkerFacts
from tests.support.models import by_name
from tests.support.processes import is_alive
from tests.support.waiting import eventually

from .zygotes import ROOT, RunningZygote, command_line, zygote

pytestmark = pytest.mark.slow

EVERYTHING = by_name("everything")
FAULTS = "tests.support.fault_passes"


@pytest.fixture(scope="module")
def ready() -> Iterator[tuple[RunningZygote, WorkerFacts]]:
    with zygote(FAULTS) as running:
        event = running.event()
        assert isinstance(event, WorkerFacts)
        yield running, event


def test_ready_zygote_says_what_it_is(ready: tuple[RunningZygote, WorkerFacts]) -> None:
    _, event = ready
    assert {"retrace", "decompose", "fault-hang"} <= event.catalogue.keys()
    assert event.torch_version == torch.__version__
    assert event.imports == ((FAULTS, ""),)


def test_job_runs_in_a_process_of_its_own(ready: tuple[RunningZygote, WorkerFacts]) -> None:
    running, _ = ready
    job = running.start(EVERYTHING.archive, "retrace")
    assert job.pid not in (os.getpid(), running.process.pid)
    assert isinstance(job.events()[-1], JobDone)
    assert running.ended(job) == WorkerEnded(job.id, exit_status=0)
    assert not is_alive(job.pid)


def test_killed_job_ends_by_the_signal(ready: tuple[RunningZygote, WorkerFacts]) -> None:
    running, _ = ready
    job = running.start(EVERYTHING.archive, "fault-hang")
    running.kill(job)
    assert running.ended(job) == WorkerEnded(job.id, signal=signal.SIGKILL)


def test_killing_a_job_that_has_ended_does_nothing(ready: tuple[RunningZygote, WorkerFacts]) -> None:
    running, _ = ready
    first = running.start(EVERYTHING.archive, "retrace")
    first.events()
    running.ended(first)
    running.kill(first)
    second = running.start(EVERYTHING.archive, "retrace")
    assert isinstance(second.events()[-1], JobDone)
    running.ended(second)


def test_worker_whose_caller_is_gone_before_it_has_begun_ends(ready: tuple[RunningZygote, WorkerFacts]) -> None:
    running, _ = ready
    job = running.start(EVERYTHING.archive, "retrace,fault-sleep,retrace")
    job.socket.close()
    assert running.ended(job).exit_status == 0


def test_workers_end_with_the_zygote() -> None:
    with zygote(FAULTS) as running:
        running.event()
        job = running.start(EVERYTHING.archive, "fault-hang")
        running.process.kill()
        running.process.wait()
        eventually(lambda: not is_alive(job.pid), "the worker is gone")


def test_zygote_and_workers_end_when_the_front_end_closes_the_socket() -> None:
    with zygote(FAULTS) as running:
        running.event()
        job = running.start(EVERYTHING.archive, "fault-hang")
        running.control.close()
        assert running.process.wait(30) == 0
        eventually(lambda: not is_alive(job.pid), "the worker is gone")


def test_zygote_ends_with_a_front_end_that_is_killed_while_it_warms_up() -> None:
    # The front end's socket stays open in this process, so that only the death of the parent can end the zygote.
    front_end = textwrap.dedent(
        f"""
        import os, socket, subprocess, time
        ours, theirs = socket.socketpair()
        command = {command_line(0)[:-1]!r} + [str(theirs.fileno()), f"--parent={{os.getpid()}}"]
        started = subprocess.Popen(command, pass_fds=[theirs.fileno(), ours.fileno()])
        print(started.pid, flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", front_end], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        eventually(lambda: "zygote" in _command(pid), "the zygote runs")
        parent.kill()
    eventually(lambda: not is_alive(pid), "the zygote is gone")


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()
