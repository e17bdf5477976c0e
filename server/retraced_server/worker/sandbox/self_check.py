"""Tries the sandbox out from inside, once, before any worker rests on it."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from retraced_server.worker.sandbox.report import SandboxReport, State


def failures(report: SandboxReport, readable: tuple[Path, ...], uids: range) -> Iterator[str]:
    """Yield what is not as `report` says. For a locked-down process without a scratch folder.

    Args:
        report: Which layers are in force.
        readable: What it may read.
        uids: Users of which it should be the first.
    """
    if _in_force(report, "seccomp"):
        yield from _not_refused(_SECCOMP)
    if _in_force(report, "landlock"):
        yield from _not_refused({"a folder outside was listed": lambda: os.listdir("/")})
    if _in_force(report, "user") and (os.getuid(), os.getgid(), os.getgroups()) != (uids[0], uids[0], []):
        yield f"the user is {os.getuid()}, the groups are {os.getgid()} and {os.getgroups()}"
    for path in readable:
        try:
            with open(path) if path.is_file() else os.scandir(path):
                pass
        except OSError as error:
            yield f"what imports read cannot be read: {error}"


def _in_force(report: SandboxReport, name: str) -> bool:
    return report.layer(name).state is State.IN_FORCE


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


_SECCOMP: dict[str, Callable[[], object]] = {
    "a process was started": _fork,
    "a program was run": lambda: os.execv("/no-such-program", ["x"]),
    "a socket was made": socket.socket,
    "executable memory was mapped": lambda: mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_EXEC),
    "a file in memory was made": lambda: os.memfd_create("check"),
}


def _not_refused(attempts: dict[str, Callable[[], object]]) -> Iterator[str]:
    for what, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        except OSError as error:
            yield f"{what}, or nearly: {error}"
        else:
            yield what
