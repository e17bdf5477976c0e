"""An engine with a real zygote, started once for all tests that leave it as it was."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from retraced_server.engine.local import LocalEngine

from .calls import SECRET, idle, running_engine

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def _zygotes_find_the_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv(SECRET, "x")
        yield


@pytest.fixture(scope="session")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the operator lets the workers of `engine` read."""
    return tmp_path_factory.mktemp("readable")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _engine(_zygotes_find_the_tests: None, readable: Path) -> AsyncIterator[LocalEngine]:
    limits = {"max_queued": 100, "worker_memory_bytes": 512 << 20, "job_timeout": 60.0}
    async with running_engine(workers=2, read_paths=(readable,), **limits) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _impatient(_zygotes_find_the_tests: None) -> AsyncIterator[LocalEngine]:
    async with running_engine(workers=1, job_timeout=0.5) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def impatient(_impatient: LocalEngine) -> LocalEngine:
    """An engine with one worker, which gives jobs half a second; ready and with nothing to do."""
    await idle(_impatient)
    return _impatient


@pytest_asyncio.fixture(loop_scope="session")
async def engine(_engine: LocalEngine) -> LocalEngine:
    """The engine, ready and with nothing to do."""
    await idle(_engine)
    await _engine.supervisor.zygote()
    return _engine
