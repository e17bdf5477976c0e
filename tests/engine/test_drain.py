"""An engine that drains: who is still served, who is not, and that nothing is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from retraced_server.errors import Reason, RetracedError
from tests.support.models import by_name
from tests.support.processes import children_of, open_fds

from .calls import begin, idle, responses, running_engine, spooled, transform

pytestmark = pytest.mark.slow

EVERYTHING = by_name("everything")


async def test_what_was_admitted_is_served_and_no_more_is_admitted(tmp_path: Path) -> None:
    children, fds = children_of(), open_fds()
    async with running_engine(workers=1, spool_dir=tmp_path) as engine:
        tasks = [asyncio.create_task(transform(engine, EVERYTHING.archive, "fault-sleep,retrace")) for _ in range(2)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain(60.0))
        await asyncio.sleep(0)
        assert engine.obstacle
        with pytest.raises(RetracedError) as caught:
            engine.admit("late")
        assert caught.value.reason is Reason.SERVER_DRAINING
        assert caught.value.retry_after is not None
        for task in tasks:
            assert b"".join(response.output_chunk for response in await task) == EVERYTHING.archive
        await draining
    await asyncio.sleep(0.01)
    assert children_of() == children
    assert open_fds() == fds
    assert list(tmp_path.iterdir()) == []


async def test_after_the_grace_the_rest_is_ended_and_told_why() -> None:
    children = children_of()
    async with running_engine(workers=1) as engine:
        running = await begin(engine, EVERYTHING.archive, "fault-hang")
        waiting = asyncio.create_task(transform(engine, EVERYTHING.archive, "retrace"))
        with spooled(EVERYTHING.archive) as spool:
            async with engine.admit("uploading") as uploading:
                await engine.drain(0.1)
                for task in (running, waiting):
                    with pytest.raises(RetracedError) as caught:
                        await task
                    assert caught.value.reason is Reason.SERVER_DRAINING
                with pytest.raises(RetracedError) as caught:
                    async for _ in responses(engine, uploading, spool, "retrace"):
                        pass
                assert caught.value.reason is Reason.SERVER_DRAINING
        await idle(engine)
        assert children_of() == children


async def test_drain_that_is_cut_short_ends_everything() -> None:
    children = children_of()
    async with running_engine(workers=1) as engine:
        running = await begin(engine, EVERYTHING.archive, "fault-hang")
        draining = asyncio.create_task(engine.drain(600.0))
        await asyncio.sleep(0.01)
        draining.cancel()
        await asyncio.wait({draining})
        await engine.drain(0.0)
        with pytest.raises(RetracedError) as caught:
            await running
        assert caught.value.reason is Reason.SERVER_DRAINING
        assert children_of() == children
