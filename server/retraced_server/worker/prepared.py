"""What the zygote has made ready before it forks."""

from __future__ import annotations

from dataclasses import dataclass

from retraced_server.program import ReadOptions
from retraced_server.worker import sandbox
from retraced_server.worker.messages import ZygoteReady
from retraced_server.worker.written_pages import WrittenPages


@dataclass(frozen=True)
class Prepared:
    """What the zygote says when it is ready, and what its workers are given.

    Attributes:
        ready: What it says.
        options: What programs may hold: operators of the namespaces that the imports brought, and the types that they registered.
        sandbox: What workers are locked down with.
        written: The pages that every job writes to.
    """

    ready: ZygoteReady
    options: ReadOptions
    sandbox: sandbox.Prepared
    written: WrittenPages
