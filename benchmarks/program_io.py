"""Compares reading and writing programs with torch.export.load and save: `python -m benchmarks.program_io --help`."""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.measure import Comparison, best_of, machine
from retraced_server.program import read_program, write_program
from tests.support.case import ProgramCase
from tests.support.models import LLAMA_LIKE, by_tag

READ, WRITE, WRITE_BACK = "read", "write", "write unchanged"

#: The weights of the program that memory is measured on.
_BIG_ROWS = 65_536
_BIG_COLUMNS = 4_096

_MEMORY = """
import resource, sys
import torch
from retraced_server.program import read_program, write_program

def private_kib():
    fields = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return int(fields["Private_Dirty"].split()[0])

small, big, out, check = sys.argv[1:]
source = read_program(small)
with open(out, "wb", buffering=0) as file:
    write_program(source.program, file, source=source)
before = private_kib()
source = read_program(big, check=check == "check")
with open(out, "wb", buffering=0) as file:
    write_program(source.program, file, source=source)
print(private_kib() - before)
"""


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="Each figure is the best of so many.")
@click.option("--memory/--no-memory", default=True, help="Measure the memory that a program with 1 GiB of weights takes, too.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to this file too."
)
def main(rounds: int, memory: bool, json_path: Path | None) -> None:
    """Reads and writes the architectures with torch and with retraced, in one process, by turns, on the same files."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console(highlight=False)
    comparisons: list[Comparison] = []
    private = None
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        for case in (*by_tag("architecture"), LLAMA_LIKE):
            status.update(case.name)
            comparisons += compare(case, Path(folder), rounds)
        if memory:
            status.update("a program with 1 GiB of weights")
            private = private_megabytes(Path(folder))
    console.print(_table(comparisons, rounds))
    for task, ratio in medians(comparisons).items():
        console.print(f"{task}: {ratio:.1f} times as fast, median over the architectures")
    if private is not None:
        console.print(f"private memory to read and write 1 GiB of weights, beyond a small program: {private:.1f} MB")
    console.print("\n".join(f"{key:>9}  {value}" for key, value in machine().items()))
    if json_path is not None:
        figures = [asdict(comparison) | {"ratio": comparison.ratio} for comparison in comparisons]
        written = {"machine": machine(), "rounds": rounds, "comparisons": figures, "private_megabytes": private}
        json_path.write_text(json.dumps(written, indent=2) + "\n")


def compare(case: ProgramCase, folder: Path, rounds: int) -> list[Comparison]:
    """Measures one program. What stock torch read, it writes; what we read, we write, anew and unchanged."""
    path, out = folder / f"{case.name}.pt2", folder / "out.pt2"
    path.write_bytes(case.archive)
    theirs, ours = torch.export.load(path), read_program(path)

    def write(*, unchanged: bool) -> None:
        with out.open("wb", buffering=0) as file:
            write_program(ours.program, file, source=ours if unchanged else None)

    tasks: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        (READ, lambda: torch.export.load(path), lambda: read_program(path)),
        (WRITE, lambda: torch.export.save(theirs, out), lambda: write(unchanged=False)),
        (WRITE_BACK, lambda: torch.export.save(theirs, out), lambda: write(unchanged=True)),
    ]
    nodes = len(case.program.graph.nodes)
    return [Comparison(case.name, nodes, name, *best_of(rounds, stock, retraced)) for name, stock, retraced in tasks]


def medians(comparisons: list[Comparison]) -> dict[str, float]:
    """The median ratio of each task."""
    tasks = dict.fromkeys(comparison.task for comparison in comparisons)
    return {task: statistics.median(one.ratio for one in comparisons if one.task == task) for task in tasks}


class _Big(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, _BIG_COLUMNS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def private_megabytes(folder: Path) -> float:
    """The private memory that a process of its own takes to read and write 1 GiB of weights, checksums compared."""
    for name, rows in (("small", 16), ("big", _BIG_ROWS)):
        torch.export.save(torch.export.export(_Big(rows), (torch.ones(1, rows),)), folder / f"{name}.pt2")
    paths = [str(folder / f"{name}.pt2") for name in ("small", "big", "out")]
    command = [sys.executable, "-c", _MEMORY, *paths, "check"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return int(run.stdout.split()[-1]) / 1024


def _table(comparisons: list[Comparison], rounds: int) -> Table:
    table = Table(title=f"Milliseconds, best of {rounds}")
    for column in ("program", "nodes", "task", "stock torch", "retraced", "times faster"):
        table.add_column(column, justify="left" if column in ("program", "task") else "right")
    previous = ""
    for comparison in comparisons:
        if previous and previous != comparison.program:
            table.add_section()
        shown = "" if previous == comparison.program else comparison.program
        previous = comparison.program
        figures = (f"{comparison.stock * 1e3:.1f}", f"{comparison.retraced * 1e3:.1f}", f"{comparison.ratio:.1f}")
        table.add_row(shown, str(comparison.nodes) if shown else "", comparison.task, *figures)
    return table


if __name__ == "__main__":
    main()
