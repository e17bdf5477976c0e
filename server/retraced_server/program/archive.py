"""The structure of an archive, checked before torch sees it: a zip whose records are whole and lie under one root."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from retraced_server.errors import FieldViolation, Reason, RetracedError

_LOCAL_HEADER = b"PK\x03\x04"
_CHUNK_BYTES = 1 << 20
# Records that describe the file or the program; a writer makes them anew.
_OWN_RECORDS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", ".data/")
_OWN_FILES = frozenset({"archive_format", "archive_version", "byteorder", "version"})
_FORMAT = b"pt2"
_VERSION = b"0"
# What a zip that is no zip, or damaged, makes of `zipfile`: it documents the first and raises the others as well.
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, UnicodeError, OSError)


class Archive:
    """The records of a `.pt2` file, by name without the root.

    Args:
        file: The file, open for reading; it is left open.

    Raises:
        RetracedError: ARCHIVE_INVALID where the file is empty, no zip, cut short, or its names are not of one root;
            PROGRAM_MISSING where it holds no exported program; PROGRAM_INVALID where it holds several.
    """

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        if size == 0:
            raise archive_invalid("the archive is empty: it has 0 bytes")
        begins_as_zip = file.read(len(_LOCAL_HEADER)) == _LOCAL_HEADER
        file.seek(0)
        try:
            self._zip = zipfile.ZipFile(file)
        except _ZIP_FAULTS as error:
            if begins_as_zip:
                raise archive_invalid(
                    f"the archive of {size} bytes begins as a zip but has no directory: it is truncated"
                ) from error
            raise archive_invalid("the archive is not a zip, so it is not a .pt2 file of torch.export.save") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._index()
        self.program_name = self._find_program()

    def check(self) -> None:
        """Reads every record once and compares its checksum.

        Raises:
            RetracedError: ARCHIVE_INVALID, with the record's name.
        """
        for name in self._members:
            for _ in self._chunks(name):
                pass

    def read(self, name: str) -> bytes:
        """Gives a record's bytes.

        Raises:
            RetracedError: ARCHIVE_INVALID where it is damaged, PROGRAM_INVALID where there is none of that name.
        """
        if name not in self._members:
            raise RetracedError(Reason.PROGRAM_INVALID, f"the archive has no record `{name}`", metadata={"record": name})
        return b"".join(self._chunks(name))

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Gives the records that are not of the program, `extra/` files and the like, which a rewritten archive keeps."""
        for name in self._members:
            if name not in _OWN_FILES and not name.startswith(_OWN_RECORDS):
                yield name, self.read(name)

    def _index(self) -> None:
        root: str | None = None
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            first, slash, name = info.filename.partition("/")
            if not slash:
                self._reject_foreign()
            if root is not None and first != root:
                raise archive_invalid(f"the archive's records have two roots, `{root}` and `{first}`")
            if name in self._members:
                raise archive_invalid(f"the archive has two records `{name}`")
            root = first
            self._members[name] = info

    def _reject_foreign(self) -> None:
        names = self._zip.namelist()
        if "version" in names and "serialized_exported_program.json" in names:
            raise RetracedError(
                Reason.SCHEMA_UNSUPPORTED,
                "the archive is in the format of torch 2.7 and older, which this server does not read; "
                "load it and save it again with torch 2.8 or newer",
            )
        raise _missing("the archive is a zip but not one that torch.export.save wrote: its records have no common root")

    def _find_program(self) -> str:
        models = [name.removeprefix("models/").removesuffix(".json") for name in self._members if name.startswith("models/")]
        if not models:
            raise _missing("the archive holds no exported program: it has no record `models/*.json`")
        if len(models) > 1:
            listed = ", ".join(sorted(models))
            raise RetracedError(
                Reason.PROGRAM_INVALID, f"the archive holds several programs ({listed}); one at a time is taken"
            )
        for name, expected in (("archive_format", _FORMAT), ("archive_version", _VERSION)):
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


def archive_invalid(message: str, **metadata: str) -> RetracedError:
    """Makes the error of an archive that cannot be read as one."""
    return RetracedError(
        Reason.ARCHIVE_INVALID, message, metadata=metadata, violations=[FieldViolation("archive_chunk", message)]
    )


def _missing(message: str) -> RetracedError:
    return RetracedError(Reason.PROGRAM_MISSING, message, violations=[FieldViolation("archive_chunk", message)])
