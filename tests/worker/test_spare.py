"""A worker that waits, locked down, before there is a job for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from retraced_server.worker.frames import receive_frame
from retraced_server.worker.job_messages import JobDone
from retraced_server.worker.messages import WorkerEnded
from retraced_server.worker.process import SPARE
from tests.support.models import by_name
from tests.support.processes import is_alive
from tests.support.waiting import eventually

from .zygotes import RunningZygote, zygote

pytestmark = pytest.mark.slow

EVERYTHING = by_name("everything")
FAULTS = "tests.support.fault_passes"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningZygote]:
    """A zygote that may have one worker at a time."""
    with zygote(FAULTS) as running:
        running.event()
        yield running


def spare_of(running: RunningZygote) -> int:
    """The worker that waits, once it is there."""
    zygote = psutil.Process(running.process.pid)
    eventually(lambda: [process.name() for process in zygote.children()] == [SPARE], "a worker waits")
    (spare,) = zygote.children()
    return int(spare.pid)


def runs(running: RunningZygote) -> int:
    """Runs a job, and gives the process that it ran in."""
    job = running.start(EVERYTHING.archive, "retrace")
    assert isinstance(job.events()[-1], JobDone)
    assert running.ended(job) == WorkerEnded(job.id, exit_status=0)
    return job.pid


def test_a_job_runs_in_the_worker_that_waits_and_each_in_one_of_its_own(running: RunningZygote) -> None:
    first = spare_of(running)
    assert runs(running) == first
    second = spare_of(running)
    assert second != first
    assert runs(running) == second


def test_none_waits_while_as_many_run_as_may(running: RunningZygote) -> None:
    spare_of(running)
    job = running.start(EVERYTHING.archive, "fault-hang")
    # By the time that it answers, its zygote would have forked another.
    assert receive_frame(job.socket) is not None
    assert [process.pid for process in psutil.Process(running.process.pid).children()] == [job.pid]
    running.kill(job)
    running.ended(job)
    spare_of(running)


def test_one_that_is_killed_is_nobodys_loss_and_not_replaced_before_there_is_a_job(running: RunningZygote) -> None:
    killed = spare_of(running)
    os.kill(killed, signal.SIGKILL)
    zygote = psutil.Process(running.process.pid)
    eventually(lambda: not zygote.children(), "the killed worker is gone")
    # It would be there at once.
    for _ in range(20):
        time.sleep(0.01)
        assert not zygote.children()
    assert runs(running) != killed
    spare_of(running)


def test_a_job_whose_worker_is_gone_before_it_is_reaped_runs_in_another(running: RunningZygote) -> None:
    gone = spare_of(running)
    zygote = psutil.Process(running.process.pid)
    zygote.suspend()
    os.kill(gone, signal.SIGKILL)
    eventually(lambda: not is_alive(gone), "it is gone")
    resumed = threading.Timer(0.1, zygote.resume)
    resumed.start()
    assert runs(running) != gone
    spare_of(running)


def test_it_ends_with_the_zygote() -> None:
    with zygote() as running:
        running.event()
        pid = spare_of(running)
        running.process.kill()
        running.process.wait()
        eventually(lambda: not is_alive(pid), "it is gone")
