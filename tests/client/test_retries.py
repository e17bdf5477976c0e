"""Both clients make a call again while the server says that it may succeed later, and never when it says nothing."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from retraced import AsyncClient, Client, errors, events
from retraced._attempts import Attempts
from retraced.v1 import graph_transform_pb2 as pb
from tests.client.archives import plain
from tests.client.fake_server import Behaviour, FakeServer, answers, fails, read_upload

ARCHIVE = os.urandom(2_500_000)
OUTPUT = plain(os.urandom(100_000))
FULL = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 wait", reason="QUEUE_FULL", retry_after=0.1)


class Refusing(FakeServer):
    """Refuses its first calls, and then does what it should.

    Attributes:
        uploads: What each call has sent.
        ids: Each call's request id.
    """

    def __init__(self, refusals: int, refusal: Behaviour = FULL, after: Behaviour | None = None) -> None:
        self.uploads: list[bytes] = []
        self.ids: list[str | bytes] = []
        answer = after or answers(OUTPUT)

        def transform(
            requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
        ) -> Iterator[pb.TransformGraphResponse]:
            self.ids.append(self.metadata["x-request-id"])
            sent = list(requests)
            self.uploads.append(read_upload(iter(sent))[1])
            return (refusal if len(self.uploads) <= refusals else answer)(iter(sent), context)

        super().__init__(transform)


@pytest.fixture(params=["sync", "async"])
def transform(request: pytest.FixtureRequest) -> Any:
    """`transform` of a client made with some arguments, as a function that blocks."""

    def sync_call(address: str, source: Any, made: dict[str, Any] | None = None, **how: Any) -> Any:
        with Client(address, **made or {}) as client:
            return client.transform(source, "cse", **how)

    async def async_call(address: str, source: Any, made: dict[str, Any] | None = None, **how: Any) -> Any:
        async with AsyncClient(address, **made or {}) as client:
            return await client.transform(source, "cse", **how)

    return sync_call if request.param == "sync" else lambda *args, **how: asyncio.run(async_call(*args, **how))


def _pipe() -> io.BufferedReader:
    """A source that can be read once."""
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb") as file:
            file.write(ARCHIVE)

    threading.Thread(target=write).start()
    return os.fdopen(read_end, "rb")


@pytest.mark.parametrize("source", ["bytes", "path", "file", "pipe"])
def test_a_call_that_is_refused_for_now_is_made_again_with_the_whole_upload(transform: Any, tmp_path: Any, source: str) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(ARCHIVE)
    with Refusing(2) as server, path.open("rb") as file, _pipe() as pipe:
        given = {"bytes": ARCHIVE, "path": path, "file": file, "pipe": pipe}[source]
        result = transform(server.address, given)
        assert pipe.read() == (b"" if source == "pipe" else ARCHIVE)
    assert server.uploads == [ARCHIVE] * 3
    assert len(set(server.ids)) == 1
    assert result.to_bytes() == OUTPUT
    assert len(ARCHIVE) < result.bytes_sent < len(ARCHIVE) + 1000


def test_a_caller_is_told_of_each_pause(transform: Any) -> None:
    told: list[events.Event] = []
    with Refusing(2) as server:
        transform(server.address, b"archive", on_event=told.append)
    pauses = [event for event in told if isinstance(event, events.Retrying)]
    assert [(event.reason, event.message) for event in pauses] == [("QUEUE_FULL", "8 wait")] * 2
    after_the_last = told[told.index(pauses[-1]) + 1 :]
    assert events.Uploaded(7, 7) in after_the_last
    assert isinstance(after_the_last[-1], events.Downloaded)


def test_an_output_that_was_half_received_is_dropped(transform: Any) -> None:
    def breaks(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        yield pb.TransformGraphResponse(output_chunk=OUTPUT[:1000])
        yield from fails(grpc.StatusCode.UNAVAILABLE, "draining", reason="SERVER_DRAINING", retry_after=0.1)(requests, context)

    with Refusing(1, breaks) as server:
        assert transform(server.address, b"archive").to_bytes() == OUTPUT


def test_no_more_attempts_are_made_than_the_client_says(transform: Any) -> None:
    for most in (1, 3):
        with Refusing(9) as server, pytest.raises(errors.QueueFull) as caught:
            transform(server.address, b"archive", {"attempts": most})
        assert len(server.uploads) == most
        assert caught.value.retry_after == pytest.approx(0.1)


@pytest.mark.parametrize(
    "refusal",
    [
        fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "no memory", reason="WORKER_OUT_OF_MEMORY"),
        fails(grpc.StatusCode.UNAVAILABLE, "gone"),
        fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "in an hour", reason="QUEUE_FULL", retry_after=3600),
    ],
    ids=["the work failed", "no reason", "in an hour"],
)
def test_what_does_not_say_that_it_may_succeed_soon_is_not_made_again(transform: Any, refusal: Behaviour) -> None:
    with Refusing(1, refusal) as server, pytest.raises(errors.RetracedError):
        transform(server.address, b"archive")
    assert len(server.uploads) == 1


def test_a_pause_that_the_timeout_does_not_leave_time_for_is_not_made(transform: Any) -> None:
    later = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 wait", reason="QUEUE_FULL", retry_after=30)
    began = time.monotonic()
    with Refusing(9, later) as server, pytest.raises(errors.QueueFull):
        transform(server.address, b"archive", timeout=20)
    assert time.monotonic() - began < 10
    assert len(server.uploads) == 1


def test_the_timeout_is_that_of_all_attempts_together(transform: Any) -> None:
    released = threading.Event()

    def hangs(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        left.append(context.time_remaining())
        released.wait(30)
        yield pb.TransformGraphResponse()

    left: list[float] = []
    refusal = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 wait", reason="QUEUE_FULL", retry_after=0.5)
    with Refusing(1, refusal, hangs) as server:
        with pytest.raises(errors.DeadlineExceeded):
            transform(server.address, b"archive", timeout=2)
        released.set()
    assert left[0] < 1.5


def test_what_on_event_raises_at_a_pause_ends_the_call(transform: Any) -> None:
    def on_event(event: events.Event) -> None:
        if isinstance(event, events.Retrying):
            raise KeyError("enough")

    with Refusing(9) as server, pytest.raises(KeyError, match="enough"):
        transform(server.address, b"archive", on_event=on_event)
    assert len(server.uploads) == 1


def test_a_client_that_is_closed_makes_no_more_attempts() -> None:
    later = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 wait", reason="QUEUE_FULL", retry_after=30)
    with Refusing(9, later) as server:
        client = Client(server.address)

        def close(event: events.Event) -> None:
            if isinstance(event, events.Retrying):
                client.close()

        with pytest.raises(errors.Cancelled):
            client.transform(b"archive", "cse", close)


async def test_an_async_client_that_is_closed_makes_no_more_attempts() -> None:
    later = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 wait", reason="QUEUE_FULL", retry_after=30)
    with Refusing(9, later) as server:
        client, pausing = AsyncClient(server.address), asyncio.Event()

        def note(event: events.Event) -> None:
            if isinstance(event, events.Retrying):
                pausing.set()

        call = asyncio.ensure_future(client.transform(b"archive", "cse", note))
        await asyncio.wait_for(pausing.wait(), 10)
        await client.close()
        with pytest.raises(errors.Cancelled):
            await call


def test_questions_are_asked_again_too() -> None:
    refused: list[str] = []

    class Busy(FakeServer):
        def _note(self, context: grpc.ServicerContext) -> None:
            super()._note(context)
            if len(refused) % 2 == 0:
                refused.append(str(self.metadata["x-request-id"]))
                limit = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "2 calls", reason="CALLER_LIMIT_EXCEEDED", retry_after=0.1)
                list(limit(iter(()), context))
            refused.append("")

    async def ask_async(address: str) -> Any:
        async with AsyncClient(address) as client:
            return await client.passes(), await client.info()

    with Busy(answers(OUTPUT)) as server:
        with Client(server.address) as client:
            asked = client.passes(), client.info()
        assert asyncio.run(ask_async(server.address)) == asked
    assert len(refused) == 8


def test_pauses_grow_from_what_the_server_says_and_differ_between_callers() -> None:
    def pauses(retry_after: float) -> list[float]:
        attempts = Attempts(6, None, several=False)
        found = [attempts.after(errors.QueueFull("", retry_after=retry_after)) for _ in range(5)]
        return [retrying.seconds for retrying in found if retrying is not None]

    for least, pause in zip([2, 4, 8, 16, 32], pauses(2), strict=True):
        assert least <= pause <= least * 1.25
    assert max(pauses(50)) <= 75
    assert pauses(0)[0] >= 0.1
    assert pauses(2) != pauses(2)


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_less_than_one_attempt_is_no_number_of_attempts(make: Any) -> None:
    with pytest.raises(ValueError, match="attempts is 1 at least, not 0"):
        make("127.0.0.1:1", attempts=0)
