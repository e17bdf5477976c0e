"""Scratch folders go with their owners, however these end, and nobody else's are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retraced_server.engine import scratch
from retraced_server.engine.scratch import ScratchFolder, remove_abandoned

_OWN = (
    "import sys, signal; from pathlib import Path; from retraced_server.engine.scratch import ScratchFolder\n"
    "folder = ScratchFolder(Path(sys.argv[1])); (folder.path / 'file').touch(); print(folder.path, flush=True); signal.pause()"
)


def _owner(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a folder there."""
    process = subprocess.Popen([sys.executable, "-c", _OWN, parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = ScratchFolder(tmp_path)
    (folder.path / "below").mkdir()
    (folder.path / "below" / "file").touch()
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_owner_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    mine = ScratchFolder(tmp_path)
    (killed, its), (living, theirs) = _owner(tmp_path), _owner(tmp_path)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert its.exists()
        remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([mine.path, theirs])
        assert (theirs / "file").exists()
    finally:
        living.kill()
        living.communicate()
        mine.remove()


def test_what_only_looks_like_one_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "retraced-scratch-link").symlink_to(precious)
    (tmp_path / "retraced-scratch-file").touch()
    (tmp_path / "retraced-something").mkdir()
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "retraced-scratch-of-another-user").mkdir()
    user = os.geteuid()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: user + 1)
        remove_abandoned(tmp_path)
    assert (tmp_path / "retraced-scratch-of-another-user").exists()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = scratch._lock
    taken: list[Path] = []

    def late(path: Path) -> int | None:
        if not taken:
            taken.append(path)
            path.rmdir()
        return lock(path)

    monkeypatch.setattr(scratch, "_lock", late)
    folder = ScratchFolder(tmp_path)
    assert folder.path.is_dir()
    assert folder.path not in taken
    folder.remove()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScratchFolder(tmp_path / "nowhere")
