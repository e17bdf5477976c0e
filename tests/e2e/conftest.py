"""A real server in processes of its own, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retraced import Client, EmbeddedServer

from .processes import Observed

#: What an operator would load: libraries with custom operators, and passes.
IMPORTS = ("tests.support.programs", "tests.support.served_passes")


def server_arguments(*more: str) -> list[str]:
    """The arguments of a server with two workers and the tests' own operators and passes."""
    imports = [argument for module in IMPORTS for argument in ("--import", module)]
    return ["--workers", "2", *imports, *more]


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(server_arguments()) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def observed(server: EmbeddedServer) -> Observed:
    assert server.pid is not None
    return Observed(server.pid)
