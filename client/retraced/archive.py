"""The `.pt2` archive: a zip whose records lie under one root directory.

The root is only the file's name when it was written, so records are named without it: `models/model.json`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from retraced._source import open_source
from retraced.errors import ArchiveInvalid, ProgramMissing, SchemaUnsupported
from retraced_pt2 import archive as pt2
from retraced_pt2.errors import CompressedRecordError, Fault, FormatError
from retraced_pt2.zip_format import LOCAL_MAGIC

MODELS = "models/"


@dataclass(frozen=True)
class Record:
    """One entry of an archive: its name without the root, and the bytes it has, and takes in the archive."""

    name: str
    size: int
    stored_size: int


class Archive:
    """An archive, open for reading; a context manager.

    Args:
        source: A path, or a file opened in binary mode, which is read from where it stands, and left open.
        name: What messages call it; None: the path.

    Raises:
        SourceNotReadable: The file cannot be opened.
        ArchiveInvalid: It is empty, not a zip, cut off, or one that readers may read in different ways.
        ProgramMissing: It is of another kind of file.
        SchemaUnsupported: It is in an older layout.
    """

    def __init__(self, source: str | os.PathLike[str] | IO[bytes], name: str | None = None) -> None:
        self._source = open_source(source)
        self._name = name or self._source.name
        try:
            self._archive = pt2.Archive(self._source)
        except FormatError as error:
            with self:
                raise self._error(error) from error
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._source.size

    def records(self) -> tuple[Record, ...]:
        """Return the records, in the order of the archive's directory."""
        return tuple(Record(name, extent.size, extent.size) for name, extent in self._archive.records.items())

    def read(self, name: str) -> bytes:
        """Return one record's bytes, checked against its CRC.

        Args:
            name: Without the root.

        Raises:
            ArchiveInvalid: The record is not there, or is damaged.
        """
        if name not in self._archive.records:
            raise ArchiveInvalid(f"{self._name} has no record {name}")
        try:
            return self._archive.read(name)
        except FormatError as error:
            raise ArchiveInvalid(f"{self._name}: record {name} is damaged: {error.what}") from error

    def model_name(self) -> str:
        """Return the name of the record that holds the program: the only one, or the one that `torch.export.save` calls `model`.

        Raises:
            ProgramMissing: No record holds an exported program.
        """
        models = [name for name in self._archive.records if name.startswith(MODELS) and name.endswith(".json")]
        if not models:
            raise ProgramMissing(f"{self._name} is a zip, but holds no exported program (no record models/*.json)")
        return "models/model.json" if "models/model.json" in models else models[0]

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._source.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _error(self, error: FormatError) -> Exception:
        beginning = self._source.read_at(0, min(len(LOCAL_MAGIC), self.size))
        if isinstance(error, CompressedRecordError):
            name = error.name.partition("/")[2]
            return ArchiveInvalid(f"{self._name}: record {name} is compressed, which torch's are not")
        if error.fault is not Fault.ARCHIVE_INVALID:
            kind = SchemaUnsupported if error.fault is Fault.SCHEMA_UNSUPPORTED else ProgramMissing
            return kind(f"{self._name}: {error.what}")
        if not beginning:
            return ArchiveInvalid(f"{self._name} is empty")
        if beginning == LOCAL_MAGIC:
            return ArchiveInvalid(f"{self._name} is a zip that was cut off or damaged: {error.what}")
        return ArchiveInvalid(f"{self._name} is not a .pt2 archive: it is not a zip")
