"""Archives that readers of zips read differently are refused; those of torch, of Python and of our own writer are read alike."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retraced_pt2 import zip_writer
from retraced_pt2.errors import FormatError
from retraced_pt2.files import DescriptorBytes
from retraced_pt2.zip_reader import read_entries
from retraced_pt2.zip_writer import ZipWriter
from retraced_server.errors import Reason, RetracedError
from tests.program.archives import read_bytes, records, zipped
from tests.support.hostile.archives import two_directories
from tests.support.hostile.route import MODEL, plain


def _by_torch(archive: bytes) -> bytes:
    return bytes(torch._C.PyTorchFileReader(io.BytesIO(archive)).get_record(MODEL.removeprefix("archive/")))


def _by_python(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.read(MODEL)


def test_archive_in_which_torch_and_python_see_different_programs_is_refused(tmp_path: Path) -> None:
    archive = two_directories()
    assert _by_torch(archive) != _by_python(archive)
    with pytest.raises(RetracedError) as caught:
        read_bytes(archive, tmp_path)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


def _entries(path: Path) -> dict[str, bytes]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return {name: os.pread(fd, extent.size, extent.offset) for name, extent in read_entries(DescriptorBytes(fd))}
    finally:
        os.close(fd)


@pytest.mark.parametrize("archive", [plain, lambda: zipped(records(plain()))], ids=["torch", "python"])
def test_records_are_those_that_python_reads(archive: object, tmp_path: Path) -> None:
    assert callable(archive)
    data = archive()
    (tmp_path / "a.zip").write_bytes(data)
    assert _entries(tmp_path / "a.zip") == records(data)


def test_zip64_fields_of_our_own_writer_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_writer, "_FIRST_ZIP64", 100)
    with (tmp_path / "a.zip").open("wb") as file:
        writer = ZipWriter(file)
        writer.write("small", b"x")
        writer.write("large", bytes(1000))
        writer.finish()
    assert _entries(tmp_path / "a.zip") == {"archive/small": b"x", "archive/large": bytes(1000)}


def test_zip_of_a_stream_is_read(tmp_path: Path) -> None:
    """Python writes sizes behind records where it cannot go back, as torch does."""

    class Stream(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            assert isinstance(data, (bytes, bytearray, memoryview))
            self.data += data
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/a", b"abc")
    (tmp_path / "a.zip").write_bytes(stream.data)
    assert _entries(tmp_path / "a.zip") == {"archive/a": b"abc"}


@pytest.mark.parametrize("count", [10**9, 200_001])
def test_directory_that_claims_many_records_is_refused_before_it_is_read(count: int, tmp_path: Path) -> None:
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, 0, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0, 0, 0)
    (tmp_path / "a.zip").write_bytes(end64 + locator + end)
    with pytest.raises(FormatError, match=r"records, and \d+ are the most"):
        _entries(tmp_path / "a.zip")


def _places(archive: bytes) -> list[int]:
    """Where the bytes lie that are no record's: headers, the directory and its end."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        infos, start = file.infolist(), file.start_dir
    places = list(range(start, len(archive)))
    for info in infos:
        places.extend(range(info.header_offset, info.header_offset + 30 + len(info.filename)))
    return places


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_what_is_read_after_any_change_is_what_torch_and_python_read(data: st.DataObject, by_torch: bool) -> None:
    original = plain() if by_torch else zipped(records(plain()))
    archive = bytearray(original)
    for place in data.draw(st.lists(st.sampled_from(_places(original)), min_size=1, max_size=3)):
        archive[place] = data.draw(st.sampled_from([0, 1, 8, 20, 45, 0xFF]) | st.integers(0, 255))
    with tempfile.NamedTemporaryFile() as file:
        file.write(archive)
        file.flush()
        try:
            entries = _entries(Path(file.name))
        except FormatError:
            return
    assert entries == records(bytes(archive))
    reader = torch._C.PyTorchFileReader(io.BytesIO(bytes(archive)))
    for name, content in entries.items():
        assert bytes(reader.get_record(name.partition("/")[2])) == content
