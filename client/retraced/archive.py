"""The `.pt2` archive: a zip whose records lie under one root directory. Standard library only.

The root is only the file's name when it was written, so records are named without it: `models/model.json`. The layout is that
of torch/export/pt2_archive/constants.py.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from retraced.errors import ArchiveInvalid, ProgramMissing, SourceNotReadable

MODELS = "models/"

# The record at a zip's end, before the comment: its signature, and the bytes it has.
_END = b"PK\x05\x06"
_END_BYTES = 22


@dataclass(frozen=True)
class Record:
    """One entry of an archive: its name without the root, and the bytes it has, and takes in the archive."""

    name: str
    size: int
    stored_size: int


class Archive:
    """An archive, open for reading; a context manager.

    Args:
        source: A path, or a seekable file opened in binary mode, which is closed with the archive.
        name: What messages call it; None: the path.

    Raises:
        SourceNotReadable: The file cannot be opened.
        ArchiveInvalid: It is empty, not a zip, or cut off.
    """

    def __init__(self, source: str | os.PathLike[str] | IO[bytes], name: str | None = None) -> None:
        if isinstance(source, str | os.PathLike):
            self._path = name or os.fspath(source)
            try:
                file: IO[bytes] = open(source, "rb")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise SourceNotReadable(f"{self._path} cannot be read: {error.strerror}") from error
        else:
            self._path, file = name or str(getattr(source, "name", "the given file")), source
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
            self._check_end()
            self._entries = self._without_root(self._zip.infolist())
        except BaseException as error:
            with file:
                if isinstance(error, zipfile.BadZipFile | struct.error | ValueError | NotImplementedError | UnicodeError):
                    raise ArchiveInvalid(f"{self._path} {self._fault()}") from error
                if isinstance(error, OSError):
                    raise SourceNotReadable(f"{self._path} cannot be read: {error.strerror}") from error
                raise

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return os.fstat(self._file.fileno()).st_size

    def records(self) -> tuple[Record, ...]:
        """The records, in the order of the archive's directory."""
        return tuple(Record(name, entry.file_size, entry.compress_size) for name, entry in self._entries.items())

    def read(self, name: str) -> bytes:
        """One record's bytes, checked against its CRC.

        Args:
            name: Without the root.

        Raises:
            ArchiveInvalid: The record is not there, is compressed, or is damaged.
        """
        if name not in self._entries:
            raise ArchiveInvalid(f"{self._path} has no record {name}")
        if self._entries[name].compress_type != zipfile.ZIP_STORED:
            # A file of a megabyte could become a thousand; torch compresses nothing.
            raise ArchiveInvalid(f"{self._path}: record {name} is compressed, which torch's are not")
        try:
            return self._zip.read(self._entries[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
            raise ArchiveInvalid(f"{self._path}: record {name} is damaged: {error}") from error

    def model_name(self) -> str:
        """The name of the record that holds the program: the only one, or the one that `torch.export.save` calls `model`.

        Raises:
            ProgramMissing: No record holds an exported program.
        """
        models = [name for name in self._entries if name.startswith(MODELS) and name.endswith(".json")]
        if not models:
            raise ProgramMissing(f"{self._path} is a zip, but holds no exported program (no record models/*.json)")
        return "models/model.json" if "models/model.json" in models else models[0]

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._zip.close()
        self._file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _without_root(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        files = [entry for entry in entries if not entry.is_dir()]
        roots = {entry.filename.partition("/")[0] for entry in files}
        prefix = f"{roots.pop()}/" if len(roots) == 1 else ""
        return {entry.filename.removeprefix(prefix): entry for entry in files}

    def _check_end(self) -> None:
        """Refuses an archive that does not end where its directory does.

        Records may be zips themselves, and zipfile takes the last directory that it finds: that of a record, in an archive that
        was cut off.
        """
        self._file.seek(-_END_BYTES - len(self._zip.comment), os.SEEK_END)
        if self._file.read(len(_END)) != _END:
            raise zipfile.BadZipFile("the end of the directory is not the end of the file")

    def _fault(self) -> str:
        self._file.seek(0)
        beginning = self._file.read(4)
        if not beginning:
            return "is empty"
        if beginning == b"PK\x03\x04":
            return "is a zip that was cut off or damaged"
        return "is not a .pt2 archive: it is not a zip"
