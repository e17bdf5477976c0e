"""A host for all the tests of the sandbox, and folders that any user may write in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import State
from tests.worker.sandbox.host import Host, started

Needs = Callable[..., None]


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    with started() as it:
        yield it


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may write in, so that only the sandbox can refuse to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def scratch(open_folder: Path) -> Path:
    """A worker's scratch folder."""
    folder = open_folder / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def needs(host: Host) -> Needs:
    """Skips a test where a layer of the sandbox is missing."""

    def check(*names: str) -> None:
        for name in names:
            layer = host.report.layer(name)
            if layer.state is not State.IN_FORCE:
                pytest.skip(f"the layer {name} of the sandbox is {layer.state.value}: {layer.detail}")

    return check
