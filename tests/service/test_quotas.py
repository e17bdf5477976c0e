"""What one caller may have at a time, and that another one is not kept out by it."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import nullcontext
from pathlib import Path

import grpc
import grpc.aio
import pytest

from retraced._feed import TransformCall
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from retraced_server.errors import Reason, RetracedError
from retraced_server.service import quotas
from retraced_server.service.authentication import Authenticator
from retraced_server.service.callers import ANONYMOUS, CallerLimits, Callers
from retraced_server.service.reloaded import Reloaded
from tests.service.conftest import Start, chunk, failure, spec, transform
from tests.service.fake_engine import FakeEngine, fails, waits
from tests.support.waiting import until


def _as(caller: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer token-of-{caller}"),)


@pytest.fixture
def authenticate(tmp_path: Path) -> Authenticator:
    """Knows `first`, who may have two calls, 10 bytes and two crashes, and `second`, who has the server's limits: three calls and 100 bytes."""
    path = tmp_path / "callers.toml"
    first, second = (hashlib.sha256(f"token-of-{name}".encode()).hexdigest() for name in ("first", "second"))
    path.write_text(
        f'[callers.first]\ntoken_sha256 = "{first}"\nmax_requests = 2\nmax_upload = 10\nmax_crashes = 2\n'
        f'[callers.second]\ntoken_sha256 = "{second}"\n'
    )
    limits = CallerLimits(max_requests=3, max_upload_bytes=100, max_crashes=3)
    return Authenticator(Reloaded([path], lambda: Callers.read(path, limits)), limits=limits)


async def _running(channel: grpc.aio.Channel, engine: FakeEngine, caller: str, size: int = 3) -> TransformCall:
    """A call whose job has begun."""
    call = GraphTransformServiceStub(channel).TransformGraph(iter([spec(size), chunk(bytes(size))]), metadata=_as(caller))
    async for response in call:
        if response.HasField("pass_started"):
            break
    return call


