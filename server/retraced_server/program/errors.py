"""The errors of archives and programs that cannot be read or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from retraced_pt2.errors import Fault, FormatError, shortened
from retraced_server.errors import FieldViolation, Reason, RetracedError

_LONGEST_MESSAGE: Final = 2_000
_FIELD = "archive_chunk"


@contextmanager
def format_errors(**metadata: str) -> Iterator[None]:
    """Turn what the format package raises into errors of requests.

    Args:
        metadata: What else a program may want to know.

    Raises:
        RetracedError: The reason has the name of the fault.
    """
    try:
        yield
    except FormatError as error:
        raise format_error(error, **metadata) from error


def format_error(error: FormatError, **metadata: str) -> RetracedError:
    """Make the error of a request of what the format package raised; the reason has the name of the fault."""
    metadata = {**error.facts, **metadata}
    if error.fault is Fault.SCHEMA_UNSUPPORTED:
        return schema_unsupported(error.what, **metadata)
    return _error(Reason[error.fault.name], error.what, metadata)


def program_invalid(message: str, **metadata: str) -> RetracedError:
    """Make the error of a program that torch does not load either, or that would have torch execute what stands in it."""
    return _error(Reason.PROGRAM_INVALID, message, metadata)


def program_unsupported(message: str, **metadata: str) -> RetracedError:
    """Make the error of a program that torch loads, or may load in another version or with another module, and that is not taken."""
    return _error(Reason.PROGRAM_UNSUPPORTED, message, metadata)


def schema_unsupported(message: str, **metadata: str) -> RetracedError:
    """Make the error of a program in a schema version, or of an archive in a layout, that is not read."""
    return RetracedError(Reason.SCHEMA_UNSUPPORTED, message, metadata=metadata)


def located(error: RetracedError, where: str) -> RetracedError:
    """Return the same error, with the place in the program in front of its message."""
    message = f"{where}: {error.message}"
    violations = [FieldViolation(violation.field, message) for violation in error.violations]
    return RetracedError(error.reason, message, metadata=error.metadata, violations=violations)


def cause(error: BaseException) -> str:
    """Return an error of a library in one line, shortened."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {shortened(text)}"


def _error(reason: Reason, message: str, metadata: dict[str, str]) -> RetracedError:
    # Libraries repeat names from the file in their errors, and so do we.
    message = shortened(message, _LONGEST_MESSAGE)
    message = message if message.isprintable() else repr(message)[1:-1]
    return RetracedError(reason, message, metadata=metadata, violations=[FieldViolation(_FIELD, message)])
