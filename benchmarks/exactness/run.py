"""Judges many programs in processes of their own, a few at a time."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

import torch

from benchmarks.exactness.judge import Table, Verdict, judge
from benchmarks.exactness.sources import SOURCES

# After so many a process is replaced by another: torch and sympy remember something of each program.
_OF_A_PROCESS = 100
_MOST_SECONDS = 900.0


@dataclass(frozen=True)
class Item:
    """A program to judge, and the table to decompose it by."""

    source: str
    name: str
    table: Table


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    item: Item | None = None
    since: float = 0.0
    done: int = 0


def judge_all(items: Sequence[Item], jobs: int) -> Iterator[Verdict]:
    """Judge programs by so many processes at a time, and yield each verdict when it is there.

    A process that ends without one, or that takes longer than 15 minutes, is a failure of ours. Closing the generator ends the processes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.exactness.judge", "benchmarks.exactness.sources"])
    waiting = list(reversed(items))
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.item for worker in workers):
            for worker in [one for one in workers if one.item is None and one.done >= _OF_A_PROCESS]:
                _end(worker)
                workers.remove(worker)
            while waiting and len(workers) < jobs:
                workers.append(_start(context))
            for worker in workers:
                if worker.item is None and waiting:
                    worker.item, worker.since = waiting.pop(), time.monotonic()
                    worker.connection.send(worker.item)
            busy = {worker.connection: worker for worker in workers if worker.item is not None}
            # Of the list's items some may have taken too long.
            for connection in wait(list(busy), timeout=1.0):
                yield _receive(busy[connection], workers)  # type: ignore[index]  # a connection, of those given
            for worker in [one for one in workers if one.item and time.monotonic() - one.since > _MOST_SECONDS]:
                assert worker.item is not None
                workers.remove(worker)
                _end(worker)
                yield _without_verdict(worker.item, f"took longer than {_MOST_SECONDS:.0f} s")
    finally:
        for worker in workers:
            _end(worker)


def _start(context: multiprocessing.context.ForkServerContext) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _receive(worker: _Worker, workers: list[_Worker]) -> Verdict:
    item = worker.item
    assert item is not None
    try:
        verdict: Verdict = worker.connection.recv()
    except EOFError:
        workers.remove(worker)
        _end(worker)
        return _without_verdict(item, f"the process ended with {worker.process.exitcode}")
    worker.item = None
    worker.done += 1
    return verdict


def _end(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _without_verdict(item: Item, error: str) -> Verdict:
    return Verdict(item.source, item.name, item.table, outcome="ours fails", error=error)


def _work(connection: Connection) -> None:
    # Of the terminal's interrupt the parent makes an end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    while True:
        try:
            item: Item = connection.recv()
        except EOFError:
            return
        connection.send(judge_item(item))


def judge_item(item: Item) -> Verdict:
    """Judge one program in this process."""
    source = SOURCES[item.source]
    try:
        case = source.case(item.name)
    except LookupError as error:
        return Verdict(item.source, item.name, item.table, outcome="not exported", error=str(error))
    verdict = judge(item.source, case, item.table)
    verdict.name = item.name
    return verdict
