"""Archives that are put together from another's records: every reader of zips finds the same in them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from retraced._source import BytesSource, FileSource
from retraced._source_archive import SourceArchive
from retraced._splice import Spliced
from retraced_pt2 import zip_writer
from retraced_pt2.archive import Archive
from retraced_pt2.zip_writer import ZipWriter
from tests.client.archives import MODEL_RECORD, archive, records

WEIGHTS = bytes(range(256)) * 5_000
REPLACED = {MODEL_RECORD: b'{"shorter": true}', "archive_format": b"pt2"}


def spliced() -> tuple[Spliced, bytes]:
    source = BytesSource(archive(WEIGHTS))
    made = Spliced(source, SourceArchive(source).records, REPLACED)
    return made, made.read_at(0, made.size)


@pytest.mark.parametrize("first_zip64", [1 << 32, 1000])
def test_all_readers_find_the_records(first_zip64: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_writer, "_FIRST_ZIP64", first_zip64)
    made, data = spliced()
    expected = {**records(WEIGHTS), **REPLACED}
    with zipfile.ZipFile(io.BytesIO(data)) as read:
        assert read.testzip() is None
        assert {name.removeprefix("archive/"): read.read(name) for name in read.namelist()} == expected
    found = Archive(made)
    assert list(found.records) == list(expected)
    assert {name: found.read(name) for name in expected} == expected
    assert {name: made.read_at(extent.offset, extent.size) for name, extent in found.records.items()} == expected
    assert {extent.offset % 64 for extent in found.records.values()} == {0}


@pytest.mark.parametrize("first_zip64", [1 << 32, 1000])
def test_it_is_what_the_writer_of_files_writes(first_zip64: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_writer, "_FIRST_ZIP64", first_zip64)
    file = io.BytesIO()
    writer = ZipWriter(file)
    for name, data in {**records(WEIGHTS), **REPLACED}.items():
        writer.write(name, data)
    writer.finish()
    assert spliced()[1] == file.getvalue()


def test_any_part_of_it_can_be_read() -> None:
    made, data = spliced()
    for offset in range(0, made.size, 4_999):
        for size in (0, 1, 63, 5_000):
            size = min(size, made.size - offset)
            assert made.read_at(offset, size) == data[offset : offset + size]


def test_closing_it_closes_what_it_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(archive())
    file = path.open("rb")
    source = FileSource(file, str(path))
    Spliced(source, SourceArchive(source).records, {}).close()
    assert file.closed
