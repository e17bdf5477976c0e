"""ExportedPrograms: how they are put together, verified and changed. `assemble_program` is what makes every one of retraced's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._export.verifier import (
    SpecViolationError,
    TrainingIRVerifier,
    Verifier,
    _verify_exported_program_module_call_graph,
    _verify_exported_program_signature,
)
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.exported_program import _common_getitem_elimination_pass, _convert_guards_to_code
from torch.export.graph_signature import ExportGraphSignature
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.fx.graph import CodeGen
from torch.utils._sympy.value_ranges import ValueRanges

__all__ = [
    "SpecViolationError",
    "TrainingIRVerifier",
    "Verifier",
    "assemble_program",
    "export_graph_module",
    "guards_code",
    "guards_of_shape_env",
    "set_parts",
    "verify_graph",
]


def assemble_program(
    graph_module: fx.GraphModule,
    signature: ExportGraphSignature,
    *,
    state_dict: Mapping[str, torch.Tensor],
    constants: Mapping[str, Any],
    ranges: Mapping[sympy.Symbol, ValueRanges[sympy.Expr]],
    module_calls: Sequence[ModuleCallEntry],
    verifiers: Sequence[type[Verifier]],
    guards: Sequence[str] = (),
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
    graph_is_verified: bool = False,
) -> ExportedProgram:
    """Make a program, without the source that torch's constructor generates and executes; the graph module becomes its own.

    The constructor of torch.export.ExportedProgram makes a second graph module, whose code it compiles and executes, removes repeated
    `getitem` nodes (`export_graph_module` does) and derives guards from the shape environment. Here the guards are given.

    Args:
        graph_module: The graph module; a lazy one stays lazy.
        signature: What the inputs and outputs of its graph stand for.
        state_dict: Parameters and persistent buffers. Absent ones are fake tensors.
        constants: Constant tensors and buffers that are not persistent.
        ranges: The ranges of its symbols.
        module_calls: The module call graph; the first entry is the program's own.
        verifiers: What the program must pass.
        guards: Guards on the arguments as Python text, which is kept and never evaluated here.
        example_inputs: Arguments to call it with.
        graph_is_verified: Whether the verifiers have passed the graph, so that only the rest is left.

    Raises:
        SpecViolationError: A verifier refuses the program.
        AssertionError, RuntimeError: So does one, of the graph.
    """
    program: ExportedProgram = ExportedProgram.__new__(ExportedProgram)
    vars(program).update(
        _graph_module=graph_module,
        _graph_signature=signature,
        _state_dict=dict(state_dict),
        _range_constraints=dict(ranges),
        _module_call_graph=list(module_calls),
        _example_inputs=example_inputs,
        _constants=dict(constants),
        _verifiers=list(verifiers),
        _guards_code=list(guards),
    )
    if graph_is_verified:
        _verify_exported_program_module_call_graph(program)
        _verify_exported_program_signature(program)
    else:
        program.validate()
    return program


def export_graph_module(
    module: fx.GraphModule, signature: ExportGraphSignature, module_calls: Sequence[ModuleCallEntry]
) -> fx.GraphModule:
    """Return the graph module that a program has of a graph: compiled only if it is called, without repeated `getitem` nodes.

    Args:
        module: The graph; its nodes become the result's.
        signature: Its signature, changed in place where it names a node that goes.
        module_calls: The module call graph, likewise.
    """
    module.graph.set_codegen(CodeGen())
    made = LazyGraphModule(module, module.graph)
    made.meta.update(module.meta)
    _common_getitem_elimination_pass(made, signature, list(module_calls))
    return made


def guards_code(program: ExportedProgram) -> list[str]:
    """Return the guards of a program as Python expressions. Text; never evaluated here."""
    return program._guards_code


def guards_of_shape_env(module: fx.GraphModule) -> list[str]:
    """Return the guards of a graph's shape environment as Python expressions, as torch's constructor derives them."""
    guards: list[str] = _convert_guards_to_code(module)
    return guards


# The parts are those of `ExportedProgram`.
def set_parts(program: ExportedProgram, **parts: Any) -> None:
    """Set parts of a program in place, each by the name of its property, `guards_code` too; torch has no public way."""
    vars(program).update({f"_{name}": value for name, value in parts.items()})


def verify_graph(verifiers: Iterable[type[Verifier]], module: fx.GraphModule) -> None:
    """Check a graph by the verifiers of a program.

    Raises:
        SpecViolationError, RuntimeError, AttributeError: One refuses it.
    """
    for verifier in verifiers:
        verifier()._check_graph_module(module)
