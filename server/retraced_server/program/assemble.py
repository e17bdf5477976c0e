"""Makes ExportedPrograms from their parts, without the source that torch's constructor generates and executes.

The constructor of torch.export.ExportedProgram makes a second graph module, whose code it compiles and executes, removes repeated
`getitem` nodes and derives guards from the shape environment. Here the graph module is taken as it is and the guards are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._export.verifier import Verifier
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature
from torch.utils._sympy.value_ranges import ValueRanges


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
) -> ExportedProgram:
    """Makes a program; the graph module becomes its own.

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

    Raises:
        torch._export.verifier.SpecViolationError: A verifier refuses the program.
        AssertionError, RuntimeError: So does one, of the graph.
    """
    program = ExportedProgram.__new__(ExportedProgram)
    program._graph_module = graph_module
    program._graph_signature = signature
    program._state_dict = dict(state_dict)
    program._range_constraints = dict(ranges)
    program._module_call_graph = list(module_calls)
    program._example_inputs = example_inputs
    program._constants = dict(constants)
    program._verifiers = list(verifiers)
    program._guards_code = list(guards)
    program.validate()
    return program
