"""What the zygote has made ready before it forks."""

from __future__ import annotations

from dataclasses import dataclass

from retraced_server.program import ReadOptions
from retraced_server.worker import sandbox
from retraced_server.worker.messages import WorkerFacts
from retraced_server.worker.written_pages import WrittenPages


@dataclass(frozen=True)
class Prepared:
    """What the workers are, and what they are given.

    Attributes:
        facts: What they are.
        options: What programs may hold: operators of the namespaces that the imports brought, and the types that they registered.
        sandbox: What workers are locked down with.
        written: The pages that every job writes to.
    """

    facts: WorkerFacts
    options: ReadOptions
    sandbox: sandbox.Prepared
    written: WrittenPages
