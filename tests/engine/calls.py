"""Calls an engine as the service does, and decodes what comes back."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.engine.base import Ticket
from retraced_server.engine.local import LocalEngine, LocalEngineConfig
from retraced_server.engine.spool import Spool
from retraced_server.pipeline.domain import TransformOptions
from retraced_server.pipeline.parse import Pipeline, parse_pipeline
from tests.support.waiting import PATIENCE, until

FAULTS = "tests.support.fault_passes"
#: A variable that the server has and its workers are not to have.
SECRET = "SECRET_OF_THE_SERVER"
SPOOL_DIR = Path(tempfile.gettempdir())


def spooled(archive: bytes) -> Spool:
    spool = Spool(SPOOL_DIR, 1 << 26)
    spool.write(archive)
    return spool


class Given:
    """An archive that is here."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def archive(self) -> Spool:
        return self._spool


def responses(
    engine: LocalEngine,
    ticket: Ticket,
    spool: Spool,
    pipeline: str | Pipeline,
    **options: Any,  # Any: fields of TransformOptions.
) -> AsyncIterator[bytes]:
    parsed = pipeline if isinstance(pipeline, Pipeline) else parse_pipeline(pipeline, engine.facts.catalogue)
    return ticket.run(parsed, TransformOptions(**options), Given(spool))


async def transform(
    engine: LocalEngine,
    archive: bytes,
    pipeline: str | Pipeline,
    **options: Any,  # Any: fields of TransformOptions.
) -> list[pb.TransformGraphResponse]:
    with spooled(archive) as spool:
        async with engine.admit("id") as ticket:
            answers = responses(engine, ticket, spool, pipeline, **options)
            return [pb.TransformGraphResponse.FromString(data) async for data in answers]


async def begin(engine: LocalEngine, archive: bytes, pipeline: str) -> asyncio.Task[None]:
    """Starts a job, and returns once its worker runs a pass."""
    runs = asyncio.Event()

    async def call() -> None:
        with spooled(archive) as spool:
            async with engine.admit("id") as ticket:
                async for data in responses(engine, ticket, spool, pipeline):
                    if pb.TransformGraphResponse.FromString(data).HasField("pass_started"):
                        runs.set()

    task = asyncio.create_task(call())
    async with asyncio.timeout(PATIENCE):
        await runs.wait()
    return task


async def remarks(engine: LocalEngine, archive: bytes, pipeline: str) -> list[str]:
    """What the last pass remarked."""
    answers = await transform(engine, archive, pipeline)
    return list([response.pass_finished for response in answers if response.HasField("pass_finished")][-1].report.remarks)


async def until_load(engine: LocalEngine, running: int, queued: int) -> None:
    """Waits until so many requests run and so many wait."""
    expected = (running, queued)
    await until(lambda: (engine.load.running, engine.load.queued) == expected, f"{running} run and {queued} wait")


async def idle(engine: LocalEngine) -> None:
    """Waits until every request was given back and every worker reaped, and the templates are made that jobs have missed."""
    await until_load(engine, 0, 0)
    await until(lambda: engine.templates.is_idle, "no template is wanted any more")
    # What is closed in callbacks of the last worker's end.
    await asyncio.sleep(0.01)


@asynccontextmanager
async def running_engine(**config: Any) -> AsyncIterator[LocalEngine]:  # Any: fields of LocalEngineConfig.
    engine = LocalEngine(LocalEngineConfig(**{"imports": (FAULTS,), "spool_dir": SPOOL_DIR, **config}))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.drain(0.0)
