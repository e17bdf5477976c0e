"""Readiness tells the truth: each cause for which no request would be taken and answered is found, and said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from retraced_server.engine.base import Load
from retraced_server.service.front_end import FrontEnd
from retraced_server.service.readiness import spool_obstacle
from tests.service.conftest import LIMITS, SPOOL_MEMORY
from tests.service.fake_engine import FakeEngine
from tests.support.disks import mounted_disk

_MIB = 1 << 20


@pytest.fixture
async def front_end(engine: FakeEngine, tmp_path: Path) -> FrontEnd:
    return FrontEnd(engine, LIMITS, tmp_path, SPOOL_MEMORY)


async def test_a_server_that_starts_drains_or_has_no_zygote_is_not_ready(front_end: FrontEnd, engine: FakeEngine) -> None:
    assert front_end.obstacles() == ["the server is starting: its workers are not there yet"]
    front_end.open()
    assert front_end.obstacles() == []
    engine.ready = False
    assert front_end.obstacles() == ["the fake engine is not ready"]


async def test_a_full_queue_is_no_obstacle(front_end: FrontEnd, engine: FakeEngine) -> None:
    front_end.open()
    engine.load = Load(running=LIMITS.workers, queued=LIMITS.max_queued)
    assert front_end.obstacles() == []


async def test_every_obstacle_is_said(front_end: FrontEnd, engine: FakeEngine, tmp_path: Path) -> None:
    front_end.open()
    engine.ready = False
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert front_end.obstacles() == [
        "the fake engine is not ready",
        f"the spool folder {tmp_path} cannot be used: No such file or directory",
    ]
    tmp_path.with_name("elsewhere").rename(tmp_path)


def _statvfs(monkeypatch: pytest.MonkeyPatch, **changed: int) -> None:
    found = {"f_flag": 0, "f_bavail": 1 << 20, "f_frsize": 4096, "f_files": 100, "f_favail": 10, **changed}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**found))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"f_flag": os.ST_RDONLY}, "cannot be written to"),
        ({"f_bavail": 1024}, f"is full: it has room for {4 * _MIB} bytes"),
        ({"f_bavail": 1024, "f_frsize": 1 << 20}, ""),
        ({"f_favail": 0}, "takes no more files"),
        # btrfs and others count no files.
        ({"f_files": 0, "f_favail": 0}, ""),
    ],
)
def test_what_the_file_system_says_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], said: str
) -> None:
    _statvfs(monkeypatch, **changed)
    obstacle = spool_obstacle(tmp_path, 1 << 30)
    assert obstacle.endswith(said)
    assert bool(obstacle) == bool(said)


def test_less_room_is_enough_where_archives_are_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _statvfs(monkeypatch, f_bavail=1024)
    assert spool_obstacle(tmp_path, 4 * _MIB) == ""
    assert "is full" in spool_obstacle(tmp_path, 4 * _MIB + 1)


def test_a_folder_that_may_not_be_written_to_is_an_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert spool_obstacle(tmp_path, 1) == f"the spool folder {tmp_path} cannot be written to"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MiB."""
    with mounted_disk(tmp_path / "disk", "128m") as folder:
        yield folder


def test_a_real_disk_that_fills_up_is_an_obstacle_until_there_is_room(small_disk: Path) -> None:
    assert spool_obstacle(small_disk, 1 << 30) == ""
    (small_disk / "large").write_bytes(bytes(100 * _MIB))
    assert "is full" in spool_obstacle(small_disk, 1 << 30)
    (small_disk / "large").unlink()
    assert spool_obstacle(small_disk, 1 << 30) == ""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "cannot be written to" in spool_obstacle(small_disk, 1 << 30)
