"""Connections that say nothing, do nothing or never end lock nobody out, and a peer has only so many."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from functools import partial
from typing import Any

import pytest

from retraced import AsyncClient, errors
from retraced_server.service.connections import ConnectionLimits, peer_of
from tests.service.conftest import Start
from tests.support import http2
from tests.support.waiting import until

_STRANGER = "127.0.0.2"
_WATCH = http2.call(b"/grpc.health.v1.Health/Watch")


async def _is_served(address: str) -> bool:
    async with AsyncClient(address, attempts=1, timeout=5, channel_options={"grpc.use_local_subchannel_pool": 1}) as client:
        try:
            return len(await client.passes()) == 2
        except errors.ServerUnavailable:
            return False


def _silent(address: str, source: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), source_address=(source, 0))


def _is_open(connected: socket.socket) -> bool:
    connected.setblocking(False)
    try:
        while connected.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


async def test_more_connections_than_the_total_are_refused_until_one_ends(start: Start) -> None:
    limits = ConnectionLimits(total=4, per_peer=0)
    async with start(connections=limits) as address:
        with contextlib.ExitStack() as held:
            first, *_ = [held.enter_context(http2.connection(address)) for _ in range(4)]
            await until(lambda: _refused(address), "the fifth connection is refused")
            assert _is_open(first)
            first.close()
            await until(lambda: _is_served(address), "there is room again")


async def _refused(address: str) -> bool:
    return not await _is_served(address)


async def test_connections_that_say_nothing_make_room_after_the_handshakes_time(start: Start) -> None:
    limits = ConnectionLimits(total=8, per_peer=0, handshake_seconds=1.0)
    async with start(connections=limits) as address:
        with contextlib.ExitStack() as held:
            silent = [held.enter_context(_silent(address, _STRANGER)) for _ in range(30)]
            await until(lambda: not any(map(_is_open, silent)), "all are closed")
            assert await _is_served(address)


async def test_connections_without_calls_make_room_after_the_idle_time(start: Start) -> None:
    limits = ConnectionLimits(total=8, per_peer=0, idle_seconds=1.0)
    async with start(connections=limits) as address:
        with contextlib.ExitStack() as held:
            idle = [held.enter_context(http2.connection(address, _STRANGER)) for _ in range(30)]
            await until(lambda: not any(map(_is_open, idle)), "all are closed")
            assert await _is_served(address)


async def test_a_client_whose_idle_connection_was_closed_is_served_again(start: Start) -> None:
    async with start(connections=ConnectionLimits(idle_seconds=0.5)) as address, AsyncClient(address, attempts=1) as client:
        for _ in range(3):
            assert len(await client.passes()) == 2
            await asyncio.sleep(1.2)


async def test_a_peer_whose_calls_never_end_leaves_room_for_others(start: Start) -> None:
    limits = ConnectionLimits(total=20, per_peer=5)
    async with start(connections=limits) as address:
        with contextlib.ExitStack() as held:
            watching = [held.enter_context(http2.connection(address, _STRANGER)) for _ in range(20)]
            for connected in watching:
                with contextlib.suppress(OSError):
                    connected.sendall(_WATCH)
            await until(lambda: sum(map(_is_open, watching)) == 5, "the others of the peer are closed")
            for _ in range(5):
                assert await _is_served(address)
            assert sum(map(_is_open, watching)) == 5


def _none_is_open(connections: list[socket.socket]) -> bool:
    return not any(map(_is_open, connections))


async def test_the_connections_that_a_peer_had_first_stay(start: Start, log: list[Any]) -> None:
    limits = ConnectionLimits(per_peer=3)
    async with start(connections=limits) as address:
        with contextlib.ExitStack() as held:
            first = [held.enter_context(http2.connection(address, _STRANGER)) for _ in range(3)]
            await asyncio.sleep(1)
            for _ in range(2):
                later = [held.enter_context(http2.connection(address, _STRANGER)) for _ in range(2)]
                await until(partial(_none_is_open, later), "the later ones are closed")
            assert all(map(_is_open, first))
    lines = [entry for entry in log if entry["event"] == "a peer has too many connections"]
    assert {(line["peer"], line["most"]) for line in lines} == {(_STRANGER, 3)}
    # One each time that the peer begins to have too many, not one each look.
    assert 1 <= len(lines) <= 2


async def test_a_peer_may_come_and_go_as_often_as_it_likes(start: Start) -> None:
    async with start(connections=ConnectionLimits(total=8, per_peer=4)) as address:
        for _ in range(50):
            with http2.connection(address, _STRANGER) as connected:
                connected.sendall(http2.call(b"/grpc.health.v1.Health/Check"))
                await asyncio.to_thread(http2.read_to_end, connected)
        assert await _is_served(address)


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_peer_is_an_ipv4_address_or_an_ipv6_network(host: str, peer: str) -> None:
    assert peer_of(host) == peer


def test_the_limit_of_open_files_has_room_for_the_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        ConnectionLimits(total=10).reserve_descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert hard == before[1]
        assert soft > 266 or soft == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
