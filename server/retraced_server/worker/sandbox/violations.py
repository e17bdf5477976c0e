"""Which errors of a job are refusals of the sandbox, and of what kind.

The kernel says only errno. The filter's refusals differ in it (see `syscalls`), and Landlock's name a file.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from retraced_server.errors import text_of


class ViolationKind(Enum):
    """What was refused."""

    READ = "SANDBOX_READ_DENIED"
    WRITE = "SANDBOX_WRITE_DENIED"
    NETWORK = "SANDBOX_NETWORK_DENIED"
    OPERATION = "SANDBOX_OPERATION_DENIED"
    LIMIT = "SANDBOX_LIMIT_EXCEEDED"


@dataclass(frozen=True)
class Violation:
    """Something that a job did and that the sandbox refused.

    Attributes:
        kind: What was refused.
        message: The same in words.
        path: The file, where it was one.
    """

    kind: ViolationKind
    message: str
    path: str | None = None


_OPERATION = (
    "the sandbox refused a system call: workers start no processes and run no programs, send no signals, map no code and change no "
    "privileges"
)
_CODE = (
    "the sandbox refused to load a library: workers map no code; a module with compiled parts has to be imported before workers are "
    "forked, with the option --import of the server"
)
_NETWORK = "the sandbox refused a use of the network: workers have none"
# How the dynamic linker says it. It has no errno.
_LINKER = ("failed to map segment from shared object", "cannot open shared object file: Permission denied")
# CPython, when clone(2) failed.
_NO_THREAD = "can't start new thread"


def violation_of(error: BaseException, writable: Path | None, readable: Sequence[Path]) -> Violation | None:
    """Return what the sandbox refused, if that is what an error, or one that it came from, is.

    Args:
        error: The error.
        writable: The worker's scratch folder; None if it had none.
        readable: What the worker may read.
    """
    for each in _origins(error):
        violation = _of_one(each, writable, readable)
        if violation is not None:
            return violation
    return None


def _origins(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_one(error: BaseException, writable: Path | None, readable: Sequence[Path]) -> Violation | None:
    if isinstance(error, socket.gaierror):
        return Violation(ViolationKind.NETWORK, _NETWORK)
    if isinstance(error, ImportError | OSError) and any(text in text_of(error) for text in _LINKER):
        return Violation(ViolationKind.OPERATION, _CODE)
    if isinstance(error, RuntimeError) and _NO_THREAD in text_of(error):
        return Violation(ViolationKind.LIMIT, "the worker started more threads than it may")
    return _of_errno(error, writable, readable) if isinstance(error, OSError) else None


def _of_errno(error: OSError, writable: Path | None, readable: Sequence[Path]) -> Violation | None:
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    match error.errno:
        case errno.EPERM:
            return Violation(ViolationKind.OPERATION, _OPERATION, path)
        case errno.EROFS | errno.EXDEV:
            return Violation(ViolationKind.WRITE, _write_text(path, writable), path)
        case errno.EACCES if path is None:
            return Violation(ViolationKind.NETWORK, _NETWORK)
        case errno.EACCES if error.filename2 is None and (writable is None or _outside_and_there(path, (writable, *readable))):
            return Violation(
                ViolationKind.READ, f"the sandbox refused to open {path}: workers read Python's packages only", path
            )
        case errno.EACCES:
            return Violation(ViolationKind.WRITE, _write_text(path, writable), path)
        case errno.EFBIG | errno.EMFILE:
            return Violation(ViolationKind.LIMIT, f"the worker passed a limit on files: {error.strerror}", path)
        case _:
            return None


def _write_text(path: str | None, writable: Path | None) -> str:
    what = f"{path} " if path else "a file "
    where = "none" if writable is None else "those in their scratch folder only"
    return f"the sandbox refused to change {what}: workers write {where}".replace(" :", ":")


def _outside_and_there(path: str | None, inside: Sequence[Path]) -> bool:
    # With a scratch folder, reading and writing are refused alike. What is not there, or may be read, can only have been written to.
    if path is None or not os.path.lexists(path):
        return False
    real = Path(os.path.realpath(path))
    return not any(real.is_relative_to(each) for each in inside)
