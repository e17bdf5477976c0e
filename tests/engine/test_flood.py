"""A worker that was taken over sends what it likes; the front end takes no more than a job makes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from retraced_server.engine.job import Job
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import JobStats, Period
from retraced_server.worker.frames import encode_frame
from retraced_server.worker.job_messages import JobDone, encode_job_event
from retraced_server.worker.messages import WorkerEnded
from retraced_server.worker.responses import Stage, output_chunk, progress

pytestmark = pytest.mark.slow


class _Worker:
    """A worker that ends when it is killed."""

    def __init__(self) -> None:
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[WorkerEnded | None] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        if not self.ended.done():
            self.ended.set_result(WorkerEnded(1, signal=9))

    def give_up_zygote(self) -> None:
        raise AssertionError("it was killed, and has ended")


async def _answers(*events: Any) -> list[bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(encode_frame(encode_job_event(event)) for event in events))
    reader.feed_eof()
    job = Job(cast(Any, _Worker()), reader, cast(Any, None), 0)
    return [response async for response in job.responses()]


async def test_worker_that_floods_its_server_with_messages_is_killed() -> None:
    with pytest.raises(RetracedError, match="messages in") as caught:
        await _answers(*[progress(Stage.RUNNING, 1)] * 20_000)
    assert caught.value.reason is Reason.INTERNAL


async def test_output_of_many_chunks_is_no_flood() -> None:
    chunk = output_chunk(b"x" * 8192)
    assert len(await _answers(*[chunk] * 11_000, JobStats(), JobDone())) == 11_000


async def test_worker_that_sends_what_is_neither_a_response_nor_an_event_is_killed() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(encode_frame(b"\x07" + output_chunk(b"x")))
    reader.feed_eof()
    worker = _Worker()
    with pytest.raises(RetracedError, match="neither a response nor an event") as caught:
        await anext(Job(cast(Any, worker), reader, cast(Any, None), 0).responses())
    assert caught.value.reason is Reason.INTERNAL
    assert worker.ended.done()


async def test_stats_come_once() -> None:
    with pytest.raises(RetracedError, match="twice"):
        await _answers(JobStats(), JobStats(), JobDone())


@pytest.mark.parametrize(
    "stats", [JobStats((Period("reading", 0.0, 9e8),)), JobStats(passes=(Period("retrace", 9e8, 0.0),))], ids=["stage", "pass"]
)
async def test_a_job_takes_no_longer_than_it_is_there(stats: JobStats) -> None:
    with pytest.raises(RetracedError, match="longer than it is there") as caught:
        await _answers(stats, JobDone())
    assert caught.value.reason is Reason.INTERNAL
