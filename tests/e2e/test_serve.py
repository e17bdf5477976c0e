"""The server as a process: how it starts, says that it is ready, and ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from retraced import AsyncClient, Client, errors
from tests.e2e.conftest import server_arguments
from tests.e2e.processes import Observed
from tests.support.models import by_name
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_RETRACED = str(Path(sys.executable).with_name("retraced"))


@contextmanager
def _serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `retraced serve` until the context ends, and gives its process and address."""
    command = [_RETRACED, "serve", "--port", "0", *server_arguments(*arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("retraced: listening on 127.0.0.1:"), process.communicate()
            yield process, line.removeprefix("retraced: listening on ").strip()
        finally:
            process.kill()


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_sigterm_lets_running_requests_end_and_refuses_new_ones() -> None:
    archive = by_name("input_and_id").archive

    async def run(process: subprocess.Popen[str], address: str) -> None:
        observed = Observed(process.pid)
        async with AsyncClient(address, attempts=1) as client:
            running = asyncio.create_task(client.transform(archive, "wait{seconds=2.0}"))
            await asyncio.to_thread(eventually, lambda: len(observed.workers()) == 1, "the job runs")
            family = _family(process)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            with pytest.raises((errors.ServerDraining, errors.ServerUnreachable)):
                await client.transform(archive, "retrace")
            assert (await running).modified is False
        assert await asyncio.to_thread(process.wait) == 0
        await asyncio.to_thread(eventually, lambda: _gone(family), "every process of the server is gone")

    with _serving() as (process, address):
        asyncio.run(run(process, address))


def test_grace_that_runs_out_ends_what_still_runs() -> None:
    archive = by_name("input_and_id").archive

    async def run(process: subprocess.Popen[str], address: str) -> None:
        observed = Observed(process.pid)
        async with AsyncClient(address, attempts=1) as client:
            running = asyncio.create_task(client.transform(archive, "wait{seconds=1000.0}"))
            await asyncio.to_thread(eventually, lambda: len(observed.workers()) == 1, "the job runs")
            process.send_signal(signal.SIGTERM)
            with pytest.raises((errors.ServerDraining, errors.ServerUnreachable)):
                await running
        assert await asyncio.to_thread(process.wait) == 0

    with _serving("--drain-grace", "0.5") as (process, address):
        asyncio.run(run(process, address))


def test_front_end_that_is_killed_takes_its_processes_with_it() -> None:
    archive = by_name("input_and_id").archive

    async def run(process: subprocess.Popen[str], address: str) -> list[psutil.Process]:
        observed = Observed(process.pid)
        async with AsyncClient(address) as client:
            running = asyncio.create_task(client.transform(archive, "wait{seconds=1000.0}"))
            await asyncio.to_thread(eventually, lambda: len(observed.workers()) == 1, "the job runs")
            family = _family(process)
            assert len(family) >= 3
            process.kill()
            with pytest.raises(errors.ServerUnreachable):
                await running
        return family

    with _serving() as (process, address):
        family = asyncio.run(run(process, address))
        process.wait()
        eventually(lambda: _gone(family), "every process of the server is gone")


def test_only_the_line_that_it_listens_goes_to_standard_output() -> None:
    with _serving() as (process, address):
        with Client(address) as client:
            client.transform(by_name("input_and_id").archive, "decompose", request_id="for-the-log")
        process.terminate()
        out, err = process.communicate()
    assert out == ""
    assert "for-the-log" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--import", "no_such_module_anywhere"], "no_such_module_anywhere"),
        (["--port", "0", "--spool-dir", "/no/such/folder"], "/no/such/folder"),
        (["--read-path", "/no/such/file"], "/no/such/file"),
        (["--workers", "0"], "--workers"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_server_that_cannot_start_says_why_and_fails(arguments: list[str], said: str) -> None:
    run = subprocess.run([_RETRACED, "serve", *arguments], capture_output=True, text=True)
    assert run.returncode != 0
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_server_without_a_layer_of_the_sandbox_does_not_start_and_names_it() -> None:
    command = [_RETRACED, "serve", "--port", "0", "--import", "tests.support.no_landlock"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    last = run.stderr.splitlines()[-1]
    assert "layers of the sandbox are missing: landlock" in last
    assert "--allow-missing-sandbox" in last


def test_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = subprocess.run([_RETRACED, "serve", "--port", port], capture_output=True, text=True)
    assert run.returncode != 0
    assert port in run.stderr
    assert "Traceback" not in run.stderr
