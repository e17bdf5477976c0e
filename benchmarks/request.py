"""Whole requests over a socket: against stock torch in process, and against the same work of ours in process."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse

from benchmarks.measure import best_of
from benchmarks.passes import NO_OP, REWRITE, SERVER_ARGUMENTS, repeated, rewriting
from benchmarks.results import Cell, Comparison, Comparisons, Grid, Section, at_least, at_most, compared
from benchmarks.setup import Setup
from retraced import Client, EmbeddedServer, TransformResult
from retraced_server.passes import run_pipeline
from retraced_server.program import read_program, write_program

_STOCK: dict[str, Any] = {NO_OP: _ExportPassBaseDeprecatedDoNotUse, REWRITE: rewriting(_ExportPassBaseDeprecatedDoNotUse)}
_LABELS = {NO_OP: "no-op", REWRITE: "5 %"}
_COUNTS = (1, 10)


def measure(setup: Setup) -> Section:
    """Compare file to file: stock torch loads, runs passes and save; a request does all of it on a server of this machine."""
    entries: list[Comparison] = []
    out = setup.folder / "out.pt2"
    with EmbeddedServer(SERVER_ARGUMENTS) as server, Client(server.address) as client:
        for subject in setup.subjects:
            for name, label in _LABELS.items():
                for count in _COUNTS:
                    setup.say(f"request: {subject.name}, {label} x{count}")
                    stock = partial(_stock, subject.path, _STOCK[name], count, out)
                    ours = partial(request, client, subject.path, repeated(name, count), out)
                    times = best_of(setup.rounds, stock, ours)
                    entries.append(compared(subject.name, subject.nodes, f"{label} x{count}", times, counted=subject.counted))
    table = Comparisons("whole request over a socket, against stock torch's load, passes and save in process", entries)
    bounds = {1: 5, 10: 15}
    figures = [at_least(f"{task}, median", table.median(task), bounds[int(task.rpartition("x")[2])]) for task in table.tasks]
    return Section("request", comparisons=[table], figures=figures)


def measure_overhead(setup: Setup) -> Section:
    """Compare a request with the same work in this process, warm. The client decodes metadata when it is first read."""
    columns = [
        "program", "nodes", "passes", "in process, ms", "request, ms", "more, ms", "with metadata, ms", "more a node, ms", "decoding a node, ms"
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    out = setup.folder / "out.pt2"
    with EmbeddedServer(SERVER_ARGUMENTS) as server, Client(server.address) as client:
        for subject in setup.subjects:
            for name, label in _LABELS.items():
                setup.say(f"overhead: {subject.name}, {label}")

                def decoded(path: Path = subject.path, pipeline: str = name) -> None:
                    assert request(client, path, pipeline, out, node_metadata="all").nodes

                work, plain, metadata, whole = (
                    seconds * 1e3
                    for seconds in best_of(
                        setup.rounds,
                        partial(_in_process, subject.path, name, out),
                        partial(request, client, subject.path, name, out),
                        partial(request, client, subject.path, name, out, node_metadata="all"),
                        decoded,
                    )
                )
                a_node, decoding = (metadata - plain) / subject.nodes, (whole - metadata) / subject.nodes
                rows.append([subject.name, subject.nodes, label, work, plain, plain - work, metadata, a_node, decoding])
    counted = setup.counted(rows)
    more, more_a_node, decoding_a_node = ([float(row[column]) for row in counted] for column in (5, 7, 8))
    figures = [
        at_most("without metadata, median", statistics.median(more), 40, "ms"),
        at_most("with all metadata, a node more, median", statistics.median(more_a_node), 0.05, "ms"),
        at_most("decoding metadata in the client, a node, median", statistics.median(decoding_a_node), 0.05, "ms"),
    ]
    return Section("overhead", grids=[Grid("a request over the same work in process", columns, rows)], figures=figures)


def _stock(path: Path, make: Any, count: int, out: Path) -> None:
    loaded = torch.export.load(path)
    torch.export.save(loaded._transform_do_not_use(*(make() for _ in range(count))), out)


def request(client: Client, path: Path, pipeline: str, out: Path, *, node_metadata: Any = "none") -> TransformResult:
    """Have a server transform one file into another."""
    with client.transform(path, pipeline, node_metadata=node_metadata) as result:
        result.save(out)
    return result


def _in_process(path: Path, pipeline: str, out: Path) -> None:
    read = read_program(path)
    result = run_pipeline(read.program, pipeline)
    if result.modified:
        with out.open("wb", buffering=0) as file:
            write_program(result.program, file, source=read, records=read.carried())
    else:
        out.write_bytes(path.read_bytes())
    read.close()
