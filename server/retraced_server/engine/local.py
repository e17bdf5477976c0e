"""The engine of one machine: a zygote, and workers forked from it, some at a time."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from retraced_server.engine.admission import Admission, Place
from retraced_server.engine.base import EngineCounts, JobReport, Load, ProgramSource
from retraced_server.engine.budget import jobs_at_a_time
from retraced_server.engine.endings import zygote_gone
from retraced_server.engine.job import Job
from retraced_server.engine.scratch import remove_abandoned
from retraced_server.engine.spool import Spool
from retraced_server.engine.supervisor import Supervisor
from retraced_server.engine.templates import TemplateKeeper
from retraced_server.engine.usage import private_bytes
from retraced_server.engine.zygote import Worker, ZygoteConfig
from retraced_server.errors import Failure, Reason
from retraced_server.pipeline.domain import JobStats, TransformOptions
from retraced_server.pipeline.parse import Pipeline
from retraced_server.worker.job_messages import JobRequest
from retraced_server.worker.messages import KeepTemplates, WorkerFacts
from retraced_server.worker.responses import Stage, progress
from retraced_server.worker.sandbox import SandboxConfig

_DRAIN_RETRY_SECONDS = 5.0
_CPU_EXTRA_SECONDS = 5
# What making a template may take: by the clock, and of the processor.
_TEMPLATE_SECONDS, _TEMPLATE_CPU_SECONDS = 10.0, 2
# What the kernel counts in nanoseconds has to fit in 64 bits.
_MOST_CPU_SECONDS = 1 << 32


@dataclass(frozen=True)
class LocalEngineConfig:
    """How a local engine is set up.

    Attributes:
        workers: Jobs that run at a time, if memory allows.
        max_queued: Requests that may wait besides.
        job_timeout: Seconds of wall time that a job may take.
        read_timeout: Seconds of processor time that reading a program may take.
        memory_bytes: Memory that jobs may have together; 0 is no limit.
        worker_memory_bytes: Memory of a worker beyond what it shares with the others; 0 is no limit.
        imports: Modules that are loaded into the zygote, and so are in every worker: operator libraries, passes.
        allow_namespaces: Namespaces of torch's own operators that programs may hold, besides the usual.
        allow_operators: Single operators that programs may hold, besides those on the list.
        spool_dir: Where workers' temporary files go.
        first_uid: The first of the users that workers become where the server is root; there are as many as workers.
        read_paths: Folders and files that workers may read, besides Python's packages.
        allow_missing_sandbox: Go on where the machine lacks layers of the sandbox.
        accept_newer_schema: Read programs of newer minor versions of the schema too.
        templates: Templates of decompositions that jobs share; 0 shares none.
    """

    workers: int = 2
    max_queued: int = 64
    job_timeout: float = 600.0
    read_timeout: float = 60.0
    memory_bytes: int = 0
    worker_memory_bytes: int = 0
    imports: tuple[str, ...] = ()
    allow_namespaces: tuple[str, ...] = ()
    allow_operators: tuple[str, ...] = ()
    spool_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    first_uid: int = 65000
    read_paths: tuple[Path, ...] = ()
    allow_missing_sandbox: bool = False
    accept_newer_schema: bool = False
    templates: int = 4096

    @property
    def zygote(self) -> ZygoteConfig:
        """How what workers are forked from is set up."""
        uids = range(self.first_uid, self.first_uid + self.workers)
        sandbox = SandboxConfig(uids, self.read_paths, allow_missing=self.allow_missing_sandbox)
        allowed = self.allow_namespaces, self.allow_operators
        return ZygoteConfig(self.imports, self.spool_dir, sandbox, *allowed, newer_schema=self.accept_newer_schema)

    @property
    def jobs_at_a_time(self) -> int:
        """Jobs that run at a time, as processors and memory allow.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE: not even one ever fits into the memory.
        """
        return jobs_at_a_time(self.workers, self.memory_bytes, self.worker_memory_bytes)

    @property
    def cpu_seconds(self) -> int:
        """Processor time of a job: with one thread, its wall time ends before."""
        return min(math.ceil(self.job_timeout) + _CPU_EXTRA_SECONDS, _MOST_CPU_SECONDS)

    @property
    def read_seconds(self) -> float:
        """Processor time that reading a program may take."""
        return min(self.read_timeout, _MOST_CPU_SECONDS)


class LocalEngine:
    """Runs jobs in processes on this machine.

    Args:
        config: How it is set up.

    Raises:
        RetracedError: WORKERS_UNAVAILABLE: no job would ever fit into the memory.
    """

    def __init__(self, config: LocalEngineConfig) -> None:
        self.config = config
        self.templates = TemplateKeeper(config.templates, self._make_template, self._give_templates)
        self.supervisor = Supervisor(config.zygote, on_replaced=self.templates.give)
        self._admission = Admission(config.jobs_at_a_time, config.max_queued)
        self._tickets: set[LocalTicket] = set()
        self._draining = False
        self._forks = 0
        self._kills: Counter[str] = Counter()
        # The processes of the workers that run.
        self._workers: set[int] = set()

    async def start(self) -> WorkerFacts:
        """Start the zygote, and wait until it is warm. What servers that were killed have left in the spool folder is removed before.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE, with what the zygote said.
        """
        await asyncio.to_thread(remove_abandoned, self.config.spool_dir)
        return await self.supervisor.start()

    @property
    def obstacle(self) -> str:
        """Why no job can run now; empty where one can: there is a zygote, and the engine does not drain."""
        if self._draining:
            return "the server is shutting down"
        if self.supervisor.ready:
            return ""
        failure = self.supervisor.failure
        return "the zygote is gone and is started anew" if failure is None else failure.message

    @property
    def facts(self) -> WorkerFacts:
        """What the workers are.

        Raises:
            RetracedError: WORKERS_UNAVAILABLE: it was never started.
        """
        return self.supervisor.facts

    @property
    def load(self) -> Load:
        """How busy it is now."""
        return Load(self._admission.running, self._admission.waiting)

    @property
    def counts(self) -> EngineCounts:
        """What it has done so far."""
        counts = EngineCounts(self._admission.slots, self._forks, dict(self._kills), self.supervisor.restarts)
        return replace(counts, templates=self.templates.count)

    def worker_memory(self) -> int:
        """Memory of all workers that run now, in bytes, without what they share. May be called from any thread."""
        return sum(map(private_bytes, list(self._workers)))

    def admit(self, request_id: str) -> LocalTicket:
        """Take a place in the queue.

        Raises:
            RetracedError: QUEUE_FULL, SERVER_DRAINING or WORKERS_UNAVAILABLE.
        """
        if not self._draining and self.supervisor.failure is not None:
            raise self.supervisor.failure.error()
        ticket = LocalTicket(self, request_id, self._admission.enter())
        self._tickets.add(ticket)
        return ticket

    async def drain(self, grace: float) -> None:
        """Admit nothing more, wait up to `grace` seconds for every request that it has admitted, and end the rest. Twice is once."""
        self._draining = True
        await self.templates.close()
        failure = Failure(Reason.SERVER_DRAINING, "the server is shutting down", retry_after=_DRAIN_RETRY_SECONDS)
        self._admission.close(failure)
        try:
            async with asyncio.timeout(grace):
                await self._admission.emptied()
        except TimeoutError:
            pass
        finally:
            self._admission.turn_away(failure)
            for ticket in self._tickets:
                ticket.end(failure)
            await self.supervisor.stop(failure)

    def note_worker(self, worker: Worker) -> None:
        """Count a worker while it runs, once it is forked."""

        def forked(started: asyncio.Future[int]) -> None:
            if not started.cancelled():
                self._forks += 1
                pid = started.result()
                self._workers.add(pid)
                worker.ended.add_done_callback(lambda _: self._workers.discard(pid))

        worker.started.add_done_callback(forked)

    def note_end(self, job: Job) -> None:
        """Count a worker that ended before it had answered."""
        if (cause := job.killed_by) is not None and not job.worker.started.cancelled():
            self._kills[cause] += 1

    def forget(self, ticket: LocalTicket) -> None:
        """Note that a ticket was given back."""
        self._tickets.discard(ticket)

    async def _make_template(self, key: bytes) -> bytes:
        """Have a worker make a template, once no request wants it.

        Raises:
            RetracedError: It failed, or there is none.
        """
        wanted = Failure(Reason.WORKERS_UNAVAILABLE, "a request wants the worker")
        job: Job | None = None
        reclaimed = asyncio.Event()

        def reclaim() -> None:
            reclaimed.set()
            if job is not None:
                job.kill(wanted)

        await self._admission.borrow(reclaim)
        try:
            zygote = await self.supervisor.zygote()
            nothing = Spool(self.config.spool_dir, 0)
            try:
                request = JobRequest("template", Pipeline(()), template_key=key)
                memory = self.config.worker_memory_bytes
                job = await Job.start(zygote, request, nothing, memory, _TEMPLATE_CPU_SECONDS, _TEMPLATE_CPU_SECONDS)
            finally:
                nothing.close()
            if reclaimed.is_set():
                job.kill(wanted)
            if not await job.started(_TEMPLATE_SECONDS):
                raise zygote_gone().error()
            async for _ in job.responses():
                pass
            return job.template
        finally:
            if job is None:
                self._admission.give_back()
            else:
                job.worker.ended.add_done_callback(lambda _: self._admission.give_back())
                job.close()

    def _give_templates(self, fd: int) -> None:
        self.supervisor.command(KeepTemplates(), (fd,))


class LocalTicket:
    """A place in the queue of a local engine. Made by `admit`."""

    def __init__(self, engine: LocalEngine, request_id: str, place: Place) -> None:
        self._engine = engine
        self._request_id = request_id
        self._place = place
        self._job: Job | None = None
        self.report = JobReport()

    @property
    def queue_position(self) -> int:
        """Requests that had to end before this one could run, when it was admitted; 0 if a worker is free for it."""
        return self._place.first_position

    async def run(self, pipeline: Pipeline, options: TransformOptions, source: ProgramSource) -> AsyncIterator[bytes]:
        """Queue the job once its program is here, and yield its serialized `TransformGraphResponse` messages as they are made.

        Raises:
            RetracedError: The program did not come, the job failed, or its worker did.
        """
        archive = await source.archive()
        now = time.monotonic
        self.report.queued_at = queued_at = now()
        async for position in self._place.slot():
            yield progress(Stage.QUEUED, position)
        config = self._engine.config
        while True:
            zygote = await self._engine.supervisor.zygote()
            job_request = JobRequest(
                self._request_id,
                pipeline,
                options,
                archive.sha256,
                now() - queued_at,
                share_templates=self._engine.templates.shares,
            )
            self._job = job = await Job.start(
                zygote, job_request, archive, config.worker_memory_bytes, config.cpu_seconds, config.read_seconds
            )
            self._engine.note_worker(job.worker)
            if await job.started(config.job_timeout):
                break
            # The zygote ended before it had forked, and nothing was begun; the next one takes the job.
        self.report.started_at = now()
        async for response in job.responses():
            yield response

    def end(self, failure: Failure) -> None:
        """End the job, if there is one, and have `run` raise an error of `failure`."""
        if self._job is not None:
            self._job.kill(failure)

    async def __aenter__(self) -> LocalTicket:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._engine.forget(self)
        if self._job is None:
            self._place.leave()
            return
        self._job.worker.ended.add_done_callback(self._worker_gone)
        self._job.close()
        if self._job.killed_by is None:
            self._engine.templates.want(self._job.missed)
        self.report.stats = self._known_passes(self._job.stats)
        self.report.ended_at = time.monotonic()

    def _known_passes(self, stats: JobStats | None) -> JobStats | None:
        # A worker's word is not trusted, and names become labels of metrics.
        if stats is None:
            return None
        known = self._engine.facts.catalogue.keys()
        return replace(stats, passes=tuple(ran for ran in stats.passes if ran.name in known))

    def _worker_gone(self, _: object) -> None:
        # The slot is free when the worker is gone, not before.
        self._place.leave()
        if self._job is not None:
            self._engine.note_end(self._job)
