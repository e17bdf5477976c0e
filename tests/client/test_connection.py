"""How clients connect: with TLS, with a token, and never with a token that everybody can read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retraced import AsyncClient, Client, Tls, errors
from retraced._connection import connection, is_local
from tests.client.fake_server import FakeServer, answers
from tests.support.certificates import Authority

Call = Callable[..., None]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Makes each of the three calls once, by either client."""

    def by_sync(address: str, **how: Any) -> None:
        with Client(address, **how) as client:
            client.info()
            client.passes()
            client.transform(b"archive", "cse", want_output=False)

    async def by_async(address: str, **how: Any) -> None:
        async with AsyncClient(address, **how) as client:
            await client.info()
            await client.passes()
            await client.transform(b"archive", "cse", want_output=False)

    return by_sync if request.param == "sync" else lambda *args, **how: asyncio.run(by_async(*args, **how))


def test_a_token_goes_with_every_call(call: Call) -> None:
    with FakeServer(answers(b"")) as server:
        call(server.address, token="the-token")
        call(server.address)
    assert server.callers == [("Bearer the-token", None)] * 3 + [(None, None)] * 3


def test_a_client_shows_its_certificate_and_checks_the_servers(call: Call, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.pair("me.example", common_name="me", file="own")
    with FakeServer(answers(b""), authority.server_credentials()) as server:
        call(server.address, token="the-token", tls=authority.tls(own))
        for tls in (None, Tls(), authority.tls(), Authority(tmp_path / "others").tls(own)):
            with pytest.raises(errors.ServerUnreachable):
                call(server.address, tls=tls)
    assert server.callers == [("Bearer the-token", b"me")] * 3


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address", ["example.com:50051", "10.0.0.1:50051", "127.example.com:1", "dns:///localhost:1", "[2001:db8::1]:1"]
)
def test_a_token_does_not_go_over_the_network_in_plain_text(make: Callable[..., object], address: str) -> None:
    with pytest.raises(errors.CredentialsInvalid, match="in plain text") as caught:
        make(address, token="the-token")
    assert "the-token" not in str(caught.value)
    assert connection(address, "the-token", Tls(), False, None).metadata("x")[1:] == (("authorization", "Bearer the-token"),)
    assert connection(address, "the-token", None, True, None).metadata("x")[1:] == (("authorization", "Bearer the-token"),)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/run/x.sock", "unix-abstract:x"]
)
def test_what_stays_on_this_machine_needs_no_tls(address: str) -> None:
    assert is_local(address)
    connection(address, "the-token", None, False, None)


@pytest.mark.parametrize("token", ["", "two words", "line\n", "é", "\x00"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(errors.CredentialsInvalid, match="the token cannot be sent: it is empty, or has other"):
        Client("127.0.0.1:1", token=token)


def test_a_token_is_not_shown_by_a_client(tmp_path: Path) -> None:
    assert "the-token" not in repr(connection("127.0.0.1:1", "the-token", None, False, None))


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("hello")
    for ca, said in ((tmp_path / "nothing", "cannot read .*nothing: No such file"), (no_pem, "no.pem is no PEM file")):
        with pytest.raises(errors.CredentialsInvalid, match=said):
            Client("127.0.0.1:1", tls=Tls(ca))
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate=no_pem)
