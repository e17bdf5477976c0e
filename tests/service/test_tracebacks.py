"""Where a pass failed: in the log for the operator, and in the status for callers who may see it."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from retraced import AsyncClient, errors
from retraced_server.errors import Reason, RetracedError
from retraced_server.service.statuses import status_of
from tests.service.conftest import Start, chunk, failure, spec
from tests.service.fake_engine import FakeEngine, fails

TRACEBACK = "Traceback (most recent call last):\n  File \"a_pass.py\", line 7, in call_operator\nKeyError: 'nope'\n"
# As much as the headers of a response may hold.
_HEADERS_BYTES = 8 << 10


def failed(traceback: str = TRACEBACK) -> RetracedError:
    return RetracedError(Reason.PASS_FAILED, "pass 1 of 1, `mine`: 'nope'", metadata={"pass": "mine"}, traceback=traceback)


async def test_the_log_has_it_in_one_event_with_the_ids_of_the_request_and_the_caller_does_not(
    start: Start, engine: FakeEngine, log: list[Any]
) -> None:
    engine.job = fails(failed())
    async with start() as address, grpc.aio.insecure_channel(address) as channel:
        error = await failure(channel, metadata=(("x-request-id", "mine"),))
    assert error.traceback == ""
    assert "a_pass.py" not in str(error.status)
    assert [(entry["request_id"], entry["exception"]) for entry in log] == [("mine", TRACEBACK)]


async def test_a_caller_who_may_see_it_is_sent_it(start: Start, engine: FakeEngine) -> None:
    engine.job = fails(failed())
    async with start(send_tracebacks=True) as address, AsyncClient(address) as client:
        with pytest.raises(errors.PassFailed) as raised:
            await client.transform(b"abc", "retrace")
    assert raised.value.metadata["traceback"] == TRACEBACK
    assert raised.value.metadata["pass"] == "mine"


@pytest.mark.parametrize("frame", ['  File "deep.py", line 1, in call\n', "ü\n"], ids=["ascii", "not ascii"])
async def test_the_end_of_a_long_one_is_sent(start: Start, engine: FakeEngine, frame: str) -> None:
    engine.job = fails(failed(frame * 5_000 + TRACEBACK))
    async with start(send_tracebacks=True) as address, grpc.aio.insecure_channel(address) as channel:
        error = await failure(channel, [spec(), chunk()])
    assert error.traceback.startswith("...")
    assert error.traceback.endswith(TRACEBACK)
    assert len(error.traceback) > 1500
    assert error.headers_bytes < _HEADERS_BYTES


def test_where_no_room_is_left_the_rest_of_the_status_comes_first() -> None:
    error = failed()
    error.metadata.update({f"{number}" * 60: "x" * 5_000 for number in range(10)})
    assert len(status_of(error, {"request_id": "r" * 128}, with_traceback=True).details) < 3_700
