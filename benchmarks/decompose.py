"""`decompose` against torch's `run_decompositions`: in process, as a whole request, by size, and in memory.

Torch takes programs one after the other in a process that has done so before. A server's templates are cold at the first request that it gets
at all, and warm at the first of a program of the same architecture with other weights under other names.
"""

from __future__ import annotations

import functools
import inspect
import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from benchmarks.grown import DECOMPOSE, LAYERS, STOCK_DECOMPOSE, attempted, make, run
from benchmarks.growth import apart, exponent_of
from benchmarks.measure import best_of, seconds
from benchmarks.passes import NO_OP, SERVER_ARGUMENTS
from benchmarks.request import request
from benchmarks.results import Cell, Comparison, Comparisons, Figure, Grid, Section, at_least, at_most, compared
from benchmarks.setup import Setup, Subject, make_subject
from retraced import Client, EmbeddedServer
from retraced_server.passes import run_pipeline
from tests.support.case import ProgramCase
from tests.support.models import DEEP_ARCHITECTURES

_PIPELINE = "decompose,cse,dce"
IN_PROCESS, IN_NEW_PROCESS, COLD, WARM = "in process", "first of a process", "request, cold", "request, warm"
_BOUNDS = {IN_PROCESS: (10, 5), IN_NEW_PROCESS: (10, 5), COLD: (8, None), WARM: (15, None)}
_LAYERS, _MOST_OF_TORCH, _QUICK_LAYERS = (8, 32, 64, 128, 256, 512), 64, (1, 2)
# What takes long is measured less often than other things.
_FEW_ROUNDS, _ROUNDS_IN_PROCESS = 2, 4
_SETTLED_SECONDS = 2.0


def measure(setup: Setup) -> Section:
    """Measure all of it on every program, with as many layers as networks have."""
    subjects = {subject.name: subject for subject in (_deep(subject, setup.folder) for subject in setup.subjects)}
    setup = replace(setup, subjects=tuple(subjects.values()))
    entries: list[Comparison] = []
    again: list[list[Cell]] = []
    memory: list[list[Cell]] = []
    for subject in setup.subjects:
        entries += _in_process(setup, subject, memory)
        entries += _requests(setup, subject)
        again.append(_again(setup, subject))
    table = Comparisons("decompose, and whole requests of decompose,cse,dce, against torch's run_decompositions", entries)
    growth, exponents = _growth(setup)
    grids = [
        Grid(
            "functional core ATen again, against a pass that does nothing",
            ["program", "nodes", "no-op, ms", "decompose again, ms", "ratio"],
            again,
        ),
        Grid(
            "peak memory of decomposing, in a process of its own",
            ["program", "nodes", "torch, MB", "retraced, MB", "ratio"],
            memory,
        ),
        growth,
    ]
    return Section(DECOMPOSE, [table], grids, [*_figures(setup, table, again, memory), *exponents])


def _deep(subject: Subject, folder: Path) -> Subject:
    deep = DEEP_ARCHITECTURES.get(subject.name)
    return subject if deep is None else make_subject(deep.name, folder)


def _figures(setup: Setup, table: Comparisons, again: list[list[Cell]], memory: list[list[Cell]]) -> Iterator[Figure]:
    for task, (median, least) in _BOUNDS.items():
        if table.of(task):
            yield at_least(f"{task}, median", table.median(task), median)
            yield at_least(f"{task}, least", table.least(task), 1 if least is None else least)
    repeated, peaks = ([float(row[4]) for row in setup.counted(rows)] for rows in (again, memory))
    yield at_most("again over a no-op, median", statistics.median(repeated), 3, "x")
    yield at_most("again over a no-op, most", max(repeated), 3, "x")
    yield at_most("memory over torch's, most", max(peaks), 1, "x")


def _in_process(setup: Setup, subject: Subject, memory: list[list[Cell]]) -> Iterator[Comparison]:
    setup.say(f"decompose: {subject.name}, in process")
    program = subject.program
    decomposes = attempted(program.run_decompositions)
    # Where torch fails, it is measured until it does.
    counted = subject.counted and decomposes
    times = best_of(
        min(setup.rounds, _ROUNDS_IN_PROCESS),
        lambda: attempted(program.run_decompositions),
        lambda: run_pipeline(program, DECOMPOSE),
    )
    yield compared(subject.name, subject.nodes, IN_PROCESS, times, counted=counted)
    setup.say(f"decompose: {subject.name}, in processes of its own")
    first = setup.folder / "first-layers.pt2"
    if not first.exists():
        apart(make, LAYERS, 1, str(first))
    found = [apart(run, task, str(first), str(subject.path)) for task in (STOCK_DECOMPOSE, DECOMPOSE)]
    yield compared(subject.name, subject.nodes, IN_NEW_PROCESS, [time for time, _ in found], counted=counted)
    theirs, ours = (peak / 1e6 for _, peak in found)
    memory.append([subject.name, subject.nodes, theirs, ours, ours / theirs])


