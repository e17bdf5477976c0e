"""Decomposes a program call by call."""

from __future__ import annotations

from functools import lru_cache

from torch import fx
from torch.export import ExportedProgram

from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.passes.base import ProgramPassResult, kept_names
from retraced_server.passes.dce import erase_dead_code
from retraced_server.passes.decompose.attention import table_of
from retraced_server.passes.decompose.local import LocalDecomposition, obstacle, rewritten_targets
from retraced_server.passes.decompose.merge_sizes import merge_sizes
from retraced_server.passes.decompose.naming import is_as_it_was
from retraced_server.passes.decompose.shared_templates import SHARED
from retraced_server.passes.decompose.template import NotLocalError
from retraced_server.passes.decompose.templates import Templates
from retraced_server.passes.decompose.written_values import WrittenTogether
from retraced_server.retrace import PassContext, RetraceOutcome
from retraced_server.retrace.build_program import build_program
from retraced_server.retrace.pass_state import state_of
from retraced_server.retrace.program_edit import ProgramEdit
from retraced_server.retrace.session import find_fake_mode
from retraced_server.torch_compat.decompositions import TableChoice


def decompose_by_calls(program: ExportedProgram, choice: TableChoice) -> ProgramPassResult:
    """Decompose a program call by call: what torch makes of each is found by tracing it alone, once for calls that are alike.

    Args:
        program: The program.
        choice: The decompositions.

    Raises:
        NotLocalError: Something in it needs the program as a whole.
        PassError: A call could not be decomposed by itself.
    """
    table = table_of(choice)
    targets = rewritten_targets(program, table)
    written = WrittenTogether(program.graph_module)
    targets |= written.targets()
    if not targets:
        return ProgramPassResult(program, modified=False)
    if (reason := obstacle(program, written)) is not None:
        raise NotLocalError(reason)
    fake_mode = find_fake_mode(program.graph_module, [])
    if fake_mode is None:
        raise NotLocalError("nothing is recorded of its values")
    context, edit = PassContext(), ProgramEdit(program)
    try:
        with Templates(table, fake_mode, SHARED) as templates, context:
            decomposition = _visiting(targets)(templates, program, written)
            result = decomposition(program.graph_module)
        outcome = state_of(decomposition).outcome
        if not result.modified or outcome is None:
            return ProgramPassResult(program, modified=False)
        protected = frozenset(outcome.renamed.get(name) or name for name in kept_names(program))
        rewrites = decomposition.rewrites + _clean_up(program.graph_module, result.graph_module, protected)
        # Whoever runs a pass of whole programs checks all calls of the result.
        edit.apply(result.graph_module, outcome, calls_are_checked=False)
        edit.outputs = [*decomposition.specs, *program.graph_signature.output_specs]
        built, remarks = build_program(edit)
    except BaseException:
        edit.discard()
        raise
    origins = _origins(program.graph_module, built.graph_module, outcome)
    return ProgramPassResult(
        built, True, rewrites, (*context.remarks, *remarks), origins, tuple(dict.fromkeys(context.new_guards))
    )


def _clean_up(old: fx.GraphModule, new: fx.GraphModule, protected: frozenset[str]) -> int:
    """Merge sizes and erase dead code in the graphs that were made, and return how many nodes were erased. Others are the program's own."""
    kept = {id(graph) for _, graph in walk_graphs(old)}
    erased = 0
    for path, graph in list(walk_graphs(new)):
        if id(graph) not in kept:
            stays = frozenset() if path else protected
            merge_sizes(graph.graph, stays)
            erased += erase_dead_code(graph, stays)
    return erased


def _origins(old: fx.GraphModule, new: fx.GraphModule, outcome: RetraceOutcome) -> dict[str, tuple[str, ...]]:
    """Return where the nodes came from that are not as they were, with inputs of the same names."""
    before, after = _by_key(old), _by_key(new)
    return {
        key: outcome.origins.get(key, (key,))
        for key, node in after.items()
        if not (key in before and is_as_it_was(node, before[key]))
    }


def _by_key(module: fx.GraphModule) -> dict[str, fx.Node]:
    return {node_key(path, node.name): node for path, graph in walk_graphs(module) for node in graph.graph.nodes}


@lru_cache(maxsize=64)
def _visiting(targets: frozenset[object]) -> type[LocalDecomposition]:
    """Return a class whose hooks are called for some targets alone: other calls are kept at the least cost."""

    class Visiting(LocalDecomposition, only=targets):
        pass

    return Visiting
