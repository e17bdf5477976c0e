"""The zygote ends, cannot start, or does not answer: what is lost, and that the engine recovers."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from retraced_server.engine import job as engine_job
from retraced_server.engine import zygote as engine_zygote
from retraced_server.engine.local import LocalEngine, LocalEngineConfig
from retraced_server.errors import Reason, RetracedError
from tests.support.models import by_name
from tests.support.processes import children_of, open_fds
from tests.support.waiting import until

from .calls import begin, running_engine, transform, until_load

pytestmark = pytest.mark.slow

EVERYTHING = by_name("everything")
shared_loop = pytest.mark.asyncio(loop_scope="session")


async def signal_zygote(engine: LocalEngine, number: int) -> None:
    os.kill((await engine.supervisor.zygote()).pid, number)


def no_descriptors(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@shared_loop
async def test_zygote_that_is_killed_is_replaced_and_only_what_ran_fails(engine: LocalEngine) -> None:
    running = [await begin(engine, EVERYTHING.archive, "fault-hang") for _ in range(2)]
    waiting = asyncio.create_task(transform(engine, EVERYTHING.archive, "retrace"))
    await until_load(engine, 2, 1)
    await signal_zygote(engine, signal.SIGKILL)
    for killed in running:
        with pytest.raises(RetracedError) as caught:
            await killed
        assert caught.value.reason is Reason.WORKER_KILLED
    assert engine.obstacle
    late = asyncio.create_task(transform(engine, EVERYTHING.archive, "retrace"))
    for task in (waiting, late):
        assert b"".join(response.output_chunk for response in await task) == EVERYTHING.archive
    assert not engine.obstacle


@shared_loop
async def test_zygote_that_does_not_answer_is_replaced_and_the_job_begun_anew(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_job, "_FORK_SECONDS", 0.2)
    await signal_zygote(engine, signal.SIGSTOP)
    answer = await transform(engine, EVERYTHING.archive, "retrace")
    assert b"".join(response.output_chunk for response in answer) == EVERYTHING.archive


@shared_loop
async def test_worker_that_the_zygote_does_not_kill_is_killed_with_it(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_job, "_KILL_SECONDS", 0.2)
    before = children_of()
    task = await begin(engine, EVERYTHING.archive, "fault-hang")
    (worker,) = children_of() - before
    await signal_zygote(engine, signal.SIGSTOP)
    task.cancel()
    await asyncio.wait({task})
    await until(lambda: worker not in children_of(), "the worker is gone")
    await until(lambda: not engine.obstacle, "the engine is ready")


async def test_engine_without_a_zygote_says_so_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "operators.py"
    module.write_text("import tests.support.fault_passes")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    async with running_engine(workers=1, imports=("operators",)) as engine:
        running = await begin(engine, EVERYTHING.archive, "fault-hang")
        waiting = asyncio.create_task(transform(engine, EVERYTHING.archive, "retrace"))
        await until_load(engine, 1, 1)
        module.rename(tmp_path / "elsewhere.py")
        await signal_zygote(engine, signal.SIGKILL)
        with pytest.raises(RetracedError) as caught:
            await running
        assert caught.value.reason is Reason.WORKER_KILLED
        with pytest.raises(RetracedError, match="operators") as caught:
            await waiting
        assert caught.value.reason is Reason.WORKERS_UNAVAILABLE
        with pytest.raises(RetracedError, match="operators") as caught:
            engine.admit("late")
        assert caught.value.retry_after is not None
        (tmp_path / "elsewhere.py").rename(module)
        await until(lambda: not engine.obstacle, "the engine is ready")
        assert await transform(engine, EVERYTHING.archive, "retrace")


async def test_zygote_that_cannot_be_started_for_want_of_descriptors_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_engine(workers=1) as engine:
        running = await begin(engine, EVERYTHING.archive, "fault-hang")
        waiting = asyncio.create_task(transform(engine, EVERYTHING.archive, "retrace"))
        await until_load(engine, 1, 1)
        with monkeypatch.context() as without:
            without.setattr(engine_zygote, "LogPipe", no_descriptors)
            await signal_zygote(engine, signal.SIGKILL)
            await asyncio.wait({running})
            with pytest.raises(RetracedError, match="Too many open files") as caught:
                await waiting
        assert caught.value.reason is Reason.WORKERS_UNAVAILABLE
        await until(lambda: not engine.obstacle, "the engine is ready")
        assert await transform(engine, EVERYTHING.archive, "retrace")


@shared_loop
async def test_worker_that_cannot_be_started_for_want_of_descriptors_is_its_requests_error(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fds = open_fds()
    with monkeypatch.context() as without:
        without.setattr(engine_job, "LogPipe", no_descriptors)
        with pytest.raises(RetracedError, match="Too many open files") as caught:
            await transform(engine, EVERYTHING.archive, "retrace")
    assert caught.value.reason is Reason.WORKERS_UNAVAILABLE
    assert caught.value.retry_after is not None
    assert open_fds() == fds
    assert engine.load.running == 0


async def test_engine_that_cannot_start_says_what_the_zygote_said_and_leaves_nothing() -> None:
    children, fds = children_of(), open_fds()
    engine = LocalEngine(LocalEngineConfig(imports=("no_such_module",)))
    with pytest.raises(RetracedError, match="`no_such_module` cannot be imported") as caught:
        await engine.start()
    assert caught.value.reason is Reason.WORKERS_UNAVAILABLE
    assert engine.obstacle
    with pytest.raises(RetracedError):
        engine.admit("id")
    await engine.drain(0.0)
    await asyncio.sleep(0)
    assert children_of() == children
    assert open_fds() == fds


async def test_start_that_is_cancelled_leaves_nothing() -> None:
    children, fds = children_of(), open_fds()
    engine = LocalEngine(LocalEngineConfig())
    task = asyncio.create_task(engine.start())
    await until(lambda: children_of() != children, "the zygote is started")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.drain(0.0)
    await asyncio.sleep(0)
    assert children_of() == children
    assert open_fds() == fds
