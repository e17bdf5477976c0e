"""Checksums of records: computed once of what is read at once, and again of what is read late."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
import torch

from retraced_server.errors import Reason, RetracedError
from retraced_server.program import read_program
from tests.support.models import by_name


def test_checksum_of_each_record_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = by_name("everything").archive
    (path := tmp_path / "program.pt2").write_bytes(archive)
    computed = []
    crc32 = zlib.crc32

    def count(data: bytes, start: int = 0) -> int:
        computed.append(len(data))
        return crc32(data, start)

    monkeypatch.setattr(zlib, "crc32", count)
    read_program(path).close()
    assert len(archive) // 2 < sum(computed) < len(archive)


def test_carried_record_that_changes_after_the_check_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.export.save(by_name("everything").program, buffer, extra_files={"notes.txt": "as they were"})
    (path := tmp_path / "program.pt2").write_bytes(buffer.getvalue())
    read = read_program(path)
    with path.open("r+b") as file:
        file.seek(buffer.getvalue().index(b"as they were"))
        file.write(b"AS")
    with pytest.raises(RetracedError, match=r"notes\.txt` is damaged") as caught:
        list(read.carried())
    assert caught.value.reason is Reason.ARCHIVE_INVALID
    read.close()
