"""The address for an operator's tools: metrics, and whether the server lives and is ready."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from retraced_server.service import monitor as module
from retraced_server.service.listen import AddressError
from retraced_server.service.monitor import Monitor


class Things(Collector):
    """Has no time of creation, which a `Counter` would have where no other module has turned that off."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily("things", "Things.", value=3)


class Told:
    def __init__(self) -> None:
        self.obstacles: list[str] = []
        self.registry = CollectorRegistry()
        self.registry.register(Things())


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def port(told: Told) -> AsyncIterator[int]:
    monitor = Monitor(told.registry, lambda: told.obstacles)
    yield int(monitor.start("127.0.0.1", 0).rpartition(":")[2])
    await monitor.stop()
    await monitor.stop()


def _get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def test_metrics_are_in_the_format_of_prometheus(port: int) -> None:
    status, text = await asyncio.to_thread(_get, port, "/metrics")
    assert status == 200
    (things,) = text_string_to_metric_families(text)
    assert {sample.name: sample.value for sample in things.samples} == {"things_total": 3}


async def test_ready_is_what_has_no_obstacles_and_else_they_are_said(port: int, told: Told) -> None:
    assert await asyncio.to_thread(_get, port, "/readyz") == (200, "ok\n")
    told.obstacles = ["the zygote is gone", "the disk is full"]
    assert await asyncio.to_thread(_get, port, "/readyz") == (503, "the zygote is gone\nthe disk is full\n")
    assert await asyncio.to_thread(_get, port, "/livez") == (200, "ok\n")


async def test_a_server_that_is_stuck_does_not_live(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOP_SECONDS", 0.1)
    # Not in a thread: the event loop is held up until the answer is there.
    assert _get(port, "/livez") == (503, "the server has not answered for 0.1 s\n")
    assert _get(port, "/metrics")[0] == 200


async def test_other_paths_are_not_found_and_what_is_no_http_does_no_harm(port: int) -> None:
    for path in ("/", "/metrics/", "/readyz/x", "/favicon.ico"):
        assert (await asyncio.to_thread(_get, port, path))[0] == 404
    for data in (b"\x00" * 100, b"GET", b""):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(data)
    assert (await asyncio.to_thread(_get, port, "/livez"))[0] == 200


async def test_an_address_of_ip_version_6_is_taken(told: Told) -> None:
    monitor = Monitor(told.registry, list)
    url = monitor.start("::1", 0)
    assert url.startswith("http://[::1]:")
    assert (await asyncio.to_thread(_get, int(url.rpartition(":")[2]), "/livez", "::1"))[0] == 200
    await monitor.stop()


async def test_an_address_that_is_taken_is_named(port: int, told: Told) -> None:
    with pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1:{port} for metrics: Address already in use"):
        Monitor(told.registry, list).start("127.0.0.1", port)
    with pytest.raises(AddressError, match=r"no-such-host\.invalid"):
        Monitor(told.registry, list).start("no-such-host.invalid", 0)
