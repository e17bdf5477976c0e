"""One job in a worker, as the front end has it: its socket, its time, its log, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

from retraced_server.engine.cgroup import oom_kills
from retraced_server.engine.endings import ending_failure, zygote_gone
from retraced_server.engine.log_pipe import LogPipe
from retraced_server.engine.spool import Spool
from retraced_server.engine.zygote import Worker, Zygote
from retraced_server.errors import Failure, Reason, RetracedError
from retraced_server.pipeline.domain import JobStats
from retraced_server.worker.frames import FrameError, encode_frame, read_frame
from retraced_server.worker.job_messages import (
    JobDone,
    JobRequest,
    TemplateMade,
    TemplatesMissed,
    decode_job_event,
    encode_job_request,
)
from retraced_server.worker.messages import MessageError

# What is read ahead for a caller that is slower than its worker.
_READ_AHEAD_BYTES = 1 << 20
_LOGGED_BYTES = 1 << 16
_LOGGED_LINES = 1000
# How long the zygote may take to fork, a worker that has closed its socket to end, and a killed one to be reaped.
_FORK_SECONDS = 60.0
_END_SECONDS = 1.0
_KILL_SECONDS = 10.0
_RETRY_SECONDS = 2.0
# How far a worker's clock, which it starts itself, may be ahead.
_CLOCK_SECONDS = 1.0
# What a worker may send of messages that carry little: two for each of the most passes that a pipeline may have, and progress, several times
# over. Those that carry data are bounded by what their caller takes.
_LITTLE_BYTES = 4096
_MOST_AT_ONCE = 10_000
_MOST_A_SECOND = 100

CALLER_GONE = "CALLER_GONE"
"""The cause of a worker's end that is no error: nobody waits for its answer any more."""

_log = logging.getLogger("retraced.worker")


