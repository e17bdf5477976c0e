"""Tries something in a forked process, so that this one stays as it is."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from retraced_server.worker.sandbox.report import SandboxError


def in_child(work: Callable[[], str], *, name: str) -> str:
    """Run `work` in a forked process and return what it returns.

    Args:
        work: What to do. It may change its process in any way, and leave its other descriptors closed.
        name: What it is called in errors.

    Raises:
        SandboxError: It raised, or its process ended otherwise.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            # The lowest that `lock_down` leaves open by itself, of those that nothing is written to.
            os.dup2(writing, 0)
            os.write(0, work().encode())
            status = 0
        except BaseException:  # noqa: BLE001 - this is the end of the process
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(pid, 0)
    if status:
        raise SandboxError(f"{name} failed with status {os.waitstatus_to_exitcode(status)}; the log says more")
    return said
