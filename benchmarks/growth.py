"""How time and memory grow with nodes: exponents by regression over sizes, for what the server does and for whole requests.

Time is the processor's, which other work on the machine hardly changes; that of requests is the clock's.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.grown import KINDS, TASKS, make, run
from benchmarks.measure import seconds
from benchmarks.passes import REWRITE, SERVER_ARGUMENTS
from benchmarks.private_memory import watched
from benchmarks.results import Cell, Figure, Grid, Section, at_most
from benchmarks.setup import Setup
from retraced import Client, EmbeddedServer

_SIZES, _QUICK_SIZES = (1_000, 5_000, 20_000, 50_000), (60, 120)
_QUICK_KINDS = ("deep chains", "subgraphs")
# Kinds that nobody has by the ten thousand; and of a node with more results than 16,384, half of that many nodes, programs are not read.
_LARGEST = {"unbacked symbols": 20_000, "subgraphs": 20_000, "wide fan-out": 20_000}
# For what a first use costs, whatever the size.
_FIRST_SIZE = 100
_REQUEST_ROUNDS = 2
_MOST_ROUNDS, _ENOUGH_SECONDS = 3, 3.0
REQUEST = "request"
#: Bodies are held to the bound in the engine only.
_ENGINE_ONLY = {"subgraphs": ("incremental", "full")}

_Given = TypeVar("_Given")


def measure(setup: Setup) -> Section:
    """Measure every task on programs of every kind and size."""
    grids, exponents = [], {}
    kinds = _QUICK_KINDS if setup.quick else tuple(KINDS)
    with EmbeddedServer(SERVER_ARGUMENTS) as server, Client(server.address) as client:
        for kind in kinds:
            sizes = _QUICK_SIZES if setup.quick else [size for size in _SIZES if size <= _LARGEST.get(kind, size)]
            first, paths = _archives(setup, kind, sizes)
            rounds = 1 if setup.quick else _MOST_ROUNDS
            tasks: dict[str, Callable[[Path], tuple[float, int]]] = {
                task: partial(_task, task, rounds, first) for task in TASKS
            }
            tasks[REQUEST] = partial(_request, client, server)
            times: list[list[Cell]] = []
            for task, of_path in tasks.items():
                measured = []
                for size, path in paths.items():
                    setup.say(f"growth: {kind}, {size} nodes, {task}")
                    measured.append(of_path(path))
                # What any program takes of a worker, however small it is.
                fixed = of_path(first)[1] if task == REQUEST else 0
                memory = [max(peak - fixed, 0) for _, peak in measured]
                for what, unit, values in (("time", "ms", [time * 1e3 for time, _ in measured]), ("memory", "MB", memory)):
                    shown = [value / 1e6 for value in values] if unit == "MB" else values
                    # A small program may take no more memory than any.
                    known = [(size, value) for size, value in zip(sizes, values, strict=True) if value > 0]
                    exponent = exponents[kind, task, what] = exponent_of(*zip(*known, strict=True)) if len(known) > 1 else 0.0
                    times.append([f"{task}, {unit}", *shown, exponent])
            columns = ["task", *(f"{size:,} nodes" for size in sizes), "exponent"]
            grids.append(Grid(f"growth: {kind}", columns, times))
    return Section("growth", grids=grids, figures=_figures(kinds, exponents))


def exponent_of(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent with which values grow with sizes, by linear regression of their logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values]).slope


def _figures(kinds: Sequence[str], exponents: dict[tuple[str, str, str], float]) -> list[Figure]:
    figures = []
    for kind in kinds:
        for what in ("time", "memory"):
            tasks = _ENGINE_ONLY.get(kind, (*TASKS, REQUEST))
            worst = max(tasks, key=lambda task: exponents[kind, task, what])
            figures.append(at_most(f"{kind}: exponent of {what}, highest ({worst})", exponents[kind, worst, what], 1.1))
    return figures


def _archives(setup: Setup, kind: str, sizes: Sequence[int]) -> tuple[Path, dict[int, Path]]:
    paths = {}
    for size in (_FIRST_SIZE, *sizes):
        setup.say(f"growth: {kind}, making {size} nodes")
        paths[size] = setup.folder / f"{kind.replace(' ', '-')}-{size}.pt2"
        apart(make, kind, size, str(paths[size]))
    return paths.pop(_FIRST_SIZE), paths


def apart(task: Callable[..., _Given], *arguments: object) -> _Given:
    """Run something in a process forked from one that has imported torch and done nothing: what ran before cannot be seen."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.grown"])
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(task, *arguments).result()


def _task(task: str, rounds: int, first: Path, path: Path) -> tuple[float, int]:
    """Return the best time, of one run if it takes long, and the memory of the first run; each in a process of its own."""
    found: list[tuple[float, int]] = []
    while len(found) < rounds and sum(time for time, _ in found) < _ENOUGH_SECONDS:
        found.append(apart(run, task, str(first), str(path)))
    return min(time for time, _ in found), found[0][1]


def _request(client: Client, server: EmbeddedServer, path: Path) -> tuple[float, int]:
    assert server.pid is not None
    with watched(server.pid) as peaks:
        times = [seconds(lambda: client.transform(path, REWRITE).close()) for _ in range(_REQUEST_ROUNDS)]
    return min(times), peaks.worker
