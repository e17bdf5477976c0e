"""An archive on its way through the server: in memory, then on disk, and never left behind."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from retraced_server.engine.spool import Spool
from retraced_server.errors import Reason, RetracedError
from tests.support.processes import open_fds

_DATA = bytes(range(256)) * 16


def _content(spool: Spool) -> bytes:
    return os.pread(spool.fileno(), spool.size + 1, 0)


@pytest.mark.parametrize("piece", [1, 100, 1024, 4096])
@pytest.mark.parametrize("memory", [0, 1000, 4095, 4096])
def test_what_is_written_is_there_wherever_it_lies(tmp_path: Path, memory: int, piece: int) -> None:
    with Spool(tmp_path, memory) as spool:
        for start in range(0, len(_DATA), piece):
            spool.write(_DATA[start : start + piece])
        assert spool.size == len(_DATA)
        assert spool.on_disk is (memory < len(_DATA))
        assert _content(spool) == _DATA
        assert spool.sha256 == hashlib.sha256(_DATA).digest()
        with spool.reader() as reader:
            assert reader.readall() == _DATA
            assert not reader.writable()


def test_no_name_is_left_in_the_folder_while_it_is_used_or_after(tmp_path: Path) -> None:
    before = open_fds()
    with Spool(tmp_path, 10) as spool:
        spool.write(_DATA)
        assert spool.on_disk
        assert list(tmp_path.iterdir()) == []
    spool.close()
    assert open_fds() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_disk_that_is_full_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with Spool(tmp_path, 10) as spool:
        monkeypatch.setattr(os, "sendfile", full)
        spool.write(b"small")
        with pytest.raises(RetracedError, match=os.strerror(number)) as caught:
            spool.write(_DATA)
        assert caught.value.reason is Reason.STORAGE_FULL
        assert caught.value.retry_after is not None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_descriptors_that_are_used_up_are_told_as_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def none_left(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with Spool(tmp_path, 10) as spool:
        monkeypatch.setattr(os, "dup", none_left)
        with pytest.raises(RetracedError) as on_disk:
            spool.write(_DATA)
    monkeypatch.setattr(os, "memfd_create", none_left)
    with pytest.raises(RetracedError) as in_memory:
        Spool(tmp_path, 10)
    for caught in (on_disk, in_memory):
        assert caught.value.reason is Reason.STORAGE_FULL
        assert caught.value.retry_after is not None


def test_folder_that_is_gone_leaves_what_was_written(tmp_path: Path) -> None:
    with Spool(tmp_path / "gone", 10) as spool:
        spool.write(b"small")
        with pytest.raises(FileNotFoundError):
            spool.write(_DATA)
        assert _content(spool) == b"small"
