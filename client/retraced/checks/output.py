"""An output archive against the archive that was sent."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from functools import cached_property
from typing import Final

from retraced._collector import collector_paused
from retraced._source_archive import Bytes, SourceArchive, chunks
from retraced.checks.input_baseline import InputBaseline, input_baseline
from retraced.checks.layout import read_layout
from retraced.checks.model import check_model, parse_json
from retraced.checks.names import Paths
from retraced.checks.payloads import check_payloads
from retraced.checks.refusal import Refused, shown
from retraced.errors import OutputUnsafe

_CONSTANT_RECORDS: Final = {
    "archive_format": re.compile(rb"pt2"),
    "archive_version": re.compile(rb"0"),
    "byteorder": re.compile(rb"little"),
    ".data/version": re.compile(rb"\d{1,4}\n?"),
    ".data/serialization_id": re.compile(rb"\d{40}"),
}
# What a check could trip over that does not expect what it is given.
_FAULTS: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error)
_MODEL: Final = "models/{}.json"
_WEIGHTS: Final = "data/weights/"
_CONSTANTS: Final = "data/constants/"
_LARGEST_RECORD: Final = 1 << 30
"""What is read into memory, which no payload is, has at most so many bytes."""


class OutputCheck:
    """Checks what a server makes of an archive.

    Args:
        sent: The archive.
        namespaces: Namespaces of custom operators that an output may use, beside those of the program sent.
    """

    def __init__(self, sent: Bytes, namespaces: Collection[str] = ()) -> None:
        self._sent = sent
        self._namespaces = frozenset(namespaces)

    def prepare(self) -> None:
        """Reads what an output will be compared with. Worth it while that is on its way; `check` does so too."""
        _ = self._baseline

    def check(self, output: Bytes, request_id: str = "") -> None:
        """Checks an output archive before anything else sees it.

        Raises:
            OutputUnsafe: It is neither the archive sent nor a plain program.
        """
        if same_bytes(output, self._sent):
            return
        try:
            _Output(output, *self._baseline).check()
        except _FAULTS as error:
            raise OutputUnsafe(
                f"the server's output cannot be checked: {type(error).__name__}", request_id=request_id
            ) from error
        except Refused as refused:
            where = " in ".join(refused.where[:2])
            raise OutputUnsafe(
                "the server's output is not taken, since torch could run code from it: "
                f"{refused.what}{f' ({where})' if where else ''}",
                metadata={"where": " in ".join(refused.where)} if where else {},
                request_id=request_id,
            ) from refused

    @cached_property
    def _baseline(self) -> tuple[SourceArchive, InputBaseline]:
        archive = SourceArchive(self._sent)
        model = archive.read(_MODEL.format(archive.program_name)) or b""
        with collector_paused():
            return archive, input_baseline(model, self._namespaces)


def same_bytes(one: Bytes, other: Bytes) -> bool:
    """Whether two files hold the same."""
    if one.size != other.size:
        return False
    pairs = zip(chunks(one, 0, one.size), chunks(other, 0, other.size), strict=True)
    return all(left == right for left, right in pairs)


class _Output:
    def __init__(self, output: Bytes, sent: SourceArchive, baseline: InputBaseline) -> None:
        self._file = output
        self._entries = read_layout(output)
        self._sent = sent
        self._baseline = baseline

    def check(self) -> None:
        name = self._sent.program_name
        model, sample_inputs = _MODEL.format(name), f"data/sample_inputs/{name}.pt"
        weights, constants = f"{_WEIGHTS}{name}_weights_config.json", f"{_CONSTANTS}{name}_constants_config.json"
        left = {*self._entries}
        for needed in (model, sample_inputs, weights, constants, "archive_format", "archive_version"):
            if needed not in left:
                raise Refused(f"the record {needed} is missing")
        left -= {model, sample_inputs, weights, constants}
        left -= self._payloads(weights, _WEIGHTS, re.compile(r"weight_\d{1,9}", re.ASCII))
        left -= self._payloads(constants, _CONSTANTS, re.compile(r"tensor_\d{1,9}", re.ASCII))
        for record in sorted(left):
            self._other(record)
        if self._entries[sample_inputs].size and not self._is_sent(sample_inputs):
            raise Refused("its sample inputs are not those of the archive sent, and torch unpickles them")
        data = self._read(model)
        with collector_paused():
            check_model(parse_json(data), self._baseline)

    def _is_sent(self, record: str) -> bool:
        """Whether a record is that of the archive sent."""
        given, sent = self._entries[record], self._sent.records.get(record)
        if sent is None or given.size != sent.size:
            return False
        pairs = zip(chunks(self._file, given.offset, given.size), self._sent.chunks(record), strict=True)
        return all(left == right for left, right in pairs)

    def _payloads(self, config: str, directory: str, pattern: re.Pattern[str]) -> set[str]:
        sizes = {name: entry.size for name, entry in self._entries.items()}
        return check_payloads(parse_json(self._read(config)), directory, pattern, sizes, Paths(self._baseline.paths).check)

    def _other(self, record: str) -> None:
        pattern = _CONSTANT_RECORDS.get(record)
        if pattern is not None:
            if pattern.fullmatch(self._read(record)) is None:
                raise Refused(f"the record {record} is not what torch writes")
        elif record.startswith(("models/", "data/weights/", "data/constants/", "data/sample_inputs/")):
            raise Refused(f"the record {shown(record)} is not one of a single plain program")
        elif record not in self._sent.records or not self._is_sent(record):
            raise Refused(f"the record {shown(record)} is not of the archive sent")

    def _read(self, record: str) -> bytes:
        entry = self._entries[record]
        if entry.size > _LARGEST_RECORD:
            raise Refused(f"the record {shown(record)} has {entry.size} bytes")
        return self._file.read_at(entry.offset, entry.size)
