"""What a worker tries that it may not do is an error of its own to the caller, and the server goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retraced import Client, EmbeddedServer, errors
from tests.support.models import by_name

pytestmark = pytest.mark.slow

_INPUT_AND_ID = by_name("input_and_id")


@pytest.fixture(scope="module")
def client(narrow: EmbeddedServer) -> Iterator[Client]:
    with Client(narrow.address) as connected:
        yield connected


ATTEMPTS: dict[str, type[errors.RetracedError]] = {
    "fault-allocate": errors.WorkerOutOfMemory,
    "fault-allocate{torch-tensors=true}": errors.WorkerOutOfMemory,
    "fault-spin": errors.JobTimedOut,
    "fault-hang": errors.JobTimedOut,
    "fault-fork": errors.SandboxOperationDenied,
    "fault-run": errors.SandboxOperationDenied,
    "fault-socket": errors.SandboxNetworkDenied,
    "fault-read": errors.SandboxReadDenied,
    "fault-write": errors.SandboxWriteDenied,
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_attempt_is_contained_and_named(client: Client, attempt: str) -> None:
    with pytest.raises(ATTEMPTS[attempt]) as caught:
        client.transform(_INPUT_AND_ID.archive, attempt)
    assert caught.value.reason == ATTEMPTS[attempt].reason
    assert not Path("/tmp/written-by-a-worker").exists()
    assert not client.transform(_INPUT_AND_ID.archive, "retrace").modified


def test_caller_whose_programs_crash_workers_is_refused_for_a_while() -> None:
    arguments = ["--workers", "1", "--max-crashes-per-caller", "2", "--import", "tests.support.fault_passes"]
    with EmbeddedServer(arguments) as server, Client(server.address) as client:
        for _ in range(2):
            with pytest.raises(errors.WorkerCrashed):
                client.transform(_INPUT_AND_ID.archive, "fault-crash")
        with pytest.raises(errors.CallerLimitExceeded, match="2 workers that ran programs of this caller have crashed"):
            client.transform(_INPUT_AND_ID.archive, "retrace")
        assert client.passes()
