"""Keeps a zygote running: starts one, and another when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from retraced_server.engine.zygote import Zygote, ZygoteConfig
from retraced_server.errors import Failure, Reason, RetracedError
from retraced_server.worker.messages import WorkerFacts, ZygoteCommand

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0

_log = logging.getLogger("retraced.zygote")


class Supervisor:
    """The zygote that there is now.

    Args:
        config: How it is set up.
        on_replaced: Called when there is another. It does not raise.

    Attributes:
        restarts: How often the zygote was replaced.
    """

    def __init__(self, config: ZygoteConfig, on_replaced: Callable[[], None] = lambda: None) -> None:
        self._config = config
        self._on_replaced = on_replaced
        self._zygote: Zygote | None = None
        self._facts: WorkerFacts | None = None
        self._failure: Failure | None = Failure(Reason.WORKERS_UNAVAILABLE, "the engine has not been started")
        self._changed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether there is a zygote."""
        return self._zygote is not None and not self._zygote.ended.done()

    @property
    def failure(self) -> Failure | None:
        """Why there is none, when the last attempt to start one failed."""
        return self._failure

    @property
    def facts(self) -> WorkerFacts:
        """What the workers are, or were when there last was a zygote.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE: there never was one.
        """
        if self._facts is None:
            failure = self._failure or Failure(Reason.WORKERS_UNAVAILABLE, "no zygote is ready yet", retry_after=_FIRST_PAUSE)
            raise failure.error()
        return self._facts

    async def start(self) -> WorkerFacts:
        """Start the first zygote.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE, with what it said.
        """
        zygote = await Zygote.start(self._config)
        self._set(zygote)
        self._keeping = asyncio.create_task(self._keep(zygote), name="zygote-supervisor")
        return zygote.facts

    async def zygote(self) -> Zygote:
        """Return the zygote, after it was replaced if it has to be.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE: none could be started.
        """
        while True:
            if self._failure is not None:
                raise self._failure.error()
            if self._zygote is not None and not self._zygote.ended.done():
                return self._zygote
            self._changed.clear()
            await self._changed.wait()

    def command(self, command: ZygoteCommand, fds: Sequence[int] = ()) -> None:
        """Tell the zygote something, if there is one."""
        if self._zygote is not None and self.ready:
            self._zygote.command(command, fds)

    async def stop(self, failure: Failure) -> None:
        """End the zygote and its workers; whoever asks for one hears of `failure`. Twice is once."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        self._fail(failure)
        if self._zygote is not None:
            await self._zygote.stop()
            self._zygote = None

    async def _keep(self, zygote: Zygote) -> None:
        while True:
            await asyncio.shield(zygote.ended)
            _log.warning("the zygote is gone and is started anew")
            self._zygote = None
            zygote = await self._restart()
            self.restarts += 1
            self._set(zygote)
            self._on_replaced()

    async def _restart(self) -> Zygote:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await Zygote.start(self._config)
            except RetracedError as error:
                traceback = error.traceback and f"\n{error.traceback}"
                _log.error("%s; the next attempt is in %.0f seconds%s", error.message, pause, traceback)
                self._fail(Failure(error.reason, error.message, retry_after=pause))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _set(self, zygote: Zygote) -> None:
        _log.info("zygote %d is ready", zygote.pid)
        report = zygote.facts.sandbox
        if report.missing:
            _log.warning("workers run with layers of the sandbox missing: %s", report)
        else:
            _log.info("the sandbox of workers: %s", report)
        self._zygote, self._facts, self._failure = zygote, zygote.facts, None
        self._changed.set()

    def _fail(self, failure: Failure) -> None:
        self._failure = failure
        self._changed.set()
