"""Where an output goes: into memory or an unnamed file while it comes in, and to its path in one step."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from retraced.errors import OutputNotWritable, ResponseInvalid
from retraced_pt2.files import Bytes, chunks

_MEMORY_BYTES = 32 << 20


class Output:
    """An output archive while it comes in: in memory up to 32 MiB, then in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 - closed by close()
        self._hash = hashlib.sha256()
        self.name = "the output"
        self.size = 0

    @classmethod
    def of(cls, file: Bytes) -> Output:
        """Return an output that is the same as another file."""
        made = cls()
        for chunk in chunks(file, 0, file.size):
            made.append(chunk)
        return made

    def append(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises:
            OutputNotWritable: There is no room for temporary files.
        """
        try:
            self._file.write(chunk)
        except OSError as error:
            raise OutputNotWritable(
                f"no room for the output in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names another place"
            ) from error
        self._hash.update(chunk)
        self.size += len(chunk)

    def check(self, size: int, sha256: bytes, request_id: str) -> None:
        """Compare it with what the server says of it.

        Raises:
            ResponseInvalid: They differ.
        """
        if self.size != size:
            raise ResponseInvalid(f"the output has {self.size} bytes, and the server sent {size}", request_id=request_id)
        if self._hash.digest() != sha256:
            raise ResponseInvalid(
                f"the output's sha256 is {self._hash.hexdigest()}, and the server's {sha256.hex() or 'is missing'}",
                request_id=request_id,
            )

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        self._file.seek(offset)
        return self._file.read(size)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes from the first, in pieces of 1 MiB."""
        return chunks(self, 0, self.size)

    def close(self) -> None:
        """Return it up. May be called twice."""
        self._file.close()

    def __del__(self) -> None:
        # A result may be given up without being closed; the file would warn of it.
        self.close()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Return early what `write_atomically` would say late, as far as can be known.

    Raises:
        OutputNotWritable: The path is a directory, or nothing can be created beside it.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputNotWritable(f"{target} cannot be written: it is a directory")
    if not _is_special(target):
        with _beside(target):
            pass


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Write a file so that the path holds all of it or what it held before.

    The bytes go to a hidden file in the same directory, which is then renamed. A link is followed. A file that was there before
    passes its permissions on. A device or pipe, which cannot be renamed over, is written to as it is.

    Raises:
        OutputNotWritable: It cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputNotWritable(f"{target} cannot be written: it is a directory")
    if _is_special(target):
        with _as_typed(target), target.open("wb") as file:
            _write(file, chunks)
        return
    with _beside(target) as (file, name), _as_typed(target):
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
        _write(file, chunks)
        os.replace(name, os.path.realpath(target))


def _write(file: IO[bytes], chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        file.write(chunk)
    file.flush()


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Make a new file in the directory of what the path stands for, and its path; removed at the end if it is still there."""
    real = Path(os.path.realpath(target))
    name = real.with_name(f".{real.name[:200]}.{secrets.token_hex(4)}.tmp")
    with _as_typed(target):
        # With the mode of any new file; tempfile would make it private.
        file = name.open("xb")
    try:
        yield file, name
    finally:
        # A full disk fails the close once more, when the error is known already.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(FileNotFoundError):
            name.unlink()


@contextlib.contextmanager
def _as_typed(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputNotWritable(f"{target} cannot be written: {error.strerror or error}") from error


def _is_special(target: Path) -> bool:
    try:
        return not stat.S_ISREG(target.stat().st_mode)
    except OSError:
        return False
