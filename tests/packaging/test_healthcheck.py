"""The container's health check, against the standard health service."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from retraced_server import healthcheck

Serving = health_pb2.HealthCheckResponse


@pytest.fixture
def service() -> Iterator[tuple[health.HealthServicer, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_serving_server_is_healthy(
    service: tuple[health.HealthServicer, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, address = service
    servicer.set("", Serving.SERVING)
    monkeypatch.setenv("RETRACED_PORT", address.rpartition(":")[2])

    assert healthcheck.main([]) == 0
    assert capsys.readouterr().out == f"{address}: SERVING\n"


def test_a_draining_server_is_not_healthy(service: tuple[health.HealthServicer, str]) -> None:
    servicer, address = service
    servicer.set("", Serving.NOT_SERVING)

    assert healthcheck.main([address]) == 1


def test_a_server_that_is_not_there_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main(["127.0.0.1:1"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "port", "health_port", "asked"),
    [
        ("0.0.0.0", "1", "", "127.0.0.1:1"),
        ("0.0.0.0", "2", "1", "127.0.0.1:1"),
        ("::", "1", "", "[::1]:1"),
        ("[::1]", "1", "", "[::1]:1"),
        ("unix:/no/such/socket", "", "", "unix:/no/such/socket"),
        ("unix:/no/such/socket", "", "1", "127.0.0.1:1"),
    ],
)
def test_it_asks_where_the_servers_own_settings_say(
    host: str, port: str, health_port: str, asked: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRACED_HOST", host)
    monkeypatch.setenv("RETRACED_PORT", port)
    monkeypatch.setenv("RETRACED_HEALTH_PORT", health_port)

    assert healthcheck.main([]) == 1
    assert capsys.readouterr().err.startswith(f"{asked}: ")
