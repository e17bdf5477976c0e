"""Whether the folder for archives could take one, for the answer to whether the server is ready."""

from __future__ import annotations

import os
from pathlib import Path

_LEAST_ROOM_BYTES = 64 << 20


def spool_obstacle(folder: Path, largest: int) -> str:
    """Why no archive could be stored in the folder; empty where one could. Asks the file system, and writes nothing.

    Args:
        folder: The folder.
        largest: The size of the largest archive. Room for less is room enough: 64 MiB.
    """
    try:
        found = os.statvfs(folder)
        if found.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
            return f"the spool folder {folder} cannot be written to"
    except OSError as error:
        return f"the spool folder {folder} cannot be used: {error.strerror}"
    room = found.f_bavail * found.f_frsize
    if room < min(largest, _LEAST_ROOM_BYTES):
        return f"the spool folder {folder} is full: it has room for {room} bytes"
    if found.f_files and not found.f_favail:
        return f"the spool folder {folder} is full: its file system takes no more files"
    return ""
