"""Holds an archive while it is uploaded: in memory while it is small, in an unlinked file when it is not."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from retraced_server.errors import Reason, RetracedError

_COPY_BYTES = 1 << 20
# No room, on the disk or for one more descriptor: either passes when other requests end.
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class Spool:
    """Bytes behind a file descriptor.

    Up to `memory_bytes` they are in an anonymous memory file, beyond that in a file without a name in `directory`, so that nothing
    is left behind whichever way the server ends.

    Raises:
        RetracedError: STORAGE_FULL: this process has no descriptors left.
    """

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._directory = directory
        self._memory_bytes = memory_bytes
        with _told_as_full():
            self._fd = os.memfd_create("retraced-spool", os.MFD_CLOEXEC)
        self._on_disk = False
        self._size = 0
        self._digest = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def sha256(self) -> bytes:
        """The digest of the bytes written so far."""
        return self._digest.digest()

    @property
    def on_disk(self) -> bool:
        """Whether the bytes are in a file on disk."""
        return self._on_disk

    def fileno(self) -> int:
        """Return the descriptor, for reading and writing; its offset is undefined."""
        return self._fd

    def reader(self) -> io.FileIO:
        """Open the bytes anew, for reading only and from the start: what a worker is handed."""
        return io.FileIO(f"/proc/self/fd/{self._fd}")

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            RetracedError: STORAGE_FULL.
        """
        with _told_as_full():
            if not self._on_disk and self._size + len(data) > self._memory_bytes:
                self._move_to_disk()
            view = memoryview(data)
            while view:
                written = os.pwrite(self._fd, view, self._size)
                self._size += written
                view = view[written:]
        self._digest.update(data)

    def close(self) -> None:
        """Return the bytes up. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _move_to_disk(self) -> None:
        with tempfile.TemporaryFile(dir=self._directory) as file:
            disk = os.dup(file.fileno())
        try:
            offset = 0
            while offset < self._size:
                offset += os.sendfile(disk, self._fd, offset, _COPY_BYTES)
        except BaseException:
            os.close(disk)
            raise
        os.close(self._fd)
        self._fd = disk
        self._on_disk = True


@contextmanager
def _told_as_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RetracedError(
            Reason.STORAGE_FULL, f"the server cannot store the archive: {os.strerror(error.errno)}", retry_after=10.0
        ) from error
