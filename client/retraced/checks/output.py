"""An output archive against the archive that was sent."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from functools import cached_property
from typing import Final

from retraced._collector import collector_paused
from retraced._source_archive import SourceArchive
from retraced.checks.input_baseline import InputBaseline, input_baseline
from retraced.checks.model import check_model, parse_json
from retraced.checks.names import Paths
from retraced.checks.payloads import check_payloads
from retraced.checks.refusal import Refused, shown
from retraced.errors import OutputUnsafe
from retraced_pt2.archive import Archive
from retraced_pt2.errors import FormatError
from retraced_pt2.files import Bytes, chunks
from retraced_pt2.record_names import CONSTANTS, CONSTANTS_CONFIG, MODEL, SAMPLE_INPUTS, WEIGHTS, WEIGHTS_CONFIG

# What torch writes of a file beside its program.
_OF_FILE: Final = {".data/version": re.compile(rb"\d{1,4}\n?"), ".data/serialization_id": re.compile(rb"\d{40}")}
_READ_WITH_THE_NAMES: Final = frozenset(("archive_format", "archive_version", "byteorder"))
# What a check could trip over that does not expect what it is given.
_FAULTS: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error)


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
        """Read what an output will be compared with. Worth it while that is on its way; `check` does so too."""
        _ = self._baseline

    def check(self, output: Bytes, request_id: str = "") -> None:
        """Check an output archive before anything else sees it.

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
        except FormatError as error:
            where = " in ".join(error.where[:2])
            raise OutputUnsafe(
                "the server's output is not taken, since torch could run code from it: "
                f"{error.what}{f' ({where})' if where else ''}",
                metadata={"where": " in ".join(error.where)} if where else {},
                request_id=request_id,
            ) from error

    @cached_property
    def _baseline(self) -> tuple[SourceArchive, InputBaseline]:
        archive = SourceArchive(self._sent)
        model = archive.read(MODEL.format(archive.program_name)) or b""
        with collector_paused():
            return archive, input_baseline(model, self._namespaces)


def same_bytes(one: Bytes, other: Bytes) -> bool:
    """Whether two files hold the same."""
    if one.size != other.size:
        return False
    pairs = zip(chunks(one, 0, one.size), chunks(other, 0, other.size), strict=True)
    return all(left == right for left, right in pairs)


class _Output:
    """One output. Each record is read once, and its checksum is compared as it is."""

    def __init__(self, output: Bytes, sent: SourceArchive, baseline: InputBaseline) -> None:
        self._archive = Archive(output)
        self._sent = sent
        self._baseline = baseline

    def check(self) -> None:
        name = self._archive.find_program()
        if name != self._sent.program_name:
            raise Refused(f"the program is called {shown(name)}, and was sent as {self._sent.program_name}")
        model, sample_inputs = MODEL.format(name), SAMPLE_INPUTS.format(name)
        weights, constants = WEIGHTS_CONFIG.format(name), CONSTANTS_CONFIG.format(name)
        left = self._archive.records.keys() - _READ_WITH_THE_NAMES
        for needed in (model, sample_inputs, weights, constants):
            if needed not in left:
                raise Refused(f"the record {needed} is missing")
        left -= {model, sample_inputs, weights, constants}
        left -= self._payloads(weights, WEIGHTS)
        left -= self._payloads(constants, CONSTANTS)
        for record in sorted(left):
            self._other(record)
        if self._archive.records[sample_inputs].size and not self._is_sent(sample_inputs):
            raise Refused("its sample inputs are not those of the archive sent, and torch unpickles them")
        data = self._archive.read(model)
        with collector_paused():
            check_model(parse_json(data), self._baseline)

    def _is_sent(self, record: str) -> bool:
        """Whether a record is that of the archive sent."""
        sent = self._sent.records.get(record)
        if sent is None or self._archive.records[record].size != sent.size:
            return False
        pairs = zip(self._archive.chunks(record), self._sent.chunks(record), strict=True)
        return all(left == right for left, right in pairs)

    def _payloads(self, config: str, directory: str) -> set[str]:
        sizes = {name: extent.size for name, extent in self._archive.records.items()}
        used = check_payloads(parse_json(self._archive.read(config)), directory, sizes, Paths(self._baseline.paths).check)
        for record in used:
            for _ in self._archive.chunks(record):
                pass
        return used

    def _other(self, record: str) -> None:
        pattern = _OF_FILE.get(record)
        if pattern is not None:
            if pattern.fullmatch(self._archive.read(record)) is None:
                raise Refused(f"the record {record} is not what torch writes")
        elif record.startswith((WEIGHTS, CONSTANTS)):
            raise Refused(f"the record {shown(record)} is a payload that no config names")
        elif not self._is_sent(record):
            raise Refused(f"the record {shown(record)} is not of the archive sent")
