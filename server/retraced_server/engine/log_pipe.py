"""The output lines of another process, on their way into the log."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

_READ_BYTES = 1 << 16
_LONGEST_LINE = 8192
_TAIL_LINES = 20


class LogPipe:
    """A pipe that another process writes its output to, line by line. Needs a running event loop.

    Args:
        log: Takes each line.
        max_bytes: How much is logged; what comes after is read and dropped. 0 is no limit.
        max_lines: The same in lines: a log writes more around a short one than it has.
    """

    def __init__(self, log: Callable[[str], None], max_bytes: int = 0, max_lines: int = 0) -> None:
        self._log = log
        self._left = max_bytes or None
        self._lines_left = max_lines or None
        self._pending = b""
        self._loop = asyncio.get_running_loop()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_fd, False)
        self._loop.add_reader(self._read_fd, self._read)

    def fileno(self) -> int:
        """Return the end to write to."""
        return self._write_fd

    def handed_over(self) -> None:
        """Close the end to write to, once the other process has it."""
        if self._write_fd >= 0:
            os.close(self._write_fd)
            self._write_fd = -1

    def close(self) -> None:
        """Read what is there, and close. Twice is once."""
        self.handed_over()
        while self._read_fd >= 0 and self._read():
            pass
        self._close()

    def _read(self) -> bool:
        try:
            data = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._take(data)
        else:
            self._close()
        return bool(data)

    def _take(self, data: bytes) -> None:
        if self._left == 0 or self._lines_left == 0:
            return
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._pending) > _LONGEST_LINE:
            self._flush()
        if self._left == 0:
            self._flush()
            if self._lines_left != 0:
                self._cut_short()

    def _cut_short(self) -> None:
        self._log("(it writes more than is logged)")

    def _flush(self) -> None:
        if self._pending:
            self._line(self._pending)
            self._pending = b""

    def _line(self, line: bytes) -> None:
        for start in range(0, len(line), _LONGEST_LINE):
            text = line[start : start + _LONGEST_LINE].decode(errors="backslashreplace").rstrip()
            if text and self._lines_left != 0:
                self.tail.append(text)
                self._log(text)
                if self._lines_left is not None:
                    self._lines_left -= 1
                    if self._lines_left == 0:
                        self._cut_short()

    def _close(self) -> None:
        if self._read_fd >= 0:
            self._flush()
            self._loop.remove_reader(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = -1
