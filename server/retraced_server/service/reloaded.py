"""What files say, read again whenever they change: renewed certificates and new callers need no restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

_T = TypeVar("_T")

_log = structlog.stdlib.get_logger("retraced")


class FileError(Exception):
    """A file cannot be read, or does not hold what it should; the message says which, and why."""


class Reloaded(Generic[_T]):
    """A value that is made of files.

    Args:
        paths: The files.
        read: Makes the value of them. What it raises as a FileError at first is raised here; later, when a file is only half
            replaced for example, the value stays what it was.

    Raises:
        FileError: The files cannot be used.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], _T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._seen = self._look()
        self._value = read()

    @property
    def value(self) -> _T:
        """The value that the files have now."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._value = self._read()
            except FileError as error:
                _log.warning("a file that changed cannot be used, and what it said before stays in force", error=str(error))
            else:
                _log.info("files were read again", files=[str(path) for path in self._paths])
        return self._value

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_version(path) for path in self._paths]


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        FileError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
