"""Folders for temporary files that go with their owner: at its end, or, if it was killed, at the start of the next server.

The owner holds a lock (flock(2)) on its folder, which the kernel takes away with the process. So a folder without a lock is nobody's.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "retraced-scratch-"
_ATTEMPTS = 5

_log = logging.getLogger("retraced")


class ScratchFolder:
    """A folder of this process.

    Args:
        parent: Where it is made.

    Raises:
        OSError: It cannot be made, or its file system has no locks.
    """

    def __init__(self, parent: Path) -> None:
        for _ in range(_ATTEMPTS):
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            if (lock := _lock(self.path)) is not None:
                self._fd = lock
                return
            # Another server may have removed it before it was locked.
            shutil.rmtree(self.path, ignore_errors=True)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(parent))

    def remove(self) -> None:
        """Remove it with all that is in it. Twice is once."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def remove_abandoned(parent: Path) -> None:
    """Remove the folders there whose owners were killed. Those of servers that run, and of other users, are left alone."""
    for path in parent.glob(f"{_PREFIX}*"):
        if (lock := _lock(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            _log.info("removed %s, which a server that was killed had left", path)


def _lock(path: Path) -> int | None:
    """Lock a folder of this user's; None where it is another's, is locked, or is no more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = os.fstat(fd)
        if locked.st_uid == os.geteuid() and os.path.samestat(locked, os.lstat(path)):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
