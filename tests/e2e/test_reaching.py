"""How clients reach real servers: one that starts, one that is busy, and several of which one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from retraced import Client, EmbeddedServer, events
from tests.support.models import by_name
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_SERVED = ["--workers", "1", "--import", "tests.support.served_passes"]


def _transforms(server: EmbeddedServer) -> int:
    return server.log.count("TransformGraph")


def test_calls_go_to_both_servers_and_on_when_one_is_killed(server: EmbeddedServer) -> None:
    archive = by_name("input_and_id").archive
    with EmbeddedServer(_SERVED) as one, Client([one.address, server.address]) as client:
        client.wait_ready(60)
        before = _transforms(server)

        def both_were_called() -> bool:
            client.transform(archive, "retrace")
            return _transforms(one) > 1 and _transforms(server) > before + 1

        eventually(both_were_called, "both servers get calls")
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        for _ in range(6):
            assert not client.transform(archive, ["retrace", "retrace"]).modified


def test_a_server_that_starts_is_waited_for_and_then_takes_requests() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "retraced_server", "--port", str(port), *_SERVED]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{port}", attempts=1) as client:
            client.wait_ready(120)
            assert not client.transform(by_name("input_and_id").archive, "retrace").modified
    finally:
        process.terminate()
        process.wait()


def test_a_full_queue_is_come_back_to(narrow: EmbeddedServer) -> None:
    told: list[events.Event] = []
    with Client(narrow.address) as client, ThreadPoolExecutor(4) as threads:
        results = threads.map(
            lambda _: client.transform(by_name("input_and_id").archive, "wait{seconds=0.5}", told.append), range(4)
        )
        assert [result.modified for result in results] == [False] * 4
    assert {event.reason for event in told if isinstance(event, events.Retrying)} == {"QUEUE_FULL"}
