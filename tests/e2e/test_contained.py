"""What a worker tries that it may not do is an error of its own to the caller, and the server goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retraced import Client, EmbeddedServer, errors
from tests.support.models import by_name

_ARCHIVE = by_name("input_and_id").archive


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    limits = ("--worker-memory", "512MiB", "--job-timeout", "5", "--workers", "1")
    with (
        EmbeddedServer([*limits, "--import", "tests.support.fault_passes"]) as server,
        Client(server.address) as connected,
    ):
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
        client.transform(_ARCHIVE, attempt)
    assert caught.value.reason == ATTEMPTS[attempt].reason
    assert not Path("/tmp/written-by-a-worker").exists()
    assert not client.transform(_ARCHIVE, "retrace").modified
