"""What the processes of a server are and hold, seen from outside."""

from __future__ import annotations

import time

import psutil

from tests.support.processes import waits_for_a_job

_WHILE = 0.2


class Observed:
    """The processes of one server.

    Args:
        pid: The front end's process.
    """

    def __init__(self, pid: int) -> None:
        self.front_end = psutil.Process(pid)

    @property
    def zygote(self) -> psutil.Process:
        """The process that workers are forked from."""
        (zygote,) = self.front_end.children()
        return zygote

    def workers(self) -> list[psutil.Process]:
        """The workers that have a job, and what they have started."""
        return [process for process in self.zygote.children(recursive=True) if not waits_for_a_job(process)]

    def at_rest(self) -> bool:
        """Whether no job runs, and a worker waits for the next: for a while, since templates are made one after the other."""
        waiting = self._waiting()
        if waiting is None:
            return False
        time.sleep(_WHILE)
        return self._waiting() == waiting

    def _waiting(self) -> psutil.Process | None:
        """Return the worker that waits for a job, where there is no other."""
        try:
            processes = self.zygote.children(recursive=True)
        # The zygote has died, and is being replaced.
        except (psutil.NoSuchProcess, ValueError):
            return None
        return processes[0] if len(processes) == 1 and waits_for_a_job(processes[0]) else None

    def connections(self) -> int:
        """How many callers are connected to the front end."""
        return sum(one.status == psutil.CONN_ESTABLISHED for one in self.front_end.net_connections("tcp"))

    def descriptors(self) -> tuple[int, int]:
        """How many descriptors the front end and the zygote hold, but for connections: the server closes those that idle."""
        return self.front_end.num_fds() - self.connections(), self.zygote.num_fds()

    def private_bytes(self) -> int:
        """Memory that the front end and the zygote do not share with others."""
        return sum(process.memory_full_info().uss for process in (self.front_end, self.zygote))

    def deleted_files(self) -> list[str]:
        """Files without a name, spools among them, that the front end or the zygote hold open."""
        return [
            file.path for process in (self.front_end, self.zygote) for file in process.open_files() if "(deleted)" in file.path
        ]
