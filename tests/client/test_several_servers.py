"""Calls to several servers go to each in turn, and on when one is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from retraced import AsyncClient, Client, Tls, errors
from retraced._connection import connection, is_local
from tests.client.fake_server import FakeServer, answers, fails
from tests.support.certificates import Authority

Calls = Callable[..., None]
_PATIENCE = 10.0


@pytest.fixture(params=["sync", "async"])
def calls(request: pytest.FixtureRequest) -> Calls:
    """Makes calls by one client or the other until something holds, which it does not give up soon."""

    def by_sync(until: Callable[[], bool], address: Any, **how: Any) -> None:
        with Client(address, **how) as client:
            for _ in _while(until):
                client.transform(b"archive", "cse", want_output=False)

    async def by_async(until: Callable[[], bool], address: Any, **how: Any) -> None:
        async with AsyncClient(address, **how) as client:
            for _ in _while(until):
                await client.transform(b"archive", "cse", want_output=False)

    return by_sync if request.param == "sync" else lambda *args, **how: asyncio.run(by_async(*args, **how))


def _while(until: Callable[[], bool]) -> Iterator[None]:
    # A connection to the second server may come a moment after that to the first.
    deadline = time.monotonic() + _PATIENCE
    while not until():
        assert time.monotonic() < deadline
        yield


def _fake() -> FakeServer:
    return FakeServer(answers(b""))


@pytest.mark.parametrize("written", [list, ",".join, lambda both: f"ipv4:{','.join(both)}"], ids=["list", "text", "target"])
def test_every_server_gets_calls(calls: Calls, written: Callable[[list[str]], Any]) -> None:
    with _fake() as one, _fake() as other:
        calls(lambda: min(len(one.callers), len(other.callers)) > 2, written([one.address, other.address]))


def test_calls_go_on_when_a_server_is_gone(calls: Calls) -> None:
    with _fake() as one, _fake() as other:
        gone = 0

        def until() -> bool:
            nonlocal gone
            if not gone and len(one.callers) > 2 and len(other.callers) > 2:
                one.stop()
                gone = len(other.callers)
            return bool(gone) and len(other.callers) > gone + 10

        calls(until, [one.address, other.address])


def test_a_call_that_is_lost_with_its_server_is_made_again_on_another(calls: Calls) -> None:
    # As gRPC has it: UNAVAILABLE, without a word of the server's.
    with FakeServer(fails(grpc.StatusCode.UNAVAILABLE, "Socket closed")) as losing, _fake() as other:
        calls(lambda: len(losing.callers) > 0 and len(other.callers) > 2, [losing.address, other.address])


def test_servers_that_are_all_gone_are_unreachable_after_the_attempts(calls: Calls) -> None:
    for attempts in (1, 3):
        with pytest.raises(errors.ServerUnreachable, match=r"no connection to the server at 127.0.0.1:1,127.0.0.1:2"):
            calls(lambda: False, ["127.0.0.1:1", "127.0.0.1:2"], attempts=attempts)


def test_the_environment_names_several_servers(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    with _fake() as one, _fake() as other:
        monkeypatch.setenv("RETRACED_SERVER", f"{one.address},{other.address}")
        calls(lambda: min(len(one.callers), len(other.callers)) > 0, None)


def test_several_servers_with_tls_have_a_name_in_common(calls: Calls, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.pair("me.example", common_name="me", file="own")

    def secured(name: str) -> FakeServer:
        return FakeServer(answers(b""), authority.server_credentials(name))

    def tls(name: str | None) -> Tls:
        return Tls(authority.path, own.certificate, own.key, name)

    with secured("build.example") as one, secured("build.example") as other:
        both = [one.address, other.address]
        calls(lambda: min(len(one.callers), len(other.callers)) > 2, both, token="the-token", tls=tls("build.example"))
        assert set(one.callers) == set(other.callers) == {("Bearer the-token", b"me")}
        with pytest.raises(errors.ServerUnreachable):
            calls(lambda: False, both, tls=tls("other.example"))
        with pytest.raises(errors.CredentialsInvalid, match="have to have a name in common"):
            calls(lambda: False, both, tls=tls(None))
    with secured("localhost") as named:
        port = named.address.rpartition(":")[2]
        calls(lambda: len(named.callers) > 2, f"dns:///localhost:{port}", tls=tls(None))


@pytest.mark.parametrize("address", ["a.example:1,b.example:1", "127.0.0.1:1,localhost:1", "10.0.0.1:1,[::1]:1", "10.0.0.1:1,"])
def test_what_the_balancer_cannot_reach_is_refused(address: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(errors.AddressInvalid, match="several addresses are IP addresses with ports"):
            make(address)


@pytest.mark.parametrize(
    ("address", "target", "balanced"),
    [
        ("10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1", True),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", True),
        ("dns:///build.example:1", "dns:///build.example:1", True),
        ("build.example:1", "build.example:1", True),
        ("127.0.0.1:1", "127.0.0.1:1", False),
        ("unix:/run/x.sock", "unix:/run/x.sock", False),
    ],
)
def test_names_and_lists_are_balanced(address: str, target: str, balanced: bool) -> None:
    made = connection(address, None, None, False, None)
    assert made._target == target
    assert ("grpc.service_config" in dict(made._options)) is balanced


def test_a_list_is_local_where_all_of_it_is() -> None:
    assert is_local("127.0.0.1:1,127.0.0.1:2")
    assert not is_local("127.0.0.1:1,10.0.0.1:2")
    with pytest.raises(errors.CredentialsInvalid, match="in plain text"):
        Client("127.0.0.1:1,10.0.0.1:2", token="the-token")
