"""Checks that regions of functorch's transforms are whole.

A pass that edits a graph by itself can erase a call that enters a level, or move a call out of one. Neither torch's
verifier nor its reader hear of that: the program fails, or computes something else, when it is run.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from retraced_server.program.functions import Effect, stated_effect
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.graphs import walk_graphs
from retraced_server.retrace.regions import LEVELS
from retraced_server.torch_compat.functorch import (
    ADD_BATCH_DIM,
    ENTER_AUTOCAST,
    ENTER_DUAL,
    ENTER_JVP,
    ENTER_VMAP,
    EXIT_AUTOCAST,
    EXIT_DUAL,
    EXIT_JVP,
    EXIT_VMAP,
    MAKE_DUAL,
    REMOVE_BATCH_DIM,
    UNWRAP_FOR_GRAD,
)
from retraced_server.torch_compat.pytree import pytree

_LEFT_BY: dict[object, object] = {
    ENTER_AUTOCAST: EXIT_AUTOCAST,
    ENTER_VMAP: EXIT_VMAP,
    ENTER_JVP: EXIT_JVP,
    ENTER_DUAL: EXIT_DUAL,
}
# Where a value gets into a level and out of it, and the argument that says which.
_WRAPS = {ADD_BATCH_DIM: 2}
_UNWRAPS = {REMOVE_BATCH_DIM: 1, UNWRAP_FOR_GRAD: 1}


def check_regions(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Check that a pass has left regions whole.

    Args:
        before: The program's graph as it was. Where its regions were not whole either, nothing is said.
        after: The graph that the pass made.

    Raises:
        ExportPassError: A call that enters or leaves a region is missing, or a value is used outside of its level.
    """
    fault = next(_faults(after), None)
    if fault is not None and next(_faults(before), None) is None:
        raise ExportPassError(fault)


def _faults(root: fx.GraphModule) -> Iterator[str]:
    for path, module in walk_graphs(root):
        for fault in _faults_of_graph(module.graph):
            yield f"{fault} in the graph `{path}`" if path else fault


def _faults_of_graph(graph: fx.Graph) -> Iterator[str]:
    if not any(node.op == "call_function" and stated_effect(node.target).of_regions for node in graph.nodes):
        return
    opened: list[fx.Node] = []
    # The calls that began the levels that values are wrapped in.
    wrapped: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        levels = [region for region in opened if region.target in LEVELS]
        within = frozenset().union(*(wrapped.get(value, ()) for value in node.all_input_nodes))
        if outside := within.difference(levels):
            yield f"`{node.name}` uses a value of the region that `{min(region.name for region in outside)}` begins, outside of it"
            return
        effect = stated_effect(node.target) if node.op == "call_function" else Effect.NONE
        if effect is Effect.ENTERS:
            opened.append(node)
        elif effect is Effect.LEAVES:
            if not opened or _LEFT_BY[opened.pop().target] is not node.target:
                yield f"`{node.name}` leaves a region that no call has entered"
                return
        elif (at := _WRAPS.get(node.target, _UNWRAPS.get(node.target))) is not None:
            level = node.args[at] if at < len(node.args) else node.kwargs.get("level")
            if not isinstance(level, int) or not 0 < level <= len(levels):
                yield f"`{node.name}` is of level {level}, and {len(levels)} have been entered"
                return
            change = {levels[level - 1]}
            within = within | change if node.target in _WRAPS else within - change
        elif node.target is MAKE_DUAL and levels:
            within |= {levels[-1]}
        if within and any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(node.meta.get("val"))):
            wrapped[node] = within
    if opened:
        yield f"nothing leaves the region that `{opened[-1].name}` begins"
