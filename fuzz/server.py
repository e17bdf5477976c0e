"""Sends mutated archives and broken streams to a running server, several at a time, and checks every answer and the server itself."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from fuzz.answers import Answer, ask, fault_of, open_channel
from fuzz.report import Finding, Report
from fuzz.streams import Stream, frame, make_stream
from retraced import EmbeddedServer
from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import Reason
from tests.e2e.processes import Observed
from tests.support.waiting import eventually

_CALLERS: Final = 4
_CHECK_EVERY: Final = 100
# The server contains these faults; that a stranger's archive causes one is still a finding.
_CONTAINED: Final = frozenset(
    reason.value
    for reason in Reason
    if reason.name.startswith(("WORKER", "SANDBOX", "CPU", "JOB")) or reason in (Reason.INTERNAL, Reason.STORAGE_FULL)
)
_GROWTH: Final = 64 << 20


def server_arguments(spool: Path) -> list[str]:
    """Return the arguments of a server that is to be attacked: small limits, and archives on disk."""
    limits = ("--workers", "2", "--job-timeout", "120", "--worker-memory", "2GiB", "--upload-idle-timeout", "20")
    return [*limits, "--spool-dir", str(spool), "--spool-memory", "8KiB", "--import", "tests.support.programs"]


def fuzz_server(
    report: Report,
    archives: Mapping[str, bytes],
    *,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _: None,
) -> None:
    """Start a server and attacks it.

    Args:
        report: Where answers are counted.
        archives: What is mutated, by name.
        count: How many requests are made; None is no bound.
        seconds: Seconds after which no further request is made; None is no bound.
        progress: Called every hundred requests.
    """
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(server_arguments(Path(folder))) as server:
        attack = _Attack(report, archives, server, Path(folder), count, seconds, progress)
        attack.run()
        attack.check_at_end()


class _Attack:
    def __init__(
        self,
        report: Report,
        archives: Mapping[str, bytes],
        server: EmbeddedServer,
        spool: Path,
        count: int | None,
        seconds: float | None,
        progress: Callable[[Report], None],
    ) -> None:
        assert server.pid is not None
        self._report = report
        self._archives = archives
        self._server = server
        self._observed = Observed(server.pid)
        self._spool = spool
        self._progress = progress
        self._seeds = iter(range(report.seed, report.seed + count)) if count is not None else itertools.count(report.seed)
        self._until = None if seconds is None else time.monotonic() + seconds
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        # What is opened and allocated once is not what is looked for.
        for name in archives:
            self._control(name)
        # The zygote's own memory can be told only while it shares none with a worker.
        eventually(self._observed.at_rest, "the first workers are gone")
        self._zygote = self._observed.zygote
        self._descriptors = self._observed.descriptors()
        self._memory = self._observed.private_bytes()
        self._files = sorted(spool.iterdir())
        report.begin()

    def run(self) -> None:
        callers = [threading.Thread(target=self._call, name=f"caller {number}") for number in range(_CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        if self._failure is not None:
            raise self._failure
        self._report.end()

    def check_at_end(self) -> None:
        """Check that nothing is left behind."""
        observed = self._observed
        self._check_server("end")
        try:
            eventually(observed.at_rest, "no worker is left")
            eventually(lambda: observed.descriptors() <= self._descriptors, "no descriptor is left")
            assert observed.deleted_files() == [], f"files are held open: {observed.deleted_files()}"
            files = sorted(self._spool.iterdir())
            assert files == self._files, f"files are left: {files}"
            grown = observed.private_bytes() - self._memory
            assert grown < _GROWTH, f"the server's memory has grown by {grown >> 20} MiB"
        except AssertionError as error:
            self._found("leak", None, -1, str(error))

    def _call(self) -> None:
        try:
            with open_channel(self._server.address) as channel:
                while self._until is None or time.monotonic() < self._until:
                    with self._lock:
                        seed = next(self._seeds, None)
                    if seed is None or self._failure is not None:
                        return
                    stream = make_stream(self._archives, seed)
                    request_id = f"fuzz-{seed}"
                    answer = ask(
                        channel,
                        stream.frames,
                        request_id=request_id,
                        metadata=stream.metadata,
                        cancel_after=stream.cancel_after,
                    )
                    self._count(stream, seed, answer)
        except BaseException as error:  # noqa: BLE001 - a thread's error is raised by the one that waits for it
            self._failure = error

    def _count(self, stream: Stream, seed: int, answer: Answer) -> None:
        fault = fault_of(answer, stream.archive, stream.options, beyond=stream.beyond)
        if not fault and answer.reason in _CONTAINED:
            fault = f"{answer.reason}: {answer.message}"
        with self._lock:
            kind = "protocol" if "protocol" in stream.steps else "archive"
            self._report.outcomes[f"{kind}: {answer.reason or answer.code.name}"] += 1
            if fault:
                self._found(answer.reason or "answer", stream, seed, fault)
            if self._report.count % _CHECK_EVERY == 0:
                self._check_server(f"seed {seed}")
                self._report.end()
                self._progress(self._report)

    def _check_server(self, when: str) -> None:
        """Check that the server is the one that was started, and answers right."""
        try:
            assert self._observed.front_end.is_running(), "the front end has ended"
            assert self._observed.zygote == self._zygote, "the zygote is another"
            self._control(next(iter(self._archives)))
        except (AssertionError, psutil.Error, ValueError) as error:
            self._found("server", None, -1, f"{when}: {error}")

    def _control(self, name: str) -> None:
        """Has an archive that nobody mutated answered: it comes back as it was."""
        archive = self._archives[name]
        spec = pb.TransformSpec(pipeline="retrace", archive_size=len(archive))
        chunk = pb.TransformGraphRequest(archive_chunk=archive).SerializeToString()
        with open_channel(self._server.address) as channel:
            answer = ask(channel, [frame(spec), chunk], request_id="control")
        fault = fault_of(answer, archive, spec.options)
        assert not fault, fault
        assert answer.summary is not None, f"{name}: {answer.reason} {answer.message}"
        assert not answer.summary.modified, f"{name} came back modified"

    def _found(self, kind: str, stream: Stream | None, seed: int, detail: str) -> None:
        program, steps, data = ("", (), b"") if stream is None else (stream.program, stream.steps, stream.archive)
        self._report.found(Finding(kind, program, seed, tuple(steps), detail), data)
