"""The retrace engine against the pass classes it takes the place of, in process: on graph modules, and on whole programs."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import fx
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse
from torch.export import ExportedProgram

from benchmarks.measure import Task, best_of
from benchmarks.passes import Rewriting, rewriting
from benchmarks.results import Comparison, Comparisons, Figure, Section, at_least, compared
from benchmarks.setup import Setup, Subject
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassContext

_StockNoOp = _ExportPassBaseDeprecatedDoNotUse
_StockRewriting = rewriting(_ExportPassBaseDeprecatedDoNotUse)

# A pass class of each kind, and how many times over it runs.
_TASKS = {"no-op x1": (False, 1), "no-op x10": (False, 10), "5 % x1": (True, 1), "5 % x10": (True, 10)}
FULL = "full x1"


def measure(setup: Setup) -> Section:
    """Compare passes on every program."""
    executorch = _executorch()
    graphs: list[Comparison] = []
    programs: list[Comparison] = []
    for subject in setup.subjects:
        setup.say(f"engine: {subject.name}")
        for task, stock, retraced, other in _graph_tasks(subject.program.graph_module, executorch):
            graphs.append(_measured(subject, setup.rounds, task, stock, retraced, other))
        for task, stock, retraced, other in _program_tasks(subject.program):
            programs.append(_measured(subject, setup.rounds, task, stock, retraced, other))
    tables = [Comparisons("passes on a graph module", graphs), Comparisons("passes on a program, put together again", programs)]
    return Section("engine", comparisons=tables, figures=_figures(tables[0]))


def _figures(table: Comparisons) -> list[Figure]:
    bounds = {"no-op x1": (20, 12), "no-op x10": (20, None), "5 % x1": (8, 5), "5 % x10": (8, 5), FULL: (1.3, 1)}
    figures = []
    for task, (median, least) in bounds.items():
        figures.append(at_least(f"{task}, median", table.median(task), median))
        if least is not None:
            figures.append(at_least(f"{task}, least", table.least(task), least))
    return [*figures, at_least("any task, least", min(entry.ratio for entry in table.entries), 1)]


def _measured(subject: Subject, rounds: int, task: str, stock: Task, retraced: Task, executorch: Task | None) -> Comparison:
    others = [executorch] if executorch is not None and _runs(executorch) else []
    first, second, *third = best_of(rounds, stock, retraced, *others)
    return compared(
        subject.name, subject.nodes, task, (first, second), counted=subject.counted, executorch=third[0] if third else None
    )


def _runs(task: Task) -> bool:
    try:
        task()
    except Exception:  # noqa: BLE001 - it refuses programs in many ways, and a comparison without it is still one
        return False
    return True


def _executorch() -> Any:
    """ExecuTorch's class of passes; None where it is not installed."""
    if importlib.util.find_spec("executorch") is None:
        return None
    logging.getLogger("torchao").setLevel(logging.ERROR)
    return importlib.import_module("executorch.exir.pass_base").ExportPass


def _chain(module: fx.GraphModule, make: Callable[[], Any], count: int) -> fx.GraphModule:
    for _ in range(count):
        module = make()(module).graph_module
    return module


def _full(module: fx.GraphModule) -> fx.GraphModule:
    with PassContext("full"):
        return _chain(module, ExportPass, 1)


def _graph_tasks(module: fx.GraphModule, executorch: Any) -> Iterator[tuple[str, Task, Task, Task | None]]:
    other: tuple[Any, Any] | None = None if executorch is None else (executorch, rewriting(executorch))
    for task, (rewrites, count) in _TASKS.items():
        stock, ours = (_StockRewriting, Rewriting) if rewrites else (_StockNoOp, ExportPass)
        third = None if other is None else partial(_chain, module, other[rewrites], count)
        yield task, partial(_chain, module, stock, count), partial(_chain, module, ours, count), third
    third = None if other is None else partial(_chain, module, other[0], 1)
    yield FULL, partial(_chain, module, _StockNoOp, 1), partial(_full, module), third


def _program_tasks(program: ExportedProgram) -> Iterator[tuple[str, Task, Task, None]]:
    def stock(make: Callable[[], Any]) -> object:
        return program._transform_do_not_use(make())

    def retraced(make: Callable[[], Any]) -> object:
        return run_pipeline(program, [make()])

    for task, (rewrites, count) in _TASKS.items():
        if count == 1:
            theirs, ours = (_StockRewriting, Rewriting) if rewrites else (_StockNoOp, ExportPass)
            yield task, partial(stock, theirs), partial(retraced, ours), None
