"""The zips that we write are read by others, large ones included."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retraced_pt2 import zip_writer
from retraced_pt2.errors import Fault, FormatError
from retraced_pt2.files import Extent
from retraced_pt2.zip_writer import ZipWriter

_NAMES = st.text(alphabet="abcdefé/._0", min_size=1, max_size=80)


def _zip(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    writer = ZipWriter(buffer)
    for name, data in contents.items():
        writer.write(name, data)
    writer.finish()
    return buffer.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_NAMES, st.binary(max_size=300), max_size=8))
def test_zipfile_reads_what_is_written(contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(_zip(contents))) as file:
        assert file.testzip() is None
        assert {name.removeprefix("archive/"): file.read(name) for name in file.namelist()} == contents


def test_torch_reads_what_is_written() -> None:
    contents = {"a": b"x" * 1000, "data/b": b"", ".data/version": b"6\n", "byteorder": b"little"}
    reader = torch._C.PyTorchFileReader(io.BytesIO(_zip(contents)))
    assert {name: reader.get_record(name) for name in reader.get_all_records()} == contents


def test_more_records_than_a_plain_directory_can_count_are_written() -> None:
    with zipfile.ZipFile(io.BytesIO(_zip({f"r{number}": b"" for number in range(70_000)}))) as file:
        assert len(file.namelist()) == 70_000


def test_large_sizes_and_offsets_are_written_in_the_zip64_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if 4 GiB were 1000 bytes.
    monkeypatch.setattr(zip_writer, "_FIRST_ZIP64", 1000)
    contents = {"small": b"x" * 10, "large": b"y" * 5000, "after": b"z" * 20}
    archive = _zip(contents)
    assert archive.count(b"PK\x06\x06") == 1
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert {name.removeprefix("archive/"): file.read(name) for name in file.namelist()} == contents
    reader = torch._C.PyTorchFileReader(io.BytesIO(_zip({**contents, ".data/version": b"6\n"})))
    assert reader.get_record("large") == contents["large"]


@pytest.mark.parametrize("seekable", [True, False])
def test_extent_is_copied_to_files_of_any_kind(tmp_path: Path, seekable: bool) -> None:
    data = os.urandom(3 << 20)
    source = tmp_path / "source"
    source.write_bytes(b"before" + data + b"after")

    class _Stream(io.BytesIO):
        def seekable(self) -> bool:
            return seekable

    buffer = _Stream()
    with source.open("rb") as file:
        writer = ZipWriter(buffer)
        writer.copy("copied", file.fileno(), Extent(6, len(data), zlib.crc32(data)))
        writer.finish()
    with zipfile.ZipFile(io.BytesIO(buffer.getvalue())) as archive:
        assert archive.read("archive/copied") == data


def test_extent_that_the_file_does_not_have_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"short")
    with source.open("rb") as file, (tmp_path / "out").open("wb") as out, pytest.raises(FormatError) as caught:
        ZipWriter(out).copy("copied", file.fileno(), Extent(0, 100, 0))
    assert caught.value.fault is Fault.ARCHIVE_INVALID
