"""The command in this process, and something to give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from retraced.cli.app import run
from tests.cli.support import Ended, Run


@pytest.fixture(autouse=True)
def _no_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRACED_SERVER", raising=False)
    # What runs the tests may set it, and rich then folds what goes into a pipe.
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def retraced(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; standard output and error are no terminals."""

    def run_command(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        code = run(list(map(str, arguments)))
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run_command


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A file for a server that reads no program, alone in its directory."""
    path = tmp_path / "model.pt2"
    path.write_bytes(bytes(range(256)) * 1000)
    return path
