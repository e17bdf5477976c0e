"""The error of what is not of the format. Each reader turns it into an error of its own."""

from __future__ import annotations

from enum import Enum

_LONGEST = 500


class Fault(Enum):
    """Which kind of fault something has."""

    ARCHIVE_INVALID = "no archive that all readers read alike"
    PROGRAM_MISSING = "an archive of something else"
    PROGRAM_INVALID = "nothing that torch loads, or what has it execute a text"
    PROGRAM_UNSUPPORTED = "of the format, and not read"
    SCHEMA_UNSUPPORTED = "of another version or layout of the format"


class FormatError(Exception):
    """Something is not of the format.

    Attributes:
        fault: Which kind of fault it is.
        what: What is wrong, in one or two sentences.
        where: The place, from the innermost field outwards.
        facts: What a program may want to know of it: the record, the tensor.
    """

    def __init__(self, fault: Fault, what: str, **facts: str) -> None:
        super().__init__(what)
        self.fault = fault
        self.what = what
        self.where: list[str] = []
        self.facts = facts

    def __str__(self) -> str:
        return self.what


class CompressedRecordError(FormatError):
    """A record of an archive is compressed or encrypted: a file of a megabyte could become a thousand.

    Attributes:
        name: Its name with the root.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            Fault.ARCHIVE_INVALID,
            f"the archive's record `{shortened(name, 200)}` is compressed or encrypted; torch stores records plain",
        )
        self.name = name


def damaged(name: str, how: str) -> FormatError:
    """Return the error of a record whose bytes are not what the archive says of them."""
    return FormatError(
        Fault.ARCHIVE_INVALID, f"the archive's record `{shortened(name, 200)}` is damaged: {how}", record=name[:200]
    )


def invalid(what: str, **facts: str) -> FormatError:
    """Return the error of what torch does not load either, or would execute."""
    return FormatError(Fault.PROGRAM_INVALID, what, **facts)


def unsupported(what: str, **facts: str) -> FormatError:
    """Return the error of what is of the format and not read."""
    return FormatError(Fault.PROGRAM_UNSUPPORTED, what, **facts)


def shortened(text: str, length: int = _LONGEST) -> str:
    """Return a text from a file as a message may hold it: bounded, and without what a terminal would act on."""
    shown = text if len(text) <= length else f"{text[:length]}…"
    return shown if shown.isprintable() else repr(shown)[1:-1]
