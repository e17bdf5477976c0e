"""The server's command with a fake engine: `python -m tests.service.served_fake HOW`, then the server's options.

HOW is what is odd about the engine: `nothing`, `never-warm`, `fails` or `never-drains`.
"""

from __future__ import annotations

import asyncio
import sys

from retraced_server import __main__
from retraced_server.engine import local
from retraced_server.engine.base import EngineCounts
from retraced_server.errors import Reason, RetracedError
from retraced_server.worker.messages import WorkerFacts
from tests.service.fake_engine import FakeEngine

_HOW = sys.argv.pop(1)
_TRACEBACK = 'Traceback (most recent call last):\n  File "my_ops.py", line 3, in <module>\nValueError: two\nlines\n'


class _Engine(FakeEngine):
    def __init__(self, config: local.LocalEngineConfig) -> None:
        super().__init__()
        self.counts = EngineCounts(config.jobs_at_a_time)

    async def start(self) -> WorkerFacts:
        if _HOW == "fails":
            raise RetracedError(
                Reason.WORKERS_UNAVAILABLE, "the zygote cannot import `my_ops`: it is broken", traceback=_TRACEBACK
            )
        if _HOW == "never-warm":
            print("warming", file=sys.stderr, flush=True)
            await asyncio.Event().wait()
        return await super().start()

    async def drain(self, grace: float) -> None:
        await super().drain(grace)
        if _HOW == "never-drains" and grace:
            await asyncio.sleep(grace)


if __name__ == "__main__":
    # Before the command takes it, and gRPC is loaded.
    local.LocalEngine = _Engine  # type: ignore[assignment, misc]
    __main__.main()
