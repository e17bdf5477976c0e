"""The structure of an archive, checked before anything in it is read: a zip whose records are whole and lie under one root."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from retraced_server.errors import Reason, RetracedError
from retraced_server.program.errors import archive_invalid, program_invalid, program_missing, schema_unsupported, shortened

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
_CHUNK_BYTES = 1 << 20
# Records that describe the file or the program; a writer makes them anew.
_OWN_RECORDS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", ".data/")
_OWN_FILES = frozenset({"archive_format", "archive_version", "byteorder", "version"})
_EXPECTED = (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little"))
# What a zip that is no zip, or damaged, makes of `zipfile`: it documents the first and raises the others as well.
_ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError),
    *(UnicodeError, OSError),
)


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of a record lie, uncompressed.

    Attributes:
        fd: The file.
        offset: Their first byte.
        size: How many they are.
        crc: Their checksum, as the file's directory has it.
    """

    fd: int
    offset: int
    size: int
    crc: int


class Archive:
    """The records of a `.pt2` file, by name without the root.

    Args:
        file: The file, open for reading, with a descriptor; it is left open.

    Raises:
        RetracedError: ARCHIVE_INVALID where the file is empty, no zip, cut short, or its names are not of one root;
            PROGRAM_MISSING where it holds no exported program; PROGRAM_INVALID where it holds several.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._fd = file.fileno()
        self._size = file.seek(0, 2)
        file.seek(0)
        if self._size == 0:
            raise archive_invalid("the archive is empty: it has 0 bytes")
        begins_as_zip = file.read(len(_LOCAL_MAGIC)) == _LOCAL_MAGIC
        file.seek(0)
        try:
            self._zip = zipfile.ZipFile(file)
        except _ZIP_FAULTS as error:
            if begins_as_zip:
                raise archive_invalid(
                    f"the archive of {self._size} bytes begins as a zip but has no directory: it is truncated"
                ) from error
            raise archive_invalid("the archive is not a zip, so it is not a .pt2 file of torch.export.save") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._index()
        self.program_name = self._find_program()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def check(self) -> None:
        """Reads every record once and compares its checksum.

        Raises:
            RetracedError: ARCHIVE_INVALID, with the record's name.
        """
        for name in self._members:
            for _ in self._chunks(name):
                pass

    def read(self, name: str) -> bytes:
        """Gives a record's bytes, after comparing its checksum.

        Raises:
            RetracedError: ARCHIVE_INVALID where it is damaged, PROGRAM_INVALID where there is none of that name.
        """
        self._member(name)
        return b"".join(self._chunks(name))

    def size(self, name: str) -> int:
        """How many bytes a record has. Raises `RetracedError` PROGRAM_INVALID where there is none of that name."""
        return self._member(name).file_size

    def extent(self, name: str) -> Extent:
        """Where a record's bytes lie in the file.

        Raises:
            RetracedError: ARCHIVE_INVALID where the file ends before them; PROGRAM_INVALID where there is none of that name.
        """
        member = self._member(name)
        header = os.pread(self._fd, _LOCAL_HEADER.size, member.header_offset)
        if len(header) != _LOCAL_HEADER.size or not header.startswith(_LOCAL_MAGIC):
            raise archive_invalid(f"the archive's record `{name}` is damaged: it has no header", record=name)
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        offset = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if offset + member.file_size > self._size:
            raise archive_invalid(f"the archive's record `{name}` is damaged: the file ends before it", record=name)
        return Extent(self._fd, offset, member.file_size, member.CRC)

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Gives the records that are not of the program, `extra/` files and the like, which a rewritten archive keeps."""
        for name in self._members:
            if name not in _OWN_FILES and not name.startswith(_OWN_RECORDS):
                yield name, self.read(name)

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise program_invalid(f"the archive has no record `{shortened(name, 200)}`", record=name[:200])
        return self._members[name]

    def _index(self) -> None:
        root: str | None = None
        infos = self._zip.infolist()
        # A record may be a zip itself, whose directory is the last one that a truncated file has.
        if infos and min(info.header_offset for info in infos) != 0:
            raise archive_invalid(
                "the archive does not begin with its first record: it is truncated, or a part of another file"
            )
        for info in infos:
            if not info.filename:
                raise archive_invalid("the archive has a record without a name")
            if info.is_dir():
                continue
            first, slash, name = info.filename.partition("/")
            if not slash:
                self._reject_foreign()
            if root is not None and first != root:
                raise archive_invalid(f"the archive's records have two roots, `{shortened(root)}` and `{shortened(first)}`")
            if name in self._members:
                raise archive_invalid(f"the archive has two records `{shortened(name)}`")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                raise archive_invalid(
                    f"the archive's record `{shortened(name)}` is compressed or encrypted; torch stores records plain"
                )
            root = first
            self._members[name] = info

    def _reject_foreign(self) -> None:
        names = self._zip.namelist()
        if "version" in names and "serialized_exported_program.json" in names:
            raise schema_unsupported(
                "the archive is in the format of torch 2.7 and older, which this server does not read; "
                "load it and save it again with torch 2.8 or newer"
            )
        raise program_missing("the archive is a zip but not one that torch.export.save wrote: its records have no common root")

    def _find_program(self) -> str:
        models = [name.removeprefix("models/").removesuffix(".json") for name in self._members if name.startswith("models/")]
        if not models:
            raise program_missing("the archive holds no exported program: it has no record `models/*.json`")
        if len(models) > 1:
            listed = ", ".join(sorted(models))
            raise RetracedError(
                Reason.PROGRAM_INVALID, f"the archive holds several programs ({shortened(listed)}); one at a time is taken"
            )
        for name, expected in _EXPECTED:
            if name == "byteorder" and name not in self._members:
                continue
            found = self.read(name)
            if found != expected:
                raise archive_invalid(f"the archive's record `{name}` is {found[:20]!r}, and {expected!r} is what is read")
        return models[0]

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._members[name]) as record:
                while chunk := record.read(_CHUNK_BYTES):
                    yield chunk
        except _ZIP_FAULTS as error:
            raise archive_invalid(f"the archive's record `{name}` is damaged: {error}", record=name) from error
