"""A soak: clients of one server, whose workers and zygote are killed at random, and every answer of which is checked."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import psutil

from fuzz.answers import Answer, ask, fault_of, open_channel
from fuzz.chaos import Chaos
from fuzz.report import Finding, Report
from fuzz.seeds import seed_archives
from fuzz.tasks import PROGRAMS, Task, bad_tasks, good_tasks
from retraced import EmbeddedServer
from retraced.v1 import graph_transform_pb2 as pb
from tests.e2e.processes import Observed
from tests.support.waiting import eventually

_CLIENTS: Final = 8
_WARM_UP: Final = 6
"""Requests of each client before anything is measured: what is opened and allocated once is not what is looked for."""

_SAMPLE_SECONDS: Final = 5.0
_GROWTH: Final = 24 << 20
"""Bytes by which the memory of an idle process may differ from what it was after the warm-up."""


@dataclass(frozen=True)
class Sample:
    """What a server held at a time, in seconds since the warm-up; `None` where its zygote was being replaced."""

    seconds: float
    begun: int
    front_end_bytes: int
    front_end_descriptors: int
    zygote_bytes: int | None
    zygote_descriptors: int | None


def soak(
    report: Report,
    *,
    count: int | None = None,
    seconds: float | None = None,
    between_workers: int = 12,
    between_zygotes: int = 150,
    programs: Sequence[str] = PROGRAMS,
    progress: Callable[[Report], None] = lambda _: None,
) -> None:
    """Start a server of two workers, and have eight clients work it.

    Args:
        report: Where answers are counted.
        count: How many requests are made; None is no bound.
        seconds: Seconds after which no further request is begun; None is no bound.
        between_workers: Requests between two kills of a worker, on average.
        between_zygotes: Requests between two kills of the zygote, on average.
        programs: The test programs.
        progress: Called every few seconds.
    """
    archives = seed_archives(tuple(programs))
    good, bad = good_tasks(archives), bad_tasks(archives)
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(_arguments(folder)) as server:
        _Soak(report, server, Path(folder), good, bad).run(count, seconds, between_workers, between_zygotes, progress)


def _arguments(spool: str) -> list[str]:
    limits = ("--workers", "2", "--spool-memory", "64KiB", "--upload-idle-timeout", "60")
    return [*limits, "--spool-dir", spool, "--import", "tests.support.programs"]


class _Soak:
    def __init__(self, report: Report, server: EmbeddedServer, spool: Path, good: list[Task], bad: list[Task]) -> None:
        assert server.pid is not None
        self._report = report
        self._server = server
        self._spool = spool
        self._good, self._bad = good, bad
        self._observed = Observed(server.pid)
        self._lock = threading.Lock()
        self._begun = 0
        self._chaos: Chaos | None = None
        self._failure: BaseException | None = None
        self._samples: list[Sample] = []

    def run(
        self,
        count: int | None,
        seconds: float | None,
        between_workers: int,
        between_zygotes: int,
        progress: Callable[[Report], None],
    ) -> None:
        self._warm_up()
        files = sorted(self._spool.iterdir())
        first = self._sample()
        self._report.begin()
        self._begun = 0
        chance = random.Random(self._report.seed)
        self._chaos = chaos = Chaos(
            self._observed,
            chance,
            lambda: self._begun,
            between_workers=between_workers,
            between_zygotes=between_zygotes,
        )
        chaos.start()
        try:
            self._work(self._numbers(count, seconds), progress)
        finally:
            chaos.stop()
        self._report.end()
        self._check_at_end(first, files)
        kills = {"workers": chaos.workers_killed, "zygotes": chaos.zygotes_killed}
        samples: list[dict[str, Any]] = [vars(sample) for sample in self._samples]
        self._report.more |= {"begun": self._begun, "killed": kills, "samples": samples}

    def _warm_up(self) -> None:
        """Has every good request answered right, without faults, by all clients at once."""
        tasks = itertools.islice(itertools.cycle(self._good), max(len(self._good), _CLIENTS * _WARM_UP))
        plain = [functools.partial(self._ask_plainly, task) for task in tasks]
        self._in_threads(iter(plain), lambda call: call())
        # The zygote's own memory can be told only while it shares none with a worker.
        eventually(self._observed.at_rest, "the warm-up's last worker is gone")

    def _ask_plainly(self, task: Task) -> None:
        with open_channel(self._server.address) as channel:
            answer = ask(channel, task.frames, request_id="warm-up")
        if not task.is_answered_by(answer):
            self._found("wrong", task, -1, f"{task.name}: {answer.code.name} {answer.reason} {answer.message}")

    def _numbers(self, count: int | None, seconds: float | None) -> Any:
        until = None if seconds is None else time.monotonic() + seconds
        for number in itertools.count() if count is None else range(count):
            if until is not None and time.monotonic() > until:
                return
            yield number

    def _work(self, numbers: Any, progress: Callable[[Report], None]) -> None:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_SAMPLE_SECONDS):
                self._samples.append(self._sample())
                with self._lock:
                    self._report.end()
                    progress(self._report)

        watching = threading.Thread(target=watch, name="samples")
        watching.start()
        try:
            self._in_threads(numbers, self._request)
        finally:
            done.set()
            watching.join()

    def _in_threads(self, items: Any, step: Callable[[Any], None]) -> None:
        def client() -> None:
            try:
                while self._failure is None:
                    with self._lock:
                        item = next(items, None)
                    if item is None:
                        return
                    step(item)
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for this one
                self._failure = error

        clients = [threading.Thread(target=client, name=f"client {number}") for number in range(_CLIENTS)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _request(self, number: int) -> None:
        """Make one request in a way that its number decides, and check what comes of it."""
        chance = random.Random(f"{self._report.seed} {number}")
        way = chance.choices(("plain", "slow reader", "cancel", "disconnect", "bad"), (60, 8, 12, 10, 10))[0]
        task = chance.choice(self._bad if way == "bad" else self._good)
        leave_after, wait = chance.uniform(0, 1.5), chance.uniform(0.02, 0.3)
        with self._lock:
            self._begun += 1
        start = time.monotonic()
        channel = open_channel(self._server.address)
        try:
            answer = ask(
                channel,
                task.frames,
                request_id=f"soak-{number}",
                leave=channel.close if way == "disconnect" else None,
                cancel_after=chance.randrange(6) if way == "cancel" else None,
                leave_after=leave_after,
                seconds_between=wait if way == "slow reader" else 0.0,
            )
        finally:
            channel.close()
        outcome, fault = self._judge(task, answer, start)
        with self._lock:
            self._report.outcomes[f"{way}: {outcome}"] += 1
            if fault:
                self._found(outcome, task, number, f"{way}, {task.name}: {fault}")

    def _judge(self, task: Task, answer: Answer, start: float) -> tuple[str, str]:
        """Return what came of a request, and what is wrong with that."""
        if task.is_answered_by(answer):
            return "right answer" if not task.reason else f"right error {answer.reason}", ""
        if answer.left and answer.code is grpc.StatusCode.CANCELLED:
            return "left", ""
        if answer.code is grpc.StatusCode.OK:
            return "WRONG ANSWER", "another output than computed in process"
        assert self._chaos is not None
        fault = fault_of(answer, b"", pb.TransformOptions())
        if not fault and not self._chaos.explains(answer.reason, start, time.monotonic()):
            fault = f"{answer.reason}, which no injected fault explains: {answer.message}"
        return answer.reason or answer.code.name, fault

    def _check_at_end(self, first: Sample, files: list[Path]) -> None:
        observed = self._observed
        with self._lock:
            answered = self._report.count
        try:
            assert answered == self._begun, f"{self._begun} requests were begun, and {answered} ended"
            eventually(lambda: len(observed.front_end.children()) == 1 and observed.at_rest(), "no worker is left")
            self._check_warm()
            eventually(
                lambda: observed.descriptors()[0] <= first.front_end_descriptors, "no descriptor of the front end is left"
            )
            last = self._sample()
            assert last.zygote_descriptors == first.zygote_descriptors, f"the zygote's descriptors: {first}, {last}"
            assert observed.deleted_files() == [], f"files are held open: {observed.deleted_files()}"
            left = [path for path in self._spool.iterdir() if not path.is_dir()]
            assert len(list(self._spool.iterdir())) <= len(files), f"files are left: {sorted(self._spool.iterdir())}"
            assert not left, f"files are left: {left}"
            assert last.front_end_bytes - first.front_end_bytes < _GROWTH, f"the front end has grown: {first}, {last}"
            assert last.zygote_bytes is not None
            assert first.zygote_bytes is not None
            assert last.zygote_bytes - first.zygote_bytes < _GROWTH, f"the zygote has grown: {first}, {last}"
            self._samples.append(last)
        except AssertionError as error:
            self._found("leak", None, -1, str(error))
        self._samples.insert(0, first)

    def _check_warm(self) -> None:
        """Has each program answered once more: a zygote that was started anew has then done what the first one had."""
        for task in self._good:
            self._ask_plainly(task)
        eventually(self._observed.at_rest, "no worker is left")

    def _sample(self) -> Sample:
        front_end = self._observed.front_end
        seconds = time.monotonic() - self._report.started
        zygote_bytes = zygote_descriptors = None
        # While it is being replaced there is none.
        with contextlib.suppress(ValueError, psutil.Error):
            zygote = self._observed.zygote
            zygote_bytes, zygote_descriptors = zygote.memory_full_info().uss, zygote.num_fds()
        memory = front_end.memory_full_info().uss
        return Sample(round(seconds, 1), self._begun, memory, front_end.num_fds(), zygote_bytes, zygote_descriptors)

    def _found(self, kind: str, task: Task | None, number: int, detail: str) -> None:
        log = "\n".join(self._server.log.splitlines()[-40:])
        self._report.found(Finding(kind, "soak", number, (task.name if task else "",), detail), log.encode())