class Job:
    """A job that was given to a zygote. Made by `start`; `close` ends it.

    Attributes:
        worker: Its worker.
        stats: What it took, once the worker has said so.
        missed: The keys of calls that it found no template for.
        template: The template that it was to make.
    """

    def __init__(self, worker: Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read_seconds: float) -> None:
        self.worker = worker
        self._read_seconds = read_seconds
        self.stats: JobStats | None = None
        self.missed: tuple[bytes, ...] = ()
        self._has_missed = False
        self.template = b""
        self._reader = reader
        self._writer = writer
        self._oom_kills = oom_kills()
        # Why this server killed the worker; and what became of it by itself.
        self._cause: Failure | None = None
        self._failure: Failure | None = None
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._began = asyncio.get_running_loop().time()
        self._little_messages = 0

    @staticmethod
    async def start(
        zygote: Zygote, request: JobRequest, archive: Spool, memory_bytes: int, cpu_seconds: int, read_seconds: float
    ) -> Job:
        """Return a job to a zygote.

        Args:
            zygote: Who forks the worker.
            request: What is to be done.
            archive: The archive.
            memory_bytes: The worker's memory beyond what it shares; 0 is no limit.
            cpu_seconds: Its processor time; 0 is no limit.
            read_seconds: How much of that reading the program may take; 0 is no limit.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE: this process has no descriptors left.
        """
        try:
            with archive.reader() as read_only, contextlib.ExitStack() as opened:
                log = LogPipe(lambda line: _log.info("%s", line), _LOGGED_BYTES, _LOGGED_LINES)
                opened.callback(log.close)
                ours, theirs = socket.socketpair()
                with theirs:
                    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_READ_AHEAD_BYTES)
                    fds = theirs.fileno(), read_only.fileno(), log.fileno()
                    worker = zygote.start_worker(memory_bytes, cpu_seconds, read_seconds, fds)
                opened.pop_all()
        except OSError as error:
            raise RetracedError(
                Reason.WORKERS_UNAVAILABLE, f"no worker can be started: {error}", retry_after=_RETRY_SECONDS
            ) from error
        log.handed_over()
        # Its last lines are read when it is gone, whoever still holds the job then.
        worker.ended.add_done_callback(lambda _: log.close())
        writer.write(encode_frame(encode_job_request(request)))
        return Job(worker, reader, writer, read_seconds)

    async def started(self, timeout: float) -> bool:
        """Wait until the worker is there; False where the zygote ended before it had forked, and nothing was begun.

        Args:
            timeout: How many seconds the worker may take from then on.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE: it could not be forked.
        """
        started, ended = self.worker.started, self.worker.ended
        await asyncio.wait((started, ended), timeout=_FORK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            self.worker.give_up_zygote()
            await asyncio.wait((ended,))
        if not started.cancelled():
            self._timer = asyncio.get_running_loop().call_later(timeout, self.kill, _timed_out(timeout))
            return True
        self.close()
        how = ended.result()
        if how is None:
            return False
        failure = self._cause or ending_failure(how, out_of_memory=False, read_seconds=self._read_seconds)
        raise failure.error()

    @property
    def killed_by(self) -> str | None:
        """Why the worker has ended, or is to, before it had answered: a reason, or that its caller is gone. None where it had answered."""
        if self._answered:
            return None
        failure = self._cause or self._failure
        return CALLER_GONE if failure is None else failure.reason.value

    def kill(self, cause: Failure) -> None:
        """Kill the worker, and have `responses` raise an error of `cause`."""
        if self._cause is None:
            self._cause = cause
        self.worker.kill()

    async def responses(self) -> AsyncIterator[bytes]:
        """Yield what the worker answers, serialized, and end when the job is done.

        Raises:
            RetracedError: The job failed, or its worker did.
        """
        fault = None
        try:
            while (frame := await read_frame(self._reader)) is not None:
                self._count(frame)
                event = decode_job_event(frame)
                if isinstance(event, JobStats):
                    self._take_stats(event)
                    continue
                if isinstance(event, bytes):
                    yield event
                    continue
                if isinstance(event, TemplatesMissed):
                    if self._has_missed:
                        raise MessageError("the worker says twice what templates its job missed")
                    self._has_missed, self.missed = True, event.keys
                    continue
                if isinstance(event, TemplateMade):
                    self.template = event.template
                    continue
                self._answered = True
                if isinstance(event, JobDone):
                    return
                raise event
        except (FrameError, MessageError, OSError) as error:
            fault = error
        self._failure = await self._ending(fault)
        raise self._failure.error()

    def close(self) -> None:
        """End it: kill the worker if it still runs, and let go of what it held."""
        if self._timer is not None:
            self._timer.cancel()
        self.worker.kill()
        self._writer.close()
        if not self.worker.ended.done():
            self._expect_end()

    def _take_stats(self, stats: JobStats) -> None:
        """Note what the worker says that its job took, for metrics that add it up.

        Raises:
            MessageError: It has said so before, or there was not that much time.
        """
        if self.stats is not None:
            raise MessageError("the worker says twice what its job took")
        seconds = asyncio.get_running_loop().time() - self._began + _CLOCK_SECONDS
        if any(period.start + period.seconds > seconds for period in (*stats.stages, *stats.passes)):
            raise MessageError("the worker says that its job took longer than it is there")
        self.stats = stats

    def _count(self, frame: bytes) -> None:
        """Check that a worker does not flood this process with messages.

        Raises:
            MessageError: It does.
        """
        self._little_messages += len(frame) < _LITTLE_BYTES
        if self._little_messages > _MOST_AT_ONCE:
            seconds = asyncio.get_running_loop().time() - self._began
            if self._little_messages > _MOST_AT_ONCE + seconds * _MOST_A_SECOND:
                raise MessageError(f"the worker sent {self._little_messages} messages in {seconds:.1f} seconds")

    async def _ending(self, fault: Exception | None) -> Failure:
        """Find out why there are no more answers."""
        ended = self.worker.ended
        await asyncio.wait((ended,), timeout=_END_SECONDS)
        if not ended.done():
            said = "its answers end, but it does not" if fault is None else f"its answers are none: {fault}"
            self.kill(Failure(Reason.INTERNAL, f"the worker broke the protocol and was killed: {said}"))
            self._expect_end()
            await asyncio.wait((ended,))
        if self._cause is not None:
            return self._cause
        result = ended.result()
        if result is None:
            return zygote_gone()
        return ending_failure(result, out_of_memory=oom_kills() > self._oom_kills, read_seconds=self._read_seconds)

    def _expect_end(self) -> None:
        """See to it that a worker that was killed is gone before long."""
        late = asyncio.get_running_loop().call_later(_KILL_SECONDS, self.worker.give_up_zygote)
        self.worker.ended.add_done_callback(lambda _: late.cancel())


def _timed_out(seconds: float) -> Failure:
    return Failure(
        Reason.JOB_TIMED_OUT,
        f"the job took longer than the {seconds:g} seconds that this server allows",
        metadata={"job_timeout_seconds": f"{seconds:g}"},
    )
