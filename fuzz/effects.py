"""Sees what reading an archive does beyond computing, by CPython's audit events (PEP 578): code run, modules, files, processes, sockets."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import sympy.physics.units  # noqa: F401 - sympy imports it while it solves, and makes its symbols of texts

_FORBIDDEN: Final = (
    *(
        "os.",
        "subprocess.",
        "socket.",
        "ctypes.",
        "shutil.",
        "pickle.find_class",
        "tempfile.",
        "urllib.",
        "webbrowser.",
        "pty.",
    ),
    *(
        "ftplib.",
        "smtplib.",
        "http.",
        "mmap.",
        "code.__new__",
        "sys.set",
        "sys.addaudithook",
        "signal.",
        "syslog.",
        "builtins.input",
    ),
)
# A payload is mapped; folders are listed, and files looked at, when a lazy import looks for a module.
_HARMLESS: Final = frozenset(("mmap.__new__", "os.listdir", "os.scandir"))
_HARMLESS_FILES: Final = ("/proc/self/pagemap",)
# Signatures of builtins, annotations, and lines of source that a traceback shows.
_COMPILERS: Final = frozenset(
    (
        *(("inspect", "_signature_fromstr"), ("msgspec._utils", "get_class_annotations")),
        # sympy writes functions for monomials of as many variables as there are.
        ("sympy.polys.monomials", "_build"),
        ("traceback", "_extract_caret_anchors_from_line_segment"),
    )
)
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Effects:
    """Watches this process from now on; what it sees counts only inside `watched`."""

    def __init__(self) -> None:
        self._trusted = tuple({f"{os.path.realpath(path)}/" for path in (*sysconfig.get_paths().values(), *map(str, _ours()))})
        self._packages = frozenset(name.partition(".")[0] for name in sys.modules) | sys.stdlib_module_names
        self._sources: set[str] = set()
        self._archive: bytes | None = None
        self._learning = False
        self._seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def watched(self, archive: bytes) -> Iterator[list[str]]:
        """Return the list of effects while an archive is read; it grows as they happen."""
        self._seen = []
        self._archive = archive
        try:
            yield self._seen
        finally:
            self._archive = None

    @contextmanager
    def learned(self) -> Iterator[None]:
        """Take what code is made meanwhile, of an archive that nobody mutated, for harmless: torch has classes made in functions."""
        self._learning = True
        try:
            with self.watched(b""):
                yield
        finally:
            self._learning = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        archive = self._archive
        if archive is None:
            return
        # What is done here is not the reader's doing.
        self._archive = None
        try:
            if effect := self._effect(event, arguments, archive):
                self._seen.append(f"{event}: {effect[:500]}")
        finally:
            self._archive = archive

    def _effect(self, event: str, arguments: tuple[Any, ...], archive: bytes) -> str | None:
        """Return what an event is, in words, where it is one that reading may not cause."""
        # Not `exec`: code is compiled before, or comes with a module.
        if event == "compile":
            source = repr(arguments[0])
            if self._learning:
                self._sources.add(source)
            harmless = source in self._sources or self._is_trusted(arguments[1]) or _is_librarys(sys._getframe())
            return None if harmless else f"source of `{arguments[1]!s}`: {source}"
        if event == "import":
            name = str(arguments[0])
            known = name.partition(".")[0] in self._packages
            # A lazy import of torch's own is none of the file's, unless the file names it.
            return None if known and name.encode() not in archive else f"module `{name}`"
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int):
                # What opened the descriptor was seen.
                return None
            writing = bool(flags & _WRITING) if isinstance(flags, int) else any(letter in str(mode) for letter in "wax+")
            return f"`{path!s}` for {'writing' if writing else 'reading'}" if writing or not self._is_trusted(path) else None
        if event.startswith(_FORBIDDEN) and event not in _HARMLESS:
            return repr(arguments)
        return None

    def _is_trusted(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        path = os.fsdecode(path)
        return path in _HARMLESS_FILES or path.startswith("<frozen ") or os.path.realpath(path).startswith(self._trusted)


def _is_librarys(frame: FrameType | None) -> bool:
    """Whether a library compiles a text of its own or of a module's source."""
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _COMPILERS:
            return True
        frame = frame.f_back
    return False


def _ours() -> list[Path]:
    """Return the folders that our own code lies in."""
    root = Path(__file__).resolve().parents[1]
    return [root / name for name in ("format", "client", "server", "tests", "fuzz")]
