"""The retrace engine against the class it takes the place of, in process: `python -m benchmarks.engine`.

Each figure is measured twice: the passes on a graph module, and the passes on a whole program, which is put together again at the end.
"""

from __future__ import annotations

import logging
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import fx
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse
from torch.export import ExportedProgram

from benchmarks.measure import Comparison, best_of, machine
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass
from tests.support.models import by_name, by_tag

# One operator of so many is rewritten.
_STRIDE = 20


def rewriting(base: Any) -> Any:
    """A pass on either base class that copies the result of every twentieth operator: nodes are made, and what follows reads other values."""

    class Rewriting(base):  # type: ignore[misc]  # the base is the point
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0
            self.rewritten = 0

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            result = super().call_operator(op, args, kwargs, meta)
            self.seen += 1
            if self.seen % _STRIDE or not isinstance(result.data, torch.Tensor):
                return result
            self.rewritten += 1
            return super().call_operator(torch.ops.aten.clone.default, (result,), {}, meta)

    return Rewriting


_StockNoOp = _ExportPassBaseDeprecatedDoNotUse
_StockRewriting = rewriting(_ExportPassBaseDeprecatedDoNotUse)
_Rewriting = rewriting(ExportPass)


@dataclass(frozen=True)
class EngineTask:
    """One thing to do, and the two ways of doing it."""

    name: str
    stock: Callable[[], object]
    retraced: Callable[[], object]


def _chain(module: fx.GraphModule, make: Callable[[], Any], count: int) -> fx.GraphModule:
    for _ in range(count):
        module = make()(module).graph_module
    return module


def _full() -> ExportPass:
    made = ExportPass()
    made.mode = "full"
    return made


def graph_tasks(module: fx.GraphModule) -> Iterator[EngineTask]:
    """Yields the tasks on a graph module."""
    for count in (1, 10):
        stock, ours = partial(_chain, module, _StockNoOp, count), partial(_chain, module, ExportPass, count)
        yield EngineTask(f"no-op x{count}", stock, ours)
        stock, ours = partial(_chain, module, _StockRewriting, count), partial(_chain, module, _Rewriting, count)
        yield EngineTask(f"5 % x{count}", stock, ours)
    yield EngineTask("full", partial(_chain, module, _StockNoOp, 1), partial(_chain, module, _full, 1))


def program_tasks(program: ExportedProgram) -> Iterator[EngineTask]:
    """Yields the tasks on a program."""

    def stock(make: Callable[[], Any], count: int) -> object:
        return program._transform_do_not_use(*(make() for _ in range(count)))

    def retraced(make: Callable[[], Any], count: int, mode: str = "incremental") -> object:
        return run_pipeline(program, [make() for _ in range(count)], mode=mode)

    for count in (1, 10):
        yield EngineTask(f"no-op x{count}", partial(stock, _StockNoOp, count), partial(retraced, ExportPass, count))
        yield EngineTask(f"5 % x{count}", partial(stock, _StockRewriting, count), partial(retraced, _Rewriting, count))
    yield EngineTask("full", partial(stock, _StockNoOp, 1), partial(retraced, ExportPass, 1, "full"))


def measure(program: ExportedProgram, name: str, rounds: int) -> tuple[list[Comparison], list[Comparison]]:
    """Measures all tasks on one program: on its graph module, and as a whole."""
    nodes = sum(len(child.graph.nodes) for child in program.graph_module.modules() if isinstance(child, fx.GraphModule))

    def compared(tasks: Iterator[EngineTask]) -> list[Comparison]:
        return [Comparison(name, nodes, task.name, *best_of(rounds, task.stock, task.retraced)) for task in tasks]

    return compared(graph_tasks(program.graph_module)), compared(program_tasks(program))


@click.command()
@click.option("--program", "programs", multiple=True, help="A test program; repeatable. All architectures if there is none.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="Each figure is the best of so many.")
def main(programs: tuple[str, ...], rounds: int) -> None:
    """Measures the engine against torch's own class of passes, in process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console(highlight=False)
    graphs: list[list[Comparison]] = []
    wholes: list[list[Comparison]] = []
    with console.status("") as status:
        for name in programs or [case.name for case in by_tag("architecture")] + ["llama_like"]:
            status.update(name)
            graph, whole = measure(by_name(name).program, name, rounds)
            graphs.append(graph)
            wholes.append(whole)
    console.print(_table("Passes on a graph module", graphs))
    console.print(_table("Passes on a program", wholes))
    console.print(f"Milliseconds of ours, and how many times faster than stock torch; best of {rounds}.")
    console.print("\n".join(f"{key:>9}  {value}" for key, value in machine().items()))


def _table(title: str, rows: list[list[Comparison]]) -> Table:
    table = Table(title=title)
    for column in ("program", "nodes", *(comparison.task for comparison in rows[0])):
        table.add_column(column, justify="left" if column == "program" else "right")
    for row in rows:
        figures = [f"{c.retraced * 1e3:.1f} ({c.ratio:.1f})" for c in row]
        table.add_row(row[0].program, str(row[0].nodes), *figures)
    for label, choose in (("median", statistics.median), ("least", min)):
        table.add_row(label, "", *(f"{choose(row[at].ratio for row in rows):.1f}" for at in range(len(rows[0]))))
    return table


if __name__ == "__main__":
    main()