def _requests(setup: Setup, subject: Subject) -> Iterator[Comparison]:
    out, other = setup.folder / "out.pt2", setup.folder / "other.pt2"
    other.write_bytes(other_archive(subject.case))
    setup.say(f"decompose: {subject.name}, torch's load, run_decompositions and save")
    stock = [seconds(partial(_stock, subject.path, out)) for _ in range(1 if setup.quick else _FEW_ROUNDS)]
    counted = subject.counted and attempted(subject.program.run_decompositions)
    cold, warm = [], []
    for _ in range(min(setup.rounds, _FEW_ROUNDS)):
        setup.say(f"decompose: {subject.name}, requests to a fresh server")
        with EmbeddedServer(SERVER_ARGUMENTS) as server, Client(server.address) as client:
            # The channel connects before anything is measured, as a pipeline's has when its server is up.
            client.info()
            cold.append(seconds(lambda: request(client, subject.path, _PIPELINE, out)))
            _settled(server)
            warm.append(seconds(lambda: request(client, other, _PIPELINE, out)))
    for task, times in ((COLD, cold), (WARM, warm)):
        yield compared(subject.name, subject.nodes, task, (min(stock), min(times)), counted=counted)


def _settled(server: EmbeddedServer) -> None:
    """Wait until a server's workers have had nothing to do for a while: it has made the templates that jobs have missed."""
    assert server.pid is not None
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    before = -1.0
    while before < (before := sum(sum(process.cpu_times()) for process in processes if process.is_running())):
        time.sleep(_SETTLED_SECONDS)


def _stock(path: Path, out: Path) -> None:
    loaded = torch.export.load(path)
    if attempted(lambda: torch.export.save(loaded.run_decompositions(), out)):
        return
    # It would have saved something of about this size.
    torch.export.save(loaded, out)


def _again(setup: Setup, subject: Subject) -> list[Cell]:
    setup.say(f"decompose: {subject.name}, again")
    program = run_pipeline(subject.program, DECOMPOSE).program
    nothing, again = best_of(
        min(setup.rounds, _FEW_ROUNDS), lambda: run_pipeline(program, NO_OP), lambda: run_pipeline(program, DECOMPOSE)
    )
    return [subject.name, len(program.graph.nodes), nothing * 1e3, again * 1e3, again / nothing]


def _growth(setup: Setup) -> tuple[Grid, list[Figure]]:
    sizes = _QUICK_LAYERS if setup.quick else _LAYERS
    paths = {size: setup.folder / f"layers-{size}.pt2" for size in (1, *sizes)}
    for size, path in paths.items():
        setup.say(f"decompose: making {size} layers")
        apart(make, LAYERS, size, str(path))
    rows: list[list[Cell]] = []
    figures = []
    for task, most in ((STOCK_DECOMPOSE, _MOST_OF_TORCH), (DECOMPOSE, sizes[-1])):
        times = {}
        for size in sizes:
            if size <= most:
                setup.say(f"decompose: {size} layers, {task}")
                times[size], _ = apart(run, task, str(paths[1]), str(paths[size]))
        exponent = exponent_of(list(times), list(times.values()))
        a_layer = [times[size] * 1e3 / size if size in times else "" for size in sizes]
        rows.append(["torch" if task == STOCK_DECOMPOSE else "retraced", *a_layer, exponent])
        if task == DECOMPOSE:
            figures.append(at_most("exponent of time with layers", exponent, 1.1))
    return Grid("milliseconds for each layer", ["task", *(f"{size} layers" for size in sizes), "exponent"], rows), figures


def other_archive(case: ProgramCase) -> bytes:
    """Return the archive of a program of the same architecture with other weights under other names, as `torch.export.save` writes it."""
    torch.manual_seed(1)
    args, kwargs = case.inputs()[0]
    program = torch.export.export(_Renamed(case.module()), args, kwargs, dynamic_shapes=case.dynamic_shapes, strict=case.strict)
    buffer = io.BytesIO()
    torch.export.save(program.run_decompositions() if case.functional else program, buffer)
    return buffer.getvalue()


class _Renamed(nn.Module):
    """A module in another, which so has other names for its weights."""

    # Set for each instance, with the signature of the module in it.
    forward: Callable[..., Any]

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.network = module

        @functools.wraps(module.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.network(*args, **kwargs)

        forward.__signature__ = inspect.signature(module.forward)  # type: ignore[attr-defined]  # as `inspect` documents
        self.forward = forward
