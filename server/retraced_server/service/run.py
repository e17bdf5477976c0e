"""The life of one server: it takes its address, warms its workers, serves, drains, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import structlog

from retraced_server.errors import RetracedError
from retraced_server.service.connections import ConnectionLimits
from retraced_server.service.engines import create_engine
from retraced_server.service.front_end import FrontEnd
from retraced_server.service.instance import RequestLimits
from retraced_server.service.listen import AddressError
from retraced_server.service.observers import ObserverError, Observers
from retraced_server.service.security import Security, SecurityError, check_exposure, open_security
from retraced_server.service.settings import Settings

_log = structlog.stdlib.get_logger("retraced")


class StartError(Exception):
    """The server cannot start; the message says why, in one line.

    Attributes:
        traceback: Where in a module of the operator's; empty where it was none.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class UnusableSettingsError(StartError):
    """It cannot start with these settings: what they name is not there, or cannot be used."""


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, and then lets what runs end.

    Prints `retraced: listening on HOST:PORT` on standard output, once requests are served.

    Raises:
        UnusableSettingsError: The address, the spool folder, a module, or what is to look on cannot be used.
        StartError: The workers cannot be started.
    """
    _check_folder(settings.spool_dir)
    _check_imports(settings.imports)
    _check_paths(settings.read_paths)
    security = _security(settings)
    try:
        engine = create_engine(settings)
    except RetracedError as error:
        raise UnusableSettingsError(error.message) from error
    workers = engine.counts.slots
    limits = RequestLimits(
        max_archive_bytes=settings.max_archive_size,
        max_queued=settings.max_queued,
        workers=workers,
        job_timeout=settings.job_timeout,
        memory_bytes=settings.memory,
        worker_memory_bytes=settings.worker_memory,
        upload_idle_timeout=settings.upload_idle_timeout,
        download_idle_timeout=settings.download_idle_timeout,
    )
    front_end = FrontEnd(
        engine,
        limits,
        settings.spool_dir,
        settings.spool_memory,
        security.authenticate,
        connections=ConnectionLimits(settings.max_connections, settings.max_connections_per_peer),
        send_tracebacks=settings.send_tracebacks,
    )
    address = _listen(front_end, settings, security)
    try:
        observers = Observers(settings, engine, front_end)
    except ObserverError as error:
        raise UnusableSettingsError(str(error)) from error
    signals = _Signals()
    await front_end.start()
    try:
        if not await _unless(signals.stop, engine.start()):
            return
        front_end.open()
        print(f"retraced: listening on {address}", flush=True)
        _log.info("listening", address=address, workers=workers)
        if workers < settings.workers:
            _log.warning("memory allows fewer jobs at a time", workers=workers, of=settings.workers)
        await signals.stop.wait()
        _log.info("draining", grace=settings.drain_grace, running=engine.load.running, queued=engine.load.queued)
        if not await _unless(signals.stop_at_once, engine.drain(settings.drain_grace)):
            _log.warning("draining cut short by a second signal")
    except RetracedError as error:
        raise StartError(error.message, error.traceback) from error
    finally:
        await engine.drain(0.0)
        await front_end.stop()
        await observers.stop()
        _log.info("stopped")


class _Signals:
    """SIGTERM and SIGINT, counted: the first asks to stop, the second to stop at once."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.stop_at_once = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)

    def _came(self) -> None:
        (self.stop_at_once if self.stop.is_set() else self.stop).set()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Do some work, and drop it when an event comes. Whether it was done.

    Raises:
        Exception: What the work raised.
    """
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        for task in (working, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _security(settings: Settings) -> Security:
    try:
        return open_security(settings)
    except SecurityError as error:
        raise UnusableSettingsError(str(error)) from error


def _listen(front_end: FrontEnd, settings: Settings, security: Security) -> str:
    try:
        address = front_end.listen(settings.host, settings.port, security.credentials)
        # Only now it is known that the host has an address.
        check_exposure(settings, security)
        if settings.health_port is not None:
            host = "127.0.0.1" if settings.host.startswith("unix:") else settings.host
            front_end.listen_for_health_checks(host, settings.health_port)
    except (AddressError, SecurityError) as error:
        raise UnusableSettingsError(str(error)) from error
    return address


def _check_folder(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnusableSettingsError(f"cannot write to the spool folder {folder}: {error.strerror}") from error


def _check_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise UnusableSettingsError(f"workers cannot be let read {path}: there is no such file or folder")


def _check_imports(names: Sequence[str]) -> None:
    """Find what is plainly not there. Nothing is imported here: the rest shows when the workers load it."""
    for name in names:
        try:
            found = importlib.util.find_spec(name.partition(".")[0])
        except ValueError:
            found = None
        if found is None:
            raise UnusableSettingsError(f"cannot import {name!r}: there is no module of that name on the path")
