"""`wait_ready`: until a server would take a request, by the standard health service."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from retraced import AsyncClient, Client, errors

_SERVICE = "retraced.v1.GraphTransformService"
Wait = Callable[..., None]


@pytest.fixture(params=["sync", "async"])
def wait(request: pytest.FixtureRequest) -> Wait:
    """`wait_ready` of one client or the other, as a function that blocks."""

    def by_sync(address: Any, timeout: float | None, made: Mapping[str, Any] = MappingProxyType({})) -> None:
        with Client(address, **made) as client:
            client.wait_ready(timeout)

    async def by_async(address: Any, timeout: float | None, made: Mapping[str, Any] = MappingProxyType({})) -> None:
        async with AsyncClient(address, **made) as client:
            await client.wait_ready(timeout)

    return by_sync if request.param == "sync" else lambda *args, **how: asyncio.run(by_async(*args, **how))


class Checked:
    """A server with the standard health service of others, and nothing else; a context manager."""

    def __init__(self, port: int = 0) -> None:
        self._health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"

    def serve(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._health.set(_SERVICE, status)

    def __enter__(self) -> Checked:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


def test_a_server_that_serves_is_ready_at_once(wait: Wait) -> None:
    with Checked() as server:
        server.serve(True)
        wait(server.address, 10)


def test_a_server_that_is_there_and_does_not_serve_is_waited_for(wait: Wait) -> None:
    with Checked() as server:
        server.serve(False)
        timer = threading.Timer(0.7, server.serve, [True])
        timer.start()
        began = time.monotonic()
        wait(server.address, 30)
        assert time.monotonic() - began > 0.6


def test_a_server_that_is_not_there_yet_is_waited_for(wait: Wait) -> None:
    with Checked() as before:
        port = before.port
    started: list[Checked] = []

    def start() -> None:
        server = Checked(port)
        server.serve(True)
        started.append(server.__enter__())

    timer = threading.Timer(1.0, start)
    timer.start()
    wait(f"127.0.0.1:{port}", 60)
    timer.join()
    started[0].__exit__()


def test_one_server_of_several_is_enough(wait: Wait) -> None:
    with Checked() as one, Checked() as other:
        one.serve(False)
        other.serve(True)
        wait([one.address, other.address, "127.0.0.1:1"], 30)


def test_a_server_that_does_not_serve_in_time_is_told_from_one_that_is_not_there(wait: Wait) -> None:
    with Checked() as server:
        server.serve(False)
        with pytest.raises(errors.ServerNotReady, match=f"{server.address} was not ready within 0.5 s: it answers, and says"):
            wait(server.address, 0.5)
    with pytest.raises(errors.ServerNotReady, match=r"127.0.0.1:1 was not ready within 0.5 s: no connection .* refused"):
        wait("127.0.0.1:1", 0.5)


def test_a_server_that_never_answers_is_given_up_in_time(wait: Wait) -> None:
    # It takes the connection, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(errors.ServerNotReady, match=r"within 0.5 s"):
        wait(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)


def test_the_clients_timeout_is_that_of_the_wait_too(wait: Wait) -> None:
    with Checked() as server:
        server.serve(False)
        with pytest.raises(errors.ServerNotReady, match=r"within 0.3 s"):
            wait(server.address, timeout=None, made={"timeout": 0.3})


def test_what_is_no_retraced_server_is_not_waited_for(wait: Wait) -> None:
    with Checked() as server, pytest.raises(errors.ServerError, match="NOT_FOUND"):
        wait(server.address, 60)


def test_a_client_that_is_closed_does_not_wait() -> None:
    with Checked() as server:
        server.serve(False)
        client = Client(server.address)
        timer = threading.Timer(0.5, client.close)
        timer.start()
        with pytest.raises((errors.Cancelled, ValueError)):
            client.wait_ready(60)
        with pytest.raises(ValueError, match="closed"):
            client.wait_ready(60)