async def test_one_caller_has_so_many_calls_at_a_time_and_keeps_nobody_out(
    start: Start, engine: FakeEngine, authenticate: Authenticator
) -> None:
    async with start(authenticate=authenticate) as address, grpc.aio.insecure_channel(address) as channel:
        succeeds, engine.job = engine.job, waits
        running = [await _running(channel, engine, "first") for _ in range(2)]
        error = await failure(channel, metadata=_as("first"))
        assert (error.code, error.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLER_LIMIT_EXCEEDED")
        assert (error.info.metadata["limit"], error.retry_after) == ("2", 1.0)
        engine.job = succeeds
        assert await transform(channel, metadata=_as("second"))
        running[0].cancel()
        await asyncio.wait_for(engine.tickets[0].ended.wait(), 10)
        await until(lambda: _is_served(channel, "first"), "the caller has room again")
        running[1].cancel()


async def _is_served(channel: grpc.aio.Channel, caller: str) -> bool:
    """Whether a call is answered now."""
    try:
        await transform(channel, metadata=_as(caller))
    except grpc.aio.AioRpcError:
        return False
    return True


async def _is_refused(channel: grpc.aio.Channel, caller: str) -> bool:
    return not await _is_served(channel, caller)


async def test_calls_that_have_yet_to_say_what_they_want_count_too(
    start: Start, engine: FakeEngine, authenticate: Authenticator
) -> None:
    async with start(authenticate=authenticate) as address, grpc.aio.insecure_channel(address) as channel:
        silent = [GraphTransformServiceStub(channel).TransformGraph(metadata=_as("first")) for _ in range(2)]
        await asyncio.gather(*(call.wait_for_connection() for call in silent))
        await until(lambda: _is_refused(channel, "first"), "the silent calls are counted")
        assert (await failure(channel, metadata=_as("first"))).info.reason == "CALLER_LIMIT_EXCEEDED"
        for call in silent:
            call.cancel()


async def test_archives_of_one_caller_have_so_many_bytes_together(
    start: Start, engine: FakeEngine, authenticate: Authenticator
) -> None:
    async with start(authenticate=authenticate) as address, grpc.aio.insecure_channel(address) as channel:
        succeeds, engine.job = engine.job, waits
        running = await _running(channel, engine, "first", 6)
        admitted = len(engine.tickets)
        error = await failure(channel, [spec(5)], metadata=_as("first"))
        assert (error.info.reason, error.info.metadata["limit"]) == ("CALLER_LIMIT_EXCEEDED", "10")
        assert error.retry_after == 1.0
        assert len(engine.tickets) == admitted
        engine.job = succeeds
        assert await transform(channel, [spec(4), chunk(bytes(4))], metadata=_as("first"))
        assert await transform(channel, [spec(100), chunk(bytes(100))], metadata=_as("second"))
        running.cancel()
        await asyncio.wait_for(engine.tickets[0].ended.wait(), 10)
        assert await transform(channel, [spec(10), chunk(bytes(10))], metadata=_as("first"))


async def test_an_archive_that_never_fits_is_refused_for_good(start: Start, authenticate: Authenticator) -> None:
    async with start(authenticate=authenticate) as address, grpc.aio.insecure_channel(address) as channel:
        error = await failure(channel, [spec(11)], metadata=_as("first"))
    assert (error.info.reason, error.retry_after) == ("PROGRAM_TOO_LARGE", None)
    assert error.info.metadata["limit_of"] == "caller"
    assert error.violations[0][0] == "spec.archive_size"


async def test_without_authentication_all_are_one_caller(start: Start, engine: FakeEngine) -> None:
    authenticate = Authenticator(limits=CallerLimits(max_requests=1))
    async with (
        start(authenticate=authenticate) as address,
        grpc.aio.insecure_channel(address) as channel,
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        engine.job = waits
        running = await _running(channel, engine, "first")
        assert (await failure(other, metadata=_as("second"))).info.reason == "CALLER_LIMIT_EXCEEDED"
        running.cancel()


async def test_caller_whose_programs_crash_workers_is_refused_for_a_while_and_keeps_nobody_out(
    start: Start, engine: FakeEngine, authenticate: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(authenticate=authenticate) as address, grpc.aio.insecure_channel(address) as channel:
        succeeds, engine.job = engine.job, fails(RetracedError(Reason.WORKER_CRASHED, "crashed"))
        for _ in range(2):
            assert (await failure(channel, metadata=_as("first"))).info.reason == "WORKER_CRASHED"
        engine.job = succeeds
        error = await failure(channel, metadata=_as("first"))
        assert (error.code, error.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLER_LIMIT_EXCEEDED")
        assert error.info.metadata["limit"] == "2"
        assert error.retry_after is not None
        assert 590 < error.retry_after <= 600
        assert await transform(channel, metadata=_as("second"))
        monkeypatch.setattr(quotas, "_CRASHES_COUNT_SECONDS", 0.0)
        assert await transform(channel, metadata=_as("first"))


async def test_failure_that_is_no_crash_is_not_counted_as_one(
    start: Start, engine: FakeEngine, authenticate: Authenticator
) -> None:
    async with start(authenticate=authenticate) as address, grpc.aio.insecure_channel(address) as channel:
        for reason in (Reason.PROGRAM_INVALID, Reason.SANDBOX_OPERATION_DENIED):
            engine.job = fails(RetracedError(reason, "not taken"))
            for _ in range(4):
                assert (await failure(channel, metadata=_as("first"))).info.reason == reason.value


@pytest.mark.parametrize(
    ("peers", "refused"),
    [
        (("ipv4:192.0.2.1:1000", "ipv4:192.0.2.1:2000"), True),
        (("ipv4:192.0.2.1:1000", "ipv4:192.0.2.2:1000"), False),
        (("ipv6:%5B2001:db8::1%5D:1000", "ipv6:%5B2001:db8::2%5D:1000"), True),
        (("ipv6:%5B2001:db8::1%5D:1000", "ipv6:%5B2001:db8:0:1::1%5D:1000"), False),
        (("unix:", "unix:"), True),
    ],
)
def test_callers_without_a_name_are_told_apart_by_address_where_workers_crash(peers: tuple[str, str], refused: bool) -> None:
    kept, limits = quotas.Quotas(), CallerLimits(max_crashes=1)
    with pytest.raises(RetracedError, match="crashed"), kept.crashes(ANONYMOUS, peers[0], limits):
        raise RetracedError(Reason.WORKER_CRASHED, "crashed")
    expected = (
        pytest.raises(RetracedError, match="1 workers that ran programs of this caller have crashed")
        if refused
        else nullcontext()
    )
    with expected, kept.crashes(ANONYMOUS, peers[1], limits):
        pass
