"""What an engine counts: workers that were forked, and those that ended before they had answered, by cause."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from retraced_server.engine.base import EngineCounts
from retraced_server.engine.local import LocalEngine
from retraced_server.engine.usage import private_bytes
from retraced_server.errors import RetracedError
from retraced_server.pipeline.catalogue import PassInfo
from retraced_server.pipeline.domain import JobStats, Period
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.worker.job_messages import decode_job_event, encode_job_event
from retraced_server.worker.messages import MessageError
from tests.support.models import by_name

from .calls import begin, idle, responses, spooled, transform

pytestmark = pytest.mark.slow

shared_loop = pytest.mark.asyncio(loop_scope="session")
INPUT_AND_ID = by_name("input_and_id")


def since(engine: LocalEngine, before: EngineCounts) -> tuple[int, dict[str, int]]:
    return engine.counts.forks - before.forks, dict(Counter(engine.counts.kills) - Counter(before.kills))


@shared_loop
@pytest.mark.parametrize(
    ("pipeline", "kills"),
    [
        ("retrace", {}),
        # These workers say so themselves.
        ("fault-raise", {}),
        ("no-such-pass", {}),
        ("fault-exit", {"WORKER_EXITED": 1}),
        ("fault-signal", {"WORKER_KILLED": 1}),
        ("fault-crash", {"WORKER_CRASHED": 1}),
        ("fault-garble", {"INTERNAL": 1}),
    ],
)
async def test_every_worker_is_counted_once_and_its_end_by_its_cause(
    engine: LocalEngine, pipeline: str, kills: dict[str, int]
) -> None:
    before = engine.counts
    # A pass that these workers do not have is known to whoever asks, as one is that was there when the front end looked.
    known = {**engine.facts.catalogue, "no-such-pass": PassInfo("no-such-pass", "")}
    with contextlib.suppress(RetracedError):
        await transform(engine, INPUT_AND_ID.archive, parse_pipeline(pipeline, known))
    await idle(engine)
    assert since(engine, before) == (1, kills)


@shared_loop
async def test_a_worker_whose_caller_leaves_is_counted_as_that_and_its_memory_is_seen_while_it_runs(
    engine: LocalEngine,
) -> None:
    before = engine.counts
    assert engine.worker_memory() == 0
    task = await begin(engine, INPUT_AND_ID.archive, "fault-hang")
    assert engine.worker_memory() > 1 << 20
    task.cancel()
    await asyncio.wait({task})
    await idle(engine)
    assert since(engine, before) == (1, {"CALLER_GONE": 1})
    assert engine.worker_memory() == 0


@shared_loop
async def test_a_request_is_reported_on_with_its_times_and_what_its_job_took(engine: LocalEngine) -> None:
    with spooled(INPUT_AND_ID.archive) as spool:
        async with engine.admit("id") as ticket:
            report = ticket.report
            assert (report.queued_at, report.started_at, report.ended_at, report.stats) == (None, None, None, None)
            async for _ in responses(engine, ticket, spool, "retrace,cse"):
                assert report.queued_at
    assert report.queued_at
    assert report.started_at
    assert report.ended_at
    assert report.queued_at <= report.started_at <= report.ended_at
    assert report.stats
    assert [ran.name for ran in report.stats.passes] == ["retrace", "cse"]
    last = report.stats.stages[-1]
    # Of the worker's own clock, which it starts a little before it is heard of.
    assert last.start + last.seconds <= report.ended_at - report.queued_at


@shared_loop
async def test_names_that_a_worker_makes_up_are_no_passes(engine: LocalEngine) -> None:
    made_up = JobStats(passes=(Period("retrace", 0.0, 1.0), Period("text of a caller's", 0.0, 1.0)))
    async with engine.admit("id") as ticket:
        known = ticket._known_passes(made_up)
    assert known == JobStats(passes=(Period("retrace", 0.0, 1.0),))


@pytest.mark.parametrize(
    "stats",
    [
        JobStats((Period("made-up", 0.0, 1.0),)),
        JobStats((Period("reading", float("nan"), 1.0),)),
        JobStats((Period("reading", 0.0, -1.0),)),
        JobStats((Period("reading", 0.0, float("inf")),)),
        JobStats((Period("reading", 0.0, 1.0),) * 17),
        JobStats(passes=(Period("retrace", 0.0, 1.0),) * 1001),
        JobStats(passes=(Period("r" * 300, 0.0, 1.0),)),
    ],
)
def test_what_no_job_can_have_taken_is_no_message(stats: JobStats) -> None:
    with pytest.raises(MessageError):
        decode_job_event(encode_job_event(stats))


def test_what_a_job_took_is_read_as_it_was_written() -> None:
    stats = JobStats((Period("reading", 0.0, 1.5),), (Period("retrace", 1.5, 0.25),), 7, b"\0" * 32)
    assert decode_job_event(encode_job_event(stats)) == stats


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert private_bytes(1 << 22) == 0
