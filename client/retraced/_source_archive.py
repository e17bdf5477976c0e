"""The records of the archive that a caller sends, read from its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from retraced_pt2.archive import Archive
from retraced_pt2.errors import FormatError
from retraced_pt2.files import Bytes, Extent, chunks
from retraced_pt2.record_names import MODEL_NAME


class SourceArchive:
    """An archive by its records' names without the root. One that cannot be read has none: it is the server that says what is wrong.

    Attributes:
        program_name: The name of its program, `model` where that cannot be told.
        records: Its records, in order.
    """

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self.records: Mapping[str, Extent] = {}
        with suppress(FormatError):
            self.records = Archive(source).records
        programs = [match[1] for match in map(MODEL_NAME.fullmatch, self.records) if match is not None]
        self.program_name = programs[0] if len(programs) == 1 else "model"

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a record; None where there is none of that name."""
        record = self.records.get(name)
        return None if record is None else self._source.read_at(record.offset, record.size)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Return the bytes of a record in pieces of 1 MiB."""
        record = self.records[name]
        return chunks(self._source, record.offset, record.size)
