"""A real server in processes of its own, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retraced import Client, EmbeddedServer

from .processes import Observed

#: What an operator would load: libraries with custom operators, and passes.
IMPORTS = ("tests.support.programs", "tests.support.served_passes")


def server_arguments(*more: str) -> list[str]:
    """The arguments of a server with two workers and the tests' own operators and passes."""
    imports = [argument for module in IMPORTS for argument in ("--import", module)]
    return ["--workers", "2", *imports, *more]


def spooling_arguments(folder: Path, *more: str) -> list[str]:
    """The arguments of a server that keeps every archive in files there."""
    return server_arguments("--spool-dir", str(folder), "--spool-memory", "0", *more)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(server_arguments()) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def allowing() -> Iterator[EmbeddedServer]:
    """A server that is told to read more programs and to say more than one without options: each test needs one of its options."""
    reads = ("--accept-newer-schema", "--allow-namespace", "rngprims", "--import", "tests.passes.fold_scale_plugin")
    with EmbeddedServer(server_arguments("--workers", "1", *reads, "--send-tracebacks", "--log-format", "json")) as running:
        yield running


@pytest.fixture(scope="session")
def narrow() -> Iterator[EmbeddedServer]:
    """A server with one worker and narrow limits, and passes that try what a worker may not do."""
    limits = ("--workers", "1", "--max-queued", "2", "--max-archive-size", "1000000")
    of_jobs = ("--worker-memory", "512MiB", "--job-timeout", "5")
    with EmbeddedServer(server_arguments(*limits, *of_jobs, "--import", "tests.support.fault_passes")) as running:
        yield running


@pytest.fixture(scope="session")
def spool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `on_disk`."""
    return tmp_path_factory.mktemp("spool")


@pytest.fixture(scope="session")
def on_disk(spool_folder: Path) -> Iterator[EmbeddedServer]:
    """A server with one worker, which keeps every archive in files of a folder of its own."""
    with EmbeddedServer(spooling_arguments(spool_folder, "--workers", "1")) as running:
        yield running


@pytest.fixture
def observed(server: EmbeddedServer) -> Observed:
    assert server.pid is not None
    return Observed(server.pid)
