"""A caller that is killed, whichever way its request has come, leaves nothing on the server: no process, file or descriptor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from retraced import Client, EmbeddedServer
from tests.e2e.conftest import server_arguments
from tests.e2e.leaver import STAGES
from tests.e2e.processes import Observed
from tests.support.models import by_name
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_TIMES = 3


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that does not fit into what is buffered on the way back: 64 MiB."""
    path = tmp_path_factory.mktemp("large") / "large.pt2"
    with torch.device("cpu"):
        program = torch.export.export(torch.nn.Linear(4096, 4096), (torch.ones(1, 4096),))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with one worker, and a spool folder of its own."""
    folder = tmp_path_factory.mktemp("spool")
    with EmbeddedServer(server_arguments("--workers", "1", "--spool-dir", str(folder))) as server:
        yield server


@pytest.mark.parametrize("stage", STAGES)
def test_caller_that_is_killed_leaves_nothing(busy: EmbeddedServer, archive: Path, stage: str) -> None:
    assert busy.pid is not None
    observed = Observed(busy.pid)
    with Client(busy.address) as client:
        client.transform(by_name("input_and_id").archive, "retrace")
    eventually(observed.at_rest, "the first worker is gone")
    eventually(lambda: not _connections(observed), "the first caller is gone")
    descriptors = observed.descriptors()
    for _ in range(_TIMES):
        command = [sys.executable, "-m", "tests.e2e.leaver", busy.address, stage, str(archive)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as leaver:
            try:
                assert leaver.stdout is not None
                assert leaver.stdout.readline() == "there\n"
            finally:
                leaver.kill()
    eventually(observed.at_rest, "no worker is left")
    eventually(lambda: observed.deleted_files() == [], "no archive is left")
    eventually(lambda: observed.descriptors() == descriptors, "no descriptor is left")
    with Client(busy.address) as client:
        info = client.info()
        assert (info.running, info.queued) == (0, 0)
        assert not client.transform(by_name("input_and_id").archive, "retrace").modified


def _connections(observed: Observed) -> list[object]:
    return [one for one in observed.front_end.net_connections("tcp") if one.status == "ESTABLISHED"]
