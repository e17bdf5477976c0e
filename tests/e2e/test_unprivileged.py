"""A server that is not root: no user and no network namespace for each worker, but the rest of the sandbox holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retraced import Client, errors
from tests.support.hostile import ROUTES
from tests.support.hostile.route import plain

pytestmark = pytest.mark.slow

_USER = 65534
_READY = "retraced: listening on "


def _is_runnable() -> bool:
    """Whether another user can run this Python, which may be installed in a folder of root's."""
    if os.geteuid() != 0:
        return False
    try:
        return not subprocess.run([sys.executable, "-c", "import torch"], user=_USER, group=_USER, extra_groups=[]).returncode
    except OSError:
        return False


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not _is_runnable():
        pytest.skip("only root can become another user, who must be able to run Python")
    serve = [sys.executable, "-m", "retraced_server", "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    imports = ["--import", "tests.support.fault_passes"]
    with tempfile.TemporaryDirectory() as spool:
        Path(spool).chmod(0o777)
        process = subprocess.Popen(
            [*serve, *imports, "--spool-dir", spool],
            user=_USER,
            group=_USER,
            extra_groups=[],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(_READY)
            yield line.removeprefix(_READY).strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def test_it_says_that_it_is_not_root_and_transforms(address: str) -> None:
    with Client(address) as client:
        layers = {layer.name: layer.state.value for layer in client.info().sandbox}
        assert client.transform(plain(), "decompose,dce").modified
    assert "in_force" in layers["seccomp"].lower()
    assert "in_force" in layers["landlock"].lower()
    assert "in_force" not in layers["user"].lower()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("fault-read", errors.SandboxReadDenied),
        ("fault-write", errors.SandboxWriteDenied),
        ("fault-socket", errors.SandboxNetworkDenied),
        ("fault-fork", errors.SandboxOperationDenied),
        ("fault-run", errors.SandboxOperationDenied),
    ],
)
def test_what_is_refused_is_refused_there_too(address: str, fault: str, kind: type[errors.RetracedError]) -> None:
    with Client(address) as client:
        with pytest.raises(kind):
            client.transform(plain(), fault)
        assert not client.transform(plain(), "retrace").modified


def test_hostile_archive_is_an_error_there_too(address: str, tmp_path: Path) -> None:
    route = ROUTES[0]
    with Client(address) as client, pytest.raises(errors.RequestInvalid):
        client.transform(route.make(tmp_path), "retrace")
    assert not (tmp_path / "marker").exists()
