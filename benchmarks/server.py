"""A server as a whole: until it is ready, its first request against its tenth, and two workers against one."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.measure import seconds
from benchmarks.passes import REWRITE, SERVER_ARGUMENTS, repeated
from benchmarks.results import Cell, Grid, Section, at_least, at_most
from benchmarks.setup import Setup
from retraced import Client, EmbeddedServer

_REQUESTS = 10
_BATCH_PASSES = (1, 10)


def measure(setup: Setup) -> Section:
    """Start fresh servers, as many for each program as there are rounds."""
    rows: list[list[Cell]] = []
    starts: list[float] = []
    for subject in setup.subjects:
        setup.say(f"first and tenth request: {subject.name}")
        first, tenth = [], []
        for _ in range(setup.rounds):
            server = EmbeddedServer(SERVER_ARGUMENTS)
            starts.append(seconds(server.start))
            with server, Client(server.address) as client:
                # The channel connects before anything is measured, as a pipeline's has when its server is up.
                client.info()
                times = [seconds(partial(_request, client, subject.path)) for _ in range(_REQUESTS)]
            first.append(times[0])
            tenth.append(times[-1])
        best, middle = min(first) / min(tenth), statistics.median(first) / statistics.median(tenth)
        rows.append([subject.name, subject.nodes, statistics.median(first) * 1e3, statistics.median(tenth) * 1e3, middle, best])
    columns = ["program", "nodes", "first, ms", "tenth, ms", "ratio", "ratio of the best"]
    start = Grid(
        "from start to ready", ["servers", "best, s", "median, s"], [[len(starts), min(starts), statistics.median(starts)]]
    )
    requests = Grid("first and tenth request of fresh servers, medians", columns, rows)
    ratios = [float(row[4]) for row in setup.counted(rows)]
    figures = [at_most("first over tenth, median", statistics.median(ratios), 1.3, "x")]
    return Section("server", grids=[start, requests], figures=figures)


def measure_workers(setup: Setup) -> Section:
    """Send the same batch of requests to a server with one worker and to one with two, by turns, from a process of its own.

    That process and the front end share the cores with the workers: with one pass they take a good part of what a request takes.
    """
    rows: list[list[Cell]] = []
    with (
        EmbeddedServer([*SERVER_ARGUMENTS, "--workers", "1"]) as one,
        EmbeddedServer([*SERVER_ARGUMENTS, "--workers", "2"]) as two,
    ):
        for subject in setup.subjects:
            for passes in _BATCH_PASSES:
                setup.say(f"two workers against one: {subject.name}, {_batch_task(passes)}")
                found = _throughput(setup, one, two, subject.path, passes)
                rows.append([subject.name, subject.nodes, _batch_task(passes), *found])
    columns = ["program", "nodes", "passes", "requests", "one worker, a second", "two workers, a second", "ratio"]
    counted = setup.counted(rows)
    figures = [
        at_least(
            f"two workers over one, {task}, median", statistics.median(float(row[6]) for row in counted if row[2] == task), 1.7
        )
        for task in map(_batch_task, _BATCH_PASSES)
    ]
    return Section("workers", grids=[Grid("throughput of a batch of requests", columns, rows)], figures=figures)


def _throughput(
    setup: Setup, one: EmbeddedServer, two: EmbeddedServer, path: Path, passes: int
) -> tuple[int, float, float, float]:
    """Of one program: the requests of a batch, those that each server answers in a second, and the ratio."""
    pipeline = repeated(REWRITE, passes)
    took: dict[str, list[float]] = {one.address: [], two.address: []}
    # Requests for about two seconds of one worker.
    count = 4 if setup.quick else max(8, round(2.0 / (_batch(one.address, path, pipeline, 4) / 4)))
    for _ in range(setup.rounds):
        for address, times in took.items():
            times.append(_batch(address, path, pipeline, count))
    slow, fast = min(took[one.address]), min(took[two.address])
    return count, count / slow, count / fast, slow / fast


def _batch_task(passes: int) -> str:
    return f"5 % x{passes}"


def _request(client: Client, path: Path) -> None:
    client.transform(path, REWRITE).close()


def _batch(address: str, path: Path, pipeline: str, count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.batch", address, str(path), pipeline, str(count)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
