"""Where a program's bytes come from, as one thing: a size, reads at an offset, and whether they can be read again."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, runtime_checkable

from retraced.errors import SourceNotReadable

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_COPY_BYTES = 1 << 20


@runtime_checkable
class Readable(Protocol):
    """A file object: `read(size)` gives bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


ProgramSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable
if TYPE_CHECKING:
    AnySource = ProgramSource | ExportedProgram


class Source(Protocol):
    """An archive's bytes. Reads may come from another thread than `close`."""

    name: str
    size: int
    # Whether the same bytes are there after the call, so that a server need not send them back.
    can_reread: bool

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`.

        Raises:
            SourceNotReadable: They cannot be read, or are no longer what they were.
        """
        ...

    def close(self) -> None:
        """Return it up. May be called twice."""
        ...


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.name = "the given bytes"
        self.size = len(data)
        self.can_reread = True
        self._data = data

    def read_at(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        return self._data[offset : offset + size]

    def close(self) -> None:
        """See `Source`."""
        self._data = b""


class FileSource:
    """A regular file. It stays open, so that its bytes are still there when the path is written over by a rename."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.can_reread = True
        self._file = file
        self._lock = threading.Lock()
        self._stamp = self._now()
        self.size = self._stamp[0]

    def read_at(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        with self._lock:
            if self._file.closed:
                raise SourceNotReadable(f"{self.name} is closed")
            try:
                data = os.pread(self._file.fileno(), size, offset)
                if self._now() != self._stamp:
                    raise SourceNotReadable(f"{self.name} was changed while it was in use")
            except OSError as error:
                raise SourceNotReadable(f"{self.name} cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise SourceNotReadable(f"{self.name} gave {len(data)} bytes at offset {offset}, not {size}")
        return data

    def close(self) -> None:
        """See `Source`."""
        with self._lock:
            self._file.close()

    def __del__(self) -> None:
        # A result may be given up without being closed; the file would warn of it.
        self._file.close()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


class StreamSource:
    """A caller's seekable file object, from where it stands to its end. It is left open, and read only during the call."""

    def __init__(self, file: IO[bytes]) -> None:
        self.name = _name_of(file)
        self.can_reread = False
        self._file: IO[bytes] | None = file
        self._lock = threading.Lock()
        self._start = file.tell()
        self.size = file.seek(0, os.SEEK_END) - self._start
        file.seek(self._start)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        data = bytearray()
        with self._lock:
            if self._file is None:
                raise SourceNotReadable(f"{self.name} is closed")
            try:
                self._file.seek(self._start + offset)
                while len(data) < size and (piece := self._file.read(size - len(data))):
                    data += piece
            except (OSError, ValueError) as error:
                raise SourceNotReadable(f"{self.name} cannot be read: {error}") from error
        if len(data) != size:
            raise SourceNotReadable(f"{self.name} ended {size - len(data)} bytes early")
        return bytes(data)

    def close(self) -> None:
        """See `Source`."""
        with self._lock:
            self._file = None


def open_source(source: AnySource) -> Source:
    """Open whatever a caller may give.

    Args:
        source: A path, bytes, a file object opened in binary mode (read from where it stands), or a
            `torch.export.ExportedProgram`.

    Raises:
        SourceNotReadable: It cannot be read.
        TypeError: It is of another type.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesSource(bytes(source))
    if isinstance(source, io.TextIOBase):
        raise TypeError("the source is a text file object; open it in binary mode")
    if isinstance(source, Readable):
        return _open_stream(source)
    # Only a process that has torch can hold an ExportedProgram.
    if "torch" in sys.modules:
        from retraced import _torch

        if _torch.is_exported_program(source):
            return FileSource(_torch.save(source), "the exported program")
    raise TypeError(f"the source is a path, bytes, a binary file object or an ExportedProgram, not {type(source).__name__}")


def _open_path(path: Path) -> Source:
    try:
        file = path.open("rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return FileSource(file, str(path))
        with file:
            return _spooled(file, str(path))
    except OSError as error:
        raise SourceNotReadable(f"{path} cannot be read: {error.strerror}") from error


def _open_stream(file: Readable) -> Source:
    try:
        # A zip of unknown origin may say that it can seek and then not do it; such a file is copied.
        seekable = isinstance(file, io.IOBase) and file.seekable()
        return StreamSource(file) if seekable else _spooled(file, _name_of(file))  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise SourceNotReadable(f"{_name_of(file)} cannot be read: {error}") from error


def _spooled(file: Readable, name: str) -> Source:
    # The size has to be known before the first byte is sent.
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the source owns it
    try:
        while data := file.read(_COPY_BYTES):
            spool.write(data)
        spool.flush()
        return FileSource(spool, name)
    except BaseException:
        spool.close()
        raise


def _name_of(file: object) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else f"the given {type(file).__name__}"
