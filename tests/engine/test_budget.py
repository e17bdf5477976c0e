"""Memory over all jobs: how many run at a time, and that the others wait in turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.engine import budget
from retraced_server.engine.budget import jobs_at_a_time, memory_for_jobs, memory_of_a_worker
from retraced_server.engine.cgroup import memory_limit
from retraced_server.errors import Reason, RetracedError
from tests.support.models import by_name
from tests.support.waiting import until

from .calls import begin, running_engine, transform

pytestmark = pytest.mark.slow

_GIB = 1 << 30


@pytest.mark.parametrize(
    ("workers", "memory", "worker_memory", "jobs"),
    [(4, 8, 2, 4), (4, 7, 2, 3), (4, 2, 2, 1), (4, 100, 2, 4), (4, 0, 2, 4), (4, 8, 0, 4)],
)
def test_as_many_jobs_run_as_fit_with_all_that_each_may_take(workers: int, memory: int, worker_memory: int, jobs: int) -> None:
    assert jobs_at_a_time(workers, memory * _GIB, worker_memory * _GIB) == jobs


def test_a_job_that_never_fits_is_refused() -> None:
    with pytest.raises(RetracedError, match="no job would ever fit") as caught:
        jobs_at_a_time(4, _GIB, _GIB + 1)
    assert caught.value.reason is Reason.WORKERS_UNAVAILABLE


@pytest.mark.parametrize(
    ("memory", "workers", "each"), [(12, 4, 3), (12, 1, 8), (12, 100, 1), (0, 4, 8), (0.5, 4, 0.5), (64, 4, 8), (12, 12, 1)]
)
def test_a_worker_has_an_equal_share_within_bounds(memory: float, workers: int, each: float) -> None:
    share = memory_of_a_worker(int(memory * _GIB), workers)
    assert share == each * _GIB
    assert jobs_at_a_time(workers, int(memory * _GIB), share) >= 1


@pytest.mark.parametrize(("limit", "jobs"), [(4 * _GIB, 3 * _GIB), (_GIB, _GIB // 2), (_GIB + _GIB // 2, _GIB * 3 // 4)])
def test_jobs_have_what_the_control_group_allows_less_the_servers_own(
    limit: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "memory_limit", lambda: limit)
    assert memory_for_jobs() == jobs


def test_without_a_control_group_jobs_have_the_machines_memory_less_the_servers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "memory_limit", lambda: None)
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert memory_for_jobs() == max(total - _GIB, total // 2)


def test_the_least_limit_of_the_groups_around_counts(tmp_path: Path) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "root"
    group = root / "system.slice/retraced.service"
    group.mkdir(parents=True)
    proc.write_text("1:cpu:/\n0::/system.slice/retraced.service\n")
    assert memory_limit(proc, root) is None
    (group / "memory.max").write_text("max\n")
    assert memory_limit(proc, root) is None
    (group / "memory.max").write_text("3000\n")
    (group.parent / "memory.max").write_text("2000\n")
    assert memory_limit(proc, root) == 2000
    (group / "memory.max").write_text("1000\n")
    assert memory_limit(proc, root) == 1000
    proc.write_text("1:cpu:/\n")
    assert memory_limit(proc, root) is None
    assert memory_limit(tmp_path / "nothing", root) is None


async def test_a_job_that_does_not_fit_waits_though_a_worker_is_free_and_runs_when_it_does() -> None:
    archive = by_name("input_and_id").archive
    async with running_engine(workers=3, memory_bytes=3 * _GIB, worker_memory_bytes=2 * _GIB) as engine:
        running = await begin(engine, archive, "fault-sleep")
        waiting = asyncio.create_task(transform(engine, archive, "retrace"))
        await until(lambda: engine.load.queued or waiting.done(), "the second job waits")
        running.cancel()
        answers = await waiting
    assert answers[0].progress.stage == pb.STAGE_QUEUED
    assert answers[-1].HasField("summary")
