"""The errors of archives and programs that cannot be read or written."""

from __future__ import annotations

from retraced_server.errors import FieldViolation, Reason, RetracedError

_LONGEST_CAUSE = 500
_FIELD = "archive_chunk"


def archive_invalid(message: str, **metadata: str) -> RetracedError:
    """Makes the error of an archive that cannot be read as one."""
    return _error(Reason.ARCHIVE_INVALID, message, metadata)


def program_missing(message: str) -> RetracedError:
    """Makes the error of an archive that holds no exported program."""
    return _error(Reason.PROGRAM_MISSING, message, {})


def program_invalid(message: str, **metadata: str) -> RetracedError:
    """Makes the error of a program that torch does not load either, or that would have torch execute what stands in it."""
    return _error(Reason.PROGRAM_INVALID, message, metadata)


def program_unsupported(message: str, **metadata: str) -> RetracedError:
    """Makes the error of a program that torch loads, or may load in another version or with another module, and that is not taken."""
    return _error(Reason.PROGRAM_UNSUPPORTED, message, metadata)


def schema_unsupported(message: str, **metadata: str) -> RetracedError:
    """Makes the error of a program in a schema version, or of an archive in a layout, that is not read."""
    return RetracedError(Reason.SCHEMA_UNSUPPORTED, message, metadata=metadata)


def located(error: RetracedError, where: str) -> RetracedError:
    """The same error, with the place in the program in front of its message."""
    message = f"{where}: {error.message}"
    violations = [FieldViolation(violation.field, message) for violation in error.violations]
    return RetracedError(error.reason, message, metadata=error.metadata, violations=violations)


def cause(error: BaseException) -> str:
    """An error of a library in one line, shortened."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {shortened(text)}"


def shortened(text: str, length: int = _LONGEST_CAUSE) -> str:
    """A text from a file for a message: bounded, and without what a terminal would act on."""
    shown = text if len(text) <= length else f"{text[:length]}…"
    return shown if shown.isprintable() else repr(shown)[1:-1]


def _error(reason: Reason, message: str, metadata: dict[str, str]) -> RetracedError:
    # Libraries repeat names from the file in their errors.
    message = message if message.isprintable() else repr(message)[1:-1]
    return RetracedError(reason, message, metadata=metadata, violations=[FieldViolation(_FIELD, message)])
