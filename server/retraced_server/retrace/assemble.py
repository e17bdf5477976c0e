"""Puts an ExportedProgram together without generating and executing its source, which is most of what torch's constructor does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature
from torch.fx.graph import CodeGen

from retraced_server.retrace._torch import (
    LazyGraphModule,
    Verifier,
    drop_equal_getitems,
    verify_module_call_graph,
    verify_signature,
)


def assemble(
    module: fx.GraphModule,
    *,
    graph_signature: ExportGraphSignature,
    state_dict: dict[str, torch.Tensor | torch.nn.Parameter],
    range_constraints: dict[sympy.Symbol, Any],
    module_call_graph: list[ModuleCallEntry],
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]] | None,
    constants: dict[str, Any],
    verifiers: Sequence[type[Verifier]],
    guards_code: list[str],
) -> ExportedProgram:
    """Does what the constructor of ExportedProgram does, with a graph module that is compiled only if it is called.

    Args:
        module: The graph, which the verifiers have checked. It becomes the program's.
        graph_signature: As the constructor takes it, like all that follows.
        state_dict: Parameters and buffers.
        range_constraints: The ranges of symbols.
        module_call_graph: The calls of modules.
        example_inputs: Sample inputs.
        constants: Constants.
        verifiers: The classes that check the program.
        guards_code: The guards on arguments. The constructor takes none, and derives them from nothing.

    Raises:
        SpecViolationError: The signature or the module call graph does not fit the graph.
    """
    module.graph.set_codegen(CodeGen())
    program: ExportedProgram = ExportedProgram.__new__(ExportedProgram)
    graph_module = LazyGraphModule(module, module.graph)
    graph_module.meta.update(module.meta)
    drop_equal_getitems(graph_module, graph_signature, module_call_graph)
    parts = {
        "_graph_module": graph_module,
        "_graph_signature": graph_signature,
        "_state_dict": state_dict,
        "_range_constraints": range_constraints,
        "_module_call_graph": module_call_graph,
        "_example_inputs": example_inputs,
        "_constants": constants,
        "_verifiers": list(verifiers),
        "_guards_code": guards_code,
    }
    vars(program).update(parts)
    verify_module_call_graph(program)
    verify_signature(program)
    return program
