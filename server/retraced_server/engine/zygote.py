"""The zygote as the front end has it: a process that is started, told to fork and to kill, and listened to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retraced_server.engine.environment import zygote_environment
from retraced_server.engine.log_pipe import LogPipe
from retraced_server.engine.scratch import ScratchFolder
from retraced_server.errors import Reason, RetracedError
from retraced_server.worker.frames import FrameError, encode_frame, read_frame
from retraced_server.worker.messages import (
    KillJob,
    MessageError,
    StartJob,
    WorkerEnded,
    WorkerFacts,
    WorkerStarted,
    ZygoteCommand,
    ZygoteEvent,
    ZygoteFailed,
    decode_event,
    encode_command,
)
from retraced_server.worker.sandbox import SandboxConfig

_START_SECONDS = 180.0
_STOP_SECONDS = 5.0
_MODULE = "retraced_server.worker.zygote"

_log = logging.getLogger("retraced.zygote")


@dataclass(frozen=True)
class ZygoteConfig:
    """How a zygote is set up.

    Attributes:
        imports: Modules that it loads.
        spool_dir: Where it has a folder for temporary files while it runs.
        sandbox: How its workers are locked down.
        allow_namespaces: Namespaces of torch's own operators that programs may hold, besides the usual.
        allow_operators: Single operators that programs may hold, besides those on the list.
        newer_schema: Whether its workers read programs of newer minor versions of the schema.
    """

    imports: tuple[str, ...]
    spool_dir: Path
    sandbox: SandboxConfig
    allow_namespaces: tuple[str, ...] = ()
    allow_operators: tuple[str, ...] = ()
    newer_schema: bool = False


class Worker:
    """A worker of a zygote.

    Attributes:
        started: Done when it was forked: its process id. Cancelled when it never will be.
        ended: Done when it was reaped: how it ended; None when its zygote ended, and it with it.
    """

    def __init__(self, zygote: Zygote, job_id: int) -> None:
        loop = asyncio.get_running_loop()
        self._zygote = zygote
        self._job_id = job_id
        self.started: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[WorkerEnded | None] = loop.create_future()

    def kill(self) -> None:
        """Kill it and whatever it started, if it still runs."""
        if not self.ended.done():
            self._zygote.command(KillJob(self._job_id))

    def give_up_zygote(self) -> None:
        """Kill its zygote, and so every worker of it: for when it does not do what it is told."""
        if not self.ended.done():
            _log.error("the zygote does not answer and is killed")
            self._zygote.kill()

    def has_started(self, pid: int) -> None:
        """Note that it was forked."""
        if not self.started.done():
            self.started.set_result(pid)

    def has_ended(self, ended: WorkerEnded | None) -> None:
        """Note that it is no more."""
        self.started.cancel()
        self.ended.set_result(ended)


@dataclass(frozen=True)
class _Control:
    """The socket to a zygote: read as a stream, and written to with descriptors, which a stream cannot."""

    reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _socket: socket.socket

    @staticmethod
    async def open() -> tuple[_Control, socket.socket]:
        """Open it, and return the other end too."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            # The stream closes the descriptor that it is given.
            reader, writer = await asyncio.open_unix_connection(sock=ours.dup())
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return _Control(reader, writer, ours), theirs

    def send(self, frame: bytes, fds: Sequence[int]) -> None:
        """Send a frame of a few bytes, which the kernel takes whole or not at all: not when nothing was read for long.

        Raises:
            OSError: It was not taken.
        """
        socket.send_fds(self._socket, [frame], fds)

    def end(self) -> None:
        """Let the other end see the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it."""
        self._socket.close()
        self._writer.close()


