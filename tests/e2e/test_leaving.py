"""A caller that is killed, whichever way its request has come, leaves nothing on the server: no process, file or descriptor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retraced import Client, EmbeddedServer
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


@pytest.mark.parametrize("stage", STAGES)
def test_caller_that_is_killed_leaves_nothing(on_disk: EmbeddedServer, archive: Path, stage: str) -> None:
    assert on_disk.pid is not None
    observed = Observed(on_disk.pid)
    with Client(on_disk.address) as client:
        client.transform(by_name("input_and_id").archive, "retrace")
    eventually(observed.at_rest, "the first worker is gone")
    eventually(lambda: observed.connections() == 0, "the first caller is gone")
    descriptors = observed.descriptors()
    for _ in range(_TIMES):
        command = [sys.executable, "-m", "tests.e2e.leaver", on_disk.address, stage, str(archive)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as leaver:
            try:
                assert leaver.stdout is not None
                assert leaver.stdout.readline() == "there\n"
            finally:
                leaver.kill()
    eventually(observed.at_rest, "no worker is left")
    eventually(lambda: observed.deleted_files() == [], "no archive is left")
    eventually(lambda: observed.connections() == 0, "no connection is left")
    eventually(lambda: observed.descriptors() == descriptors, "no descriptor is left")
    with Client(on_disk.address) as client:
        info = client.info()
        assert (info.running, info.queued) == (0, 0)
        assert not client.transform(by_name("input_and_id").archive, "retrace").modified
