"""Who is answered, and what those hear who are not."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from retraced import AsyncClient, errors
from retraced_server import healthcheck
from retraced_server.service import convert
from retraced_server.service.authentication import Authenticator
from retraced_server.service.callers import NO_LIMITS, Callers
from retraced_server.service.credentials import TlsFiles, server_credentials
from retraced_server.service.reloaded import Reloaded
from tests.service.conftest import LIMITS, Start, chunk, decode, failure, spec, transform
from tests.service.fake_engine import FakeEngine
from tests.support.certificates import Authority

TOKEN = "nobody-else-knows-this"
KNOWN = (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture
def callers(tmp_path: Path) -> Reloaded[Callers]:
    path = tmp_path / "callers.toml"
    path.write_text(
        f"""
        [callers.nightly]
        token_sha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"
        max_archive_size = "100B"

        [callers.notebooks]
        certificate = "notebooks.example"
        """
    )
    return Reloaded([path], lambda: Callers.read(path, NO_LIMITS))


async def test_a_caller_with_its_token_is_answered_and_named_in_the_log(
    start: Start, callers: Reloaded[Callers], log: list[Any]
) -> None:
    async with (
        start(authenticate=Authenticator(callers)) as address,
        grpc.aio.insecure_channel(address) as channel,
        AsyncClient(address, token=TOKEN) as client,
    ):
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert await transform(channel, metadata=(("authorization", f"{scheme} {TOKEN}"),))
        assert len(await client.passes()) == 2
    assert [(entry["caller"], entry["code"]) for entry in log] == [("nightly", "OK")] * 4
    assert TOKEN not in str(log)


async def test_nobody_else_is_answered_and_all_hear_the_same(
    start: Start, callers: Reloaded[Callers], engine: FakeEngine, log: list[Any]
) -> None:
    async with start(authenticate=Authenticator(callers)) as address, grpc.aio.insecure_channel(address) as channel:
        wrong = (
            (),
            (("authorization", TOKEN),),
            (("authorization", "Bearer "),),
            (("authorization", "Bearer"),),
            (("authorization", f"Basic {TOKEN}"),),
            (("authorization", f"Bearer {TOKEN[:-1]}"),),
            (("authorization", f"Bearer {TOKEN}x"),),
            (("authorization", f"Bearer  {TOKEN}"),),
            (("authorization", f"Bearer {hashlib.sha256(TOKEN.encode()).hexdigest()}"),),
            (*KNOWN, *KNOWN),
        )
        refused = [await failure(channel, metadata=(*metadata, ("x-request-id", "mine"))) for metadata in wrong]
        for method in ("ListPasses", "GetServerInfo"):
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{convert.SERVICE}/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", metadata=(("x-request-id", "mine"),))
            refused.append(decode(caught.value))
        async with AsyncClient(address, token="another") as client:
            with pytest.raises(errors.Unauthenticated):
                await client.info()
    assert {(error.code, error.info.reason, error.message, str(error.info.metadata)) for error in refused} == {
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", refused[0].message, str({"request_id": "mine"}))
    }
    assert engine.tickets == []
    assert {(entry["caller"], entry["reason"]) for entry in log} == {("unknown", "UNAUTHENTICATED")}
    assert TOKEN[:-1] not in str(log)


async def test_a_caller_of_a_bad_request_is_named_too(start: Start, callers: Reloaded[Callers], log: list[Any]) -> None:
    async with start(authenticate=Authenticator(callers)) as address, grpc.aio.insecure_channel(address) as channel:
        error = await failure(channel, metadata=(*KNOWN, ("x-request-id", "x" * 200)))
        assert error.info.reason == "PROTOCOL_VIOLATION"
        # Who is not known hears only that.
        assert (await failure(channel, metadata=(("x-request-id", "x" * 200),))).info.reason == "UNAUTHENTICATED"
    assert [entry["caller"] for entry in log] == ["nightly", "unknown"]


async def test_health_needs_no_token(start: Start, callers: Reloaded[Callers]) -> None:
    async with start(authenticate=Authenticator(callers)) as address:
        assert await asyncio.to_thread(healthcheck.main, [address]) == 0


async def test_a_token_goes_before_the_name_of_a_certificate(
    start: Start, callers: Reloaded[Callers], tmp_path: Path, log: list[Any]
) -> None:
    authority = Authority(tmp_path / "certificates")
    served, known, unknown = (
        authority.pair("127.0.0.1"),
        authority.pair("notebooks.example", file="known"),
        authority.pair("elsewhere.example", file="unknown"),
    )
    credentials = server_credentials(TlsFiles(served.certificate, served.key, authority.path))
    async with start(authenticate=Authenticator(callers, certificates=True), credentials=credentials) as address:
        for own, token in ((known, None), (known, TOKEN), (unknown, TOKEN)):
            async with AsyncClient(address, token=token, tls=authority.tls(own)) as client:
                await client.info()
        for own, token in ((unknown, None), (known, "another")):
            async with AsyncClient(address, token=token, tls=authority.tls(own)) as client:
                with pytest.raises(errors.Unauthenticated, match="a client certificate"):
                    await client.info()
    assert [entry["caller"] for entry in log] == ["notebooks", "nightly", "nightly", "unknown", "unknown"]


async def test_a_caller_has_the_limits_of_its_own(start: Start, callers: Reloaded[Callers]) -> None:
    async with start(authenticate=Authenticator(callers)) as address, grpc.aio.insecure_channel(address) as channel:
        assert await transform(channel, [spec(100), chunk(bytes(100))], metadata=KNOWN)
        error = await failure(channel, [spec(101)], metadata=KNOWN)
    assert (error.info.reason, error.info.metadata["limit"]) == ("PROGRAM_TOO_LARGE", "100")
    assert error.message == "the archive has 101 bytes; this caller may send at most 100"
    assert error.info.metadata["limit_of"] == "caller"


async def test_a_limit_of_the_server_is_told_as_such(start: Start) -> None:
    async with start(authenticate=Authenticator()) as address, grpc.aio.insecure_channel(address) as channel:
        error = await failure(channel, [spec(LIMITS.max_archive_bytes + 1)])
    assert error.message.endswith(f"this server takes at most {LIMITS.max_archive_bytes}")
    assert error.info.metadata["limit_of"] == "server"
