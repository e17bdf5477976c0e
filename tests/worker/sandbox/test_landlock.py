"""Landlock by itself, in every version of its interface that this machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import credentials, landlock
from retraced_server.worker.sandbox.children import in_child

VERSION = landlock.interface_version()
NEWEST = 6


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_an_older_version_still_bounds_files(open_folder: Path, version: int) -> None:
    if version > VERSION:
        pytest.skip(f"the layer landlock of the sandbox has version {VERSION} here")
    (inside := open_folder / "inside").mkdir()
    (inside / "file").write_text("inside")
    (open_folder / "file").write_text("outside")

    def attempts() -> str:
        bound(version, inside, landlock.READ)
        return " ".join((read(inside / "file"), read(open_folder / "file"), write(inside / "new"), write(open_folder / "new")))

    assert in_child(attempts, name="the attempts") == "inside refused refused refused"
    assert not (open_folder / "new").exists()


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_an_older_version_still_lets_a_folder_be_written_in(open_folder: Path, version: int) -> None:
    if version > VERSION:
        pytest.skip(f"the layer landlock of the sandbox has version {VERSION} here")
    (inside := open_folder / "inside").mkdir()

    def attempts() -> str:
        bound(version, inside, landlock.READ_WRITE)
        return " ".join((write(inside / "new"), read(inside / "new"), write(open_folder / "new")))

    assert in_child(attempts, name="the attempts") == "written written refused"


def test_a_single_file_can_be_allowed(open_folder: Path) -> None:
    if not VERSION:
        pytest.skip("the layer landlock of the sandbox is missing")
    for name in ("one", "other"):
        (open_folder / name).write_text(name)

    def attempts() -> str:
        bound(VERSION, open_folder / "one", landlock.READ)
        return " ".join((read(open_folder / "one"), read(open_folder / "other")))

    assert in_child(attempts, name="the attempts") == "one refused"


def test_what_an_older_version_lacks_is_said() -> None:
    assert landlock.not_bounded(NEWEST) == ()
    assert landlock.not_bounded(2)[0] == "truncation is not bounded"
    assert set(landlock.not_bounded(5)) < set(landlock.not_bounded(1))


def bound(version: int, path: Path, access: landlock.Access) -> None:
    credentials.forgo_privileges()
    landlock.restrict(version, [(os.open(path, os.O_PATH), access)])


def read(path: Path) -> str:
    try:
        return path.read_text()
    except PermissionError:
        return "refused"


def write(path: Path) -> str:
    try:
        path.write_text("written")
    except PermissionError:
        return "refused"
    return "written"
