"""What the tests of passes share: small programs from functions, and the results of pipelines on the test programs."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from retraced_server.passes import PipelineResult, run_pipeline
from tests.support.case import ProgramCase
from tests.support.describe import graphs
from tests.support.models import ALL_CASES

#: All test programs but the one with an operator that torch cannot make functional.
DECOMPOSABLE = tuple(case for case in ALL_CASES if case.name != "hints_wrapper")

#: Those that are not run through the same pass again and again: of the real architectures, one with a bit of everything.
QUICK = tuple(case for case in DECOMPOSABLE if "architecture" not in case.tags or case.name == "vit")


@functools.cache
def decomposed(case: ProgramCase) -> PipelineResult:
    """A test program decomposed by us, once per process: never to be changed."""
    return run_pipeline(case.program, "decompose")


@functools.cache
def lowered(case: ProgramCase) -> PipelineResult:
    """A test program after `decompose,cse,dce`, once per process: never to be changed. Reports are of the last two passes in a slow case."""
    if case not in QUICK:
        return run_pipeline(decomposed(case).program, "cse,dce")
    return run_pipeline(case.program, "decompose,cse,dce")


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


def export(module: nn.Module | Callable[..., Any], *args: Any, **options: Any) -> ExportedProgram:
    """Exports a module or a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module if isinstance(module, nn.Module) else Function(module), args, **options)


def targets(program: ExportedProgram) -> Counter[str]:
    """How often each operator or function is called in a program, subgraphs included; `aten.relu` without the overload."""
    return Counter(
        str(node.target).rpartition(".")[0] if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
        for _, module in graphs(program.graph_module)
        for node in module.graph.nodes
        if node.op == "call_function"
    )


def names(program: ExportedProgram) -> list[str]:
    """The names of the root graph's nodes."""
    return [node.name for node in program.graph.nodes]


def node_keys(program: ExportedProgram) -> set[str]:
    """Every node of a program as provenance writes it."""
    return {
        f"{path}:{node.name}" if path else node.name
        for path, module in graphs(program.graph_module)
        for node in module.graph.nodes
    }
