"""Reads mutated archives in processes of their own, so that a crash is a finding and not the end of the run."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import mmap
import os
import resource
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.judge import MOST_SECONDS, Judge, Verdict
from fuzz.mutate import Mutant, mutate
from fuzz.report import Finding, Report

_BATCH: Final = 1_000
"""Archives that one process reads: what it leaks between them ends with it."""

_PATIENCE: Final = 300.0
"""Seconds without an archive's end after which a process hangs. One that computes is ended long before, by its processor time."""

_ADDRESS_SPACE: Final = 8 << 30
"""Bytes that a process may map beyond what it starts with."""


@dataclass(frozen=True)
class _Batch:
    """Archives by number, those that are known to be harmless, and the processor time that one may take, in seconds."""

    count: int
    make: Callable[[int], tuple[str, int, Mutant]]
    harmless: Mapping[str, bytes]
    most_seconds: float = MOST_SECONDS


def fuzz_reader(
    report: Report,
    archives: Mapping[str, bytes],
    *,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _: None,
    mutation: Callable[[bytes, int], Mutant] = mutate,
    most_seconds: float = MOST_SECONDS,
) -> None:
    """Read mutated archives, and count what comes of them.

    Args:
        report: Where they are counted. Its seed is that of the first archive; each further one has the next.
        archives: What is mutated, by name, in turns.
        count: How many archives are read; None is no bound.
        seconds: Seconds after which no further batch is begun; None is no bound.
        progress: Called after each batch.
        mutation: Mutates an archive by a seed.
        most_seconds: Processor time that one archive may take.
    """
    seed, left = report.seed, count
    started = time.monotonic()
    report.begin()
    while left != 0 and (seconds is None or time.monotonic() - started < seconds):
        size = _BATCH if left is None else min(left, _BATCH)
        done = _run(report, _Batch(size, functools.partial(_mutant, archives, seed, mutation), archives, most_seconds))
        seed += done
        left = None if left is None else left - done
        report.end()
        progress(report)


def replay(report: Report, paths: Sequence[Path], archives: Mapping[str, bytes]) -> None:
    """Read archives from files as they are.

    Args:
        report: Where they are counted.
        paths: The files.
        archives: Archives of programs that nobody mutated.
    """
    report.begin()
    done = 0
    while done < len(paths):
        rest = paths[done:]
        done += _run(report, _Batch(len(rest), functools.partial(_from_file, rest), archives))
    report.end()


def _mutant(
    archives: Mapping[str, bytes], seed: int, mutation: Callable[[bytes, int], Mutant], index: int
) -> tuple[str, int, Mutant]:
    program = sorted(archives)[(seed + index) % len(archives)]
    return program, seed + index, mutation(archives[program], seed + index)


def _from_file(paths: Sequence[Path], index: int) -> tuple[str, int, Mutant]:
    return paths[index].stem, -1, Mutant(paths[index].read_bytes(), ())


def _run(report: Report, batch: _Batch) -> int:
    """Run a batch in a process of its own. How many of its archives were read: it ends with one that ends the process."""
    at = mmap.mmap(-1, 8)
    reading, writing = os.pipe()
    gc.collect()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            _child(batch, at, writing)
            status = 0
        except BaseException:  # noqa: BLE001 - a fault of the fuzzer's own; nothing of the parent may run here
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    hung = _collect(report, batch, reading, at, child)
    _, status = os.waitpid(child, 0)
    index = int.from_bytes(at[:], "little")
    at.close()
    if index >= batch.count:
        return batch.count
    if os.WIFEXITED(status) and not hung:
        raise RuntimeError(f"a process of the fuzzer ended with status {os.WEXITSTATUS(status)} at archive {index}")
    program, seed, mutant = batch.make(index)
    number = signal.SIGKILL if hung else signal.Signals(os.WTERMSIG(status))
    kind = "hang" if hung else "slow" if number == signal.SIGXCPU else f"crash {number.name}"
    report.outcomes[kind] += 1
    report.found(Finding(kind, program, seed, mutant.steps, f"the process ended by {number.name}"), mutant.archive)
    return index + 1


def _collect(report: Report, batch: _Batch, reading: int, at: mmap.mmap, child: int) -> bool:
    """Take verdicts until the process ends. Whether it had to be killed, since it hung."""
    waiting = b""
    last, since = -1, time.monotonic()
    with os.fdopen(reading, "rb", buffering=0) as verdicts:
        while True:
            ready, _, _ = select.select([verdicts], [], [], 10.0)
            if ready:
                data = verdicts.read(1 << 16)
                if not data:
                    return False
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    _count(report, batch, line)
            if (index := int.from_bytes(at[:], "little")) != last:
                last, since = index, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                os.kill(child, signal.SIGKILL)
                return True


def _count(report: Report, batch: _Batch, line: bytes) -> None:
    index, outcome, detail, used = json.loads(line)
    report.outcomes[outcome] += 1
    report.more["most_seconds"] = max(used, report.more.get("most_seconds", 0.0))
    if detail:
        program, seed, mutant = batch.make(index)
        report.found(Finding(outcome, program, seed, mutant.steps, detail), mutant.archive)


def _child(batch: _Batch, at: mmap.mmap, writing: int) -> None:
    """Read the archives of a batch, in a folder of its own that must stay empty."""
    logging.disable(logging.CRITICAL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + _ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        judge = Judge(batch.harmless.values(), batch.most_seconds)
        for index in range(batch.count):
            at[:] = index.to_bytes(8, "little")
            archive = batch.make(index)[2].archive
            used = time.process_time()
            verdict = judge.judge(archive)
            used = time.process_time() - used
            if left := os.listdir(folder):
                verdict = Verdict("effect", f"files in the working folder: {left}")
            os.write(writing, json.dumps([index, verdict.outcome, verdict.finding, used]).encode() + b"\n")
        at[:] = batch.count.to_bytes(8, "little")
        os.chdir("/")
