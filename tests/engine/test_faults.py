"""What becomes of a job whose worker is at fault: its own request learns the cause, and no other learns anything."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from retraced_server.engine.local import LocalEngine
from retraced_server.errors import Reason, RetracedError
from tests.program.archives import saved
from tests.support.large_graphs import as_program, deep_chain
from tests.support.models import by_name
from tests.support.processes import children_of

from .calls import begin, idle, responses, running_engine, spooled, transform, until_load

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
EVERYTHING = by_name("everything")


@pytest.mark.parametrize(
    ("fault", "reason", "metadata"),
    [
        ("fault-exit{status=0}", Reason.WORKER_EXITED, {"exit_status": "0"}),
        ("fault-exit", Reason.WORKER_EXITED, {"exit_status": "3"}),
        ("fault-sys-exit", Reason.WORKER_EXITED, {"exit_status": "7"}),
        ("fault-signal", Reason.WORKER_KILLED, {"signal": "SIGKILL"}),
        ("fault-signal{number=15}", Reason.WORKER_KILLED, {"signal": "SIGTERM"}),
        ("fault-crash", Reason.WORKER_CRASHED, {"signal": "SIGSEGV"}),
        ("fault-abort", Reason.WORKER_CRASHED, {"signal": "SIGABRT"}),
        ("fault-allocate", Reason.WORKER_OUT_OF_MEMORY, {"pass": "fault-allocate"}),
        ("fault-allocate{torch-tensors=true}", Reason.WORKER_OUT_OF_MEMORY, {"worker_memory_bytes": str(512 << 20)}),
        ("fault-allocate{mebibytes=1}", Reason.WORKER_OUT_OF_MEMORY, {"pass": "fault-allocate"}),
        ("fault-garble", Reason.INTERNAL, {}),
    ],
)
async def test_fault_is_its_own_requests_error_with_its_cause(
    engine: LocalEngine, fault: str, reason: Reason, metadata: dict[str, str]
) -> None:
    failing, beside = await asyncio.gather(
        transform(engine, EVERYTHING.archive, fault),
        transform(engine, EVERYTHING.archive, "fault-sleep,retrace"),
        return_exceptions=True,
    )
    assert isinstance(failing, RetracedError)
    assert failing.reason is reason
    assert failing.metadata.items() >= metadata.items()
    assert isinstance(beside, list)
    assert b"".join(response.output_chunk for response in beside) == EVERYTHING.archive


async def test_pass_that_takes_the_standard_streams_away_is_answered(engine: LocalEngine) -> None:
    answer = await transform(engine, EVERYTHING.archive, "fault-no-streams")
    assert b"".join(response.output_chunk for response in answer) == EVERYTHING.archive


async def test_job_that_takes_too_long_is_killed(impatient: LocalEngine) -> None:
    with pytest.raises(RetracedError) as caught:
        await transform(impatient, EVERYTHING.archive, "fault-hang")
    assert caught.value.reason is Reason.JOB_TIMED_OUT
    assert caught.value.metadata["job_timeout_seconds"] == "0.5"
    assert await transform(impatient, EVERYTHING.archive, "retrace", validate_only=True)


@functools.cache
def _long() -> bytes:
    """A program of 3,000 calls, made once."""
    return saved(as_program(deep_chain(3_000)))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hasty(_zygotes_find_the_tests: None) -> AsyncIterator[LocalEngine]:
    """An engine that gives programs a tenth of a second to be read."""
    async with running_engine(workers=1, read_timeout=0.1) as started:
        yield started


@pytest.mark.parametrize("validate_only", [False, True])
async def test_program_that_takes_too_long_to_read_ends_its_own_request(hasty: LocalEngine, validate_only: bool) -> None:
    with pytest.raises(RetracedError) as caught:
        await transform(hasty, _long(), "retrace", validate_only=validate_only)
    assert caught.value.reason is Reason.CPU_LIMIT_EXCEEDED
    assert caught.value.metadata["read_timeout_seconds"] == "0.1"


async def test_caller_that_leaves_takes_its_worker_along(engine: LocalEngine) -> None:
    before = children_of()
    with spooled(EVERYTHING.archive) as spool:
        async with engine.admit("id") as ticket:
            async for _ in responses(engine, ticket, spool, "fault-hang"):
                break
            assert len(children_of() - before) == 1
    await idle(engine)
    assert children_of() == before


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.1])
async def test_cancelled_caller_takes_its_worker_along_whenever_it_is(engine: LocalEngine, seconds: float) -> None:
    before = children_of()
    task = asyncio.create_task(transform(engine, EVERYTHING.archive, "fault-hang"))
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(engine)
    assert children_of() == before


async def test_cancelled_while_it_waits_leaves_the_queue(engine: LocalEngine) -> None:
    running = [await begin(engine, EVERYTHING.archive, "fault-hang") for _ in range(2)]
    waiting = asyncio.create_task(transform(engine, EVERYTHING.archive, "retrace"))
    await until_load(engine, 2, 1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert (engine.load.running, engine.load.queued) == (2, 0)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
