"""An output archive against the archive that was sent."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from typing import Final

from retraced._source_archive import Bytes, SourceArchive, chunks
from retraced.checks.layout import read_layout
from retraced.checks.model import check_model, parse_json
from retraced.checks.own import own_program
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
_WEIGHTS: Final = "data/weights/"
_CONSTANTS: Final = "data/constants/"
_LARGEST_RECORD: Final = 1 << 30
"""What is read into memory, which no payload is, has at most so many bytes."""


def check_output(output: Bytes, sent: Bytes, *, namespaces: Collection[str] = (), request_id: str = "") -> None:
    """Checks an output archive before anything else sees it.

    Args:
        output: The archive that a server sent.
        sent: The archive that it is made from.
        namespaces: Namespaces of custom operators that it may use, beside those of the program sent.
        request_id: The request's id, for the error.

    Raises:
        OutputUnsafe: It is neither the archive sent nor a plain program.
    """
    if same_bytes(output, sent):
        return
    try:
        _Output(output, sent, frozenset(namespaces)).check()
    except _FAULTS as error:
        raise OutputUnsafe(f"the server's output cannot be checked: {type(error).__name__}", request_id=request_id) from error
    except Refused as refused:
        where = " in ".join(refused.where[:2])
        raise OutputUnsafe(
            f"the server's output is not taken, since torch could run code from it: {refused.what}{f' ({where})' if where else ''}",
            metadata={"where": " in ".join(refused.where)} if where else {},
            request_id=request_id,
        ) from refused


def same_bytes(one: Bytes, other: Bytes) -> bool:
    """Whether two files hold the same."""
    if one.size != other.size:
        return False
    pairs = zip(chunks(one, 0, one.size), chunks(other, 0, other.size), strict=True)
    return all(left == right for left, right in pairs)


class _Output:
    def __init__(self, output: Bytes, sent: Bytes, namespaces: frozenset[str]) -> None:
        self._file = output
        self._entries = read_layout(output)
        self._sent = SourceArchive(sent)
        self._namespaces = namespaces

    def check(self) -> None:
        name = self._sent.program_name
        model, sample_inputs = f"models/{name}.json", f"data/sample_inputs/{name}.pt"
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
        own = own_program(self._sent.read(model) or b"", self._namespaces)
        check_model(parse_json(self._read(model)), own)

    def _is_sent(self, record: str) -> bool:
        """Whether a record is that of the archive sent."""
        given, sent = self._entries[record], self._sent.records.get(record)
        if sent is None or given.size != sent.size:
            return False
        pairs = zip(chunks(self._file, given.offset, given.size), self._sent.chunks(record), strict=True)
        return all(left == right for left, right in pairs)

    def _payloads(self, config: str, directory: str, pattern: re.Pattern[str]) -> set[str]:
        sizes = {name: entry.size for name, entry in self._entries.items()}
        return check_payloads(parse_json(self._read(config)), directory, pattern, sizes)

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
