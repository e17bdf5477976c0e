"""Fifty requests at once: some leave, some lose their worker, and every other one is answered right."""

from __future__ import annotations

import asyncio
import random

import psutil
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.engine.local import LocalEngine
from retraced_server.errors import Reason, RetracedError
from tests.support.models import by_name
from tests.support.processes import children_of, open_fds

from .calls import idle, transform

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
INPUT_AND_ID = by_name("input_and_id")


async def test_fifty_requests_with_cancels_and_kills(engine: LocalEngine) -> None:
    await transform(engine, INPUT_AND_ID.archive, "retrace")
    await idle(engine)
    children, fds, zygote = children_of(), open_fds(), psutil.Process((await engine.supervisor.zygote()).pid)
    memory = zygote.memory_full_info().uss
    tasks = [asyncio.create_task(transform(engine, INPUT_AND_ID.archive, _pipeline(number))) for number in range(50)]
    chosen = random.Random(0)
    for task in chosen.sample(tasks[::5], 4):
        await asyncio.sleep(0.05)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        if isinstance(result, asyncio.CancelledError):
            assert number % 5 == 0
        elif isinstance(result, RetracedError):
            assert number % 5 == 1
            assert result.reason is Reason.WORKER_KILLED
        else:
            assert isinstance(result, list)
            assert number % 5 != 1
            _check(result)
    await idle(engine)
    assert children_of() == children
    assert open_fds() == fds
    assert zygote.memory_full_info().uss < memory + (8 << 20)


def _pipeline(number: int) -> str:
    return "retrace,fault-signal" if number % 5 == 1 else "retrace,decompose"


def _check(responses: list[pb.TransformGraphResponse]) -> None:
    summary = responses[-1].summary
    assert summary.pipeline == "retrace,decompose"
    assert sum(len(response.output_chunk) for response in responses) == summary.output_size > 0