class Zygote:
    """A zygote that is ready. Made by `start`.

    Attributes:
        facts: What its workers are.
        ended: Done when its process was reaped.
    """

    def __init__(self, process: asyncio.subprocess.Process, control: _Control, log: LogPipe, scratch: ScratchFolder) -> None:
        self._process = process
        self._control = control
        self._log = log
        self._scratch = scratch
        self._workers: dict[int, Worker] = {}
        self._job_ids = itertools.count(1)
        self._killed = False
        self.facts: WorkerFacts
        self.ended: asyncio.Task[None]

    @staticmethod
    async def start(config: ZygoteConfig) -> Zygote:
        """Start a zygote, and wait until it can fork.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE, with what it said.
        """
        with contextlib.ExitStack() as opened:
            try:
                control, theirs = await _Control.open()
                opened.callback(control.close)
                with theirs:
                    # What torch and passes leave there goes with the zygote.
                    scratch = ScratchFolder(config.spool_dir)
                    opened.callback(scratch.remove)
                    log = LogPipe(lambda line: _log.info("%s", line))
                    opened.callback(log.close)
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())),
                        f"--parent={os.getpid()}",
                        *(f"--import={name}" for name in config.imports),
                        *(f"--allow-namespace={name}" for name in config.allow_namespaces),
                        *(f"--allow-operator={name}" for name in config.allow_operators),
                        *_sandbox_options(config.sandbox),
                        *(["--accept-newer-schema"] if config.newer_schema else []),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log.fileno(),
                        stderr=log.fileno(),
                        pass_fds=(theirs.fileno(),),
                        env=zygote_environment(os.environ, scratch.path),
                        # A Ctrl-C in the server's terminal is for the server, which drains.
                        start_new_session=True,
                    )
            except OSError as error:
                # No room in the folder, no interpreter, or no more descriptors or processes.
                raise _unavailable(str(error)) from error
            opened.pop_all()
        log.handed_over()
        zygote = Zygote(process, control, log, scratch)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await zygote._become_ready()
        except BaseException as error:
            zygote.kill()
            await zygote._reap()
            if isinstance(error, TimeoutError):
                raise _unavailable(f"the zygote was not ready after {_START_SECONDS:.0f} seconds") from error
            raise
        return zygote

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def start_worker(self, memory_bytes: int, cpu_seconds: int, read_seconds: float, fds: Sequence[int]) -> Worker:
        """Have a worker forked.

        Args:
            memory_bytes: Its memory beyond what it shares; 0 is no limit.
            cpu_seconds: Processor time of all its threads; 0 is no limit.
            read_seconds: How much of that reading the program may take; 0 is no limit.
            fds: Its end of the job's socket, the archive, and where its lines go. They stay open here.
        """
        job_id = next(self._job_ids)
        worker = Worker(self, job_id)
        if self.ended.done():
            worker.has_ended(None)
        else:
            self._workers[job_id] = worker
            self.command(StartJob(job_id, memory_bytes, cpu_seconds, read_seconds), fds)
        return worker

    def command(self, command: ZygoteCommand, fds: Sequence[int] = ()) -> None:
        """Tell it something. One that no longer listens is killed, and its workers end with it."""
        frame = encode_frame(encode_command(command))
        try:
            self._control.send(frame, fds)
        except OSError as error:
            _log.error("the zygote takes no commands (%s) and is killed", error)
            self.kill()

    def kill(self) -> None:
        """Kill it. Its workers die with it."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> None:
        """End it and its workers."""
        # It ends when its socket does.
        self._control.end()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.kill()
            await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            self.kill()
            raise

    async def _become_ready(self) -> None:
        try:
            event = await self._receive()
        except (FrameError, MessageError, OSError) as error:
            raise _unavailable(f"the zygote does not speak as it should: {error}") from error
        match event:
            case WorkerFacts():
                self.facts = event
                self.ended = asyncio.create_task(self._listen(), name="zygote")
            case ZygoteFailed(message, traceback):
                raise _unavailable(message, traceback)
            case _:
                status = await self._process.wait()
                self._log.close()
                said = f"; its last line: {self._log.tail[-1]}" if self._log.tail else ""
                raise _unavailable(f"the zygote ended with {_status_text(status)} before it was ready{said}")

    async def _receive(self) -> ZygoteEvent | None:
        frame = await read_frame(self._control.reader)
        return None if frame is None else decode_event(frame)

    async def _listen(self) -> None:
        try:
            while (event := await self._receive()) is not None:
                if isinstance(event, WorkerStarted):
                    self._workers[event.job_id].has_started(event.pid)
                elif isinstance(event, WorkerEnded):
                    self._workers.pop(event.job_id).has_ended(event)
        except (FrameError, MessageError, OSError, KeyError) as error:
            _log.error("the zygote does not speak as it should (%s) and is killed", error)
            self.kill()
        finally:
            await self._reap()

    async def _reap(self) -> None:
        if self._process.returncode is None:
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self.kill()
                await self._process.wait()
        status = self._process.returncode
        if status and not self._killed:
            _log.error("the zygote ended with %s", _status_text(status))
        for worker in self._workers.values():
            worker.has_ended(None)
        self._workers.clear()
        self._control.close()
        self._log.close()
        self._scratch.remove()


def _sandbox_options(config: SandboxConfig) -> list[str]:
    return [
        f"--uid={config.uids.start}",
        f"--uids={len(config.uids)}",
        *(f"--read-path={path}" for path in config.read_paths),
        *(["--allow-missing-sandbox"] if config.allow_missing else []),
    ]


def _unavailable(why: str, traceback: str = "") -> RetracedError:
    return RetracedError(Reason.WORKERS_UNAVAILABLE, f"the workers cannot be started: {why}", traceback=traceback)


def _status_text(status: int | None) -> str:
    if status is None or status >= 0:
        return f"status {status}"
    return signal.Signals(-status).name
