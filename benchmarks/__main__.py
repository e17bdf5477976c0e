"""Compares retraced with stock torch on this machine: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Comparison, best_of, machine
from benchmarks.tasks import tasks
from retraced import Client, EmbeddedServer
from tests.support.models import by_name

PROGRAMS = ("bert", "t5", "residual_net", "llama_like")


@click.command()
@click.option("--program", "programs", multiple=True, default=PROGRAMS, show_default=True, help="A test program; repeatable.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Each figure is the best of so many.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to this file too."
)
def main(programs: tuple[str, ...], rounds: int, json_path: Path | None) -> None:
    """Measures stock torch in process against retraced, in process and over a socket of this machine."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console(highlight=False)
    comparisons: list[Comparison] = []
    with EmbeddedServer() as server, Client(server.address) as client, console.status("") as status:
        for name in programs:
            status.update(f"{name}: exporting")
            case = by_name(name)
            program, archive = case.program, case.archive
            for task in tasks(program, archive, client):
                status.update(f"{name}: {task.name}")
                stock, retraced = best_of(rounds, task.stock, task.retraced)
                comparisons.append(Comparison(name, len(program.graph.nodes), task.name, stock, retraced))
    console.print(_table(comparisons, rounds))
    console.print("\n".join(f"{key:>9}  {value}" for key, value in machine().items()))
    if json_path is not None:
        figures = [asdict(comparison) | {"ratio": comparison.ratio} for comparison in comparisons]
        json_path.write_text(json.dumps({"machine": machine(), "rounds": rounds, "comparisons": figures}, indent=2) + "\n")
        console.print(f"The figures are in {json_path}.")


def _table(comparisons: list[Comparison], rounds: int) -> Table:
    table = Table(
        title=f"Milliseconds, best of {rounds}; stock torch works in process, a request goes to a server on this machine"
    )
    for column in ("program", "nodes", "task", "stock torch", "retraced", "times faster"):
        table.add_column(column, justify="left" if column in ("program", "task") else "right")
    previous = ""
    for comparison in comparisons:
        if previous and previous != comparison.program:
            table.add_section()
        shown = "" if previous == comparison.program else comparison.program
        nodes = str(comparison.nodes) if shown else ""
        previous = comparison.program
        figures = (f"{comparison.stock * 1e3:.0f}", f"{comparison.retraced * 1e3:.0f}", f"{comparison.ratio:.1f}")
        table.add_row(shown, nodes, comparison.task, *figures)
    return table


if __name__ == "__main__":
    main()
