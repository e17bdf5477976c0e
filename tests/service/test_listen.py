"""Where a server listens, and what it says when it cannot."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc.aio
import pytest

from retraced import AsyncClient
from retraced_server.service.front_end import FrontEnd
from retraced_server.service.listen import AddressError, listen
from tests.service.conftest import LIMITS, SPOOL_MEMORY
from tests.service.fake_engine import FakeEngine


def _front_end(folder: Path) -> FrontEnd:
    return FrontEnd(FakeEngine(), LIMITS, folder, SPOOL_MEMORY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "0.0.0.0", "unix"])
async def test_a_client_reaches_the_address_that_is_given_back(tmp_path: Path, host: str) -> None:
    front_end = _front_end(tmp_path)
    address = front_end.listen(f"unix:{tmp_path}/socket" if host == "unix" else host, 0)
    await front_end.start()
    front_end.open()
    try:
        async with AsyncClient(address) as client:
            assert len(await client.passes()) == 2
    finally:
        await front_end.stop()
    assert address.startswith(f"unix:{tmp_path}" if host == "unix" else ("[::1]:" if ":" in host else f"{host}:"))


async def test_a_port_that_is_taken_is_named_with_the_cause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}: Address already in use"):
            listen(grpc.aio.server(), "127.0.0.1", port)


async def test_a_port_of_another_retraced_server_is_taken(tmp_path: Path) -> None:
    first, second = _front_end(tmp_path), _front_end(tmp_path)
    port = int(first.listen("127.0.0.1", 0).rpartition(":")[2])
    await first.start()
    try:
        with pytest.raises(AddressError, match="Address already in use"):
            second.listen("127.0.0.1", port)
    finally:
        await first.stop()


async def test_a_unix_socket_of_a_running_server_is_taken_and_one_that_was_left_behind_is_not(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    first = _front_end(tmp_path)
    assert first.listen(address, 0) == address
    await first.start()
    try:
        with pytest.raises(AddressError, match="another server"):
            _front_end(tmp_path).listen(address, 0)
    finally:
        await first.stop()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("203.0.113.7", "Cannot assign requested address"),
        ("no-such-host.invalid", "no-such-host.invalid:0: "),
        ("unix:/no/such/folder/socket", "No such file or directory"),
        ("unix:/" + "x" * 200, "too long"),
    ],
)
async def test_an_address_that_is_none_of_this_machines_is_named_with_the_cause(host: str, said: str) -> None:
    with pytest.raises(AddressError) as caught:
        listen(grpc.aio.server(), host, 0)
    assert said in str(caught.value)
    assert host in str(caught.value)
