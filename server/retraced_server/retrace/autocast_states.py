"""Under which autocast the calls of a graph are: what they compute depends on it, and none of their arguments says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from retraced_server.retrace.graphs import has_calls, subgraph_of
from retraced_server.retrace.regions import AutocastState, Regions
from retraced_server.torch_compat.functorch import ENTER_AUTOCAST

_WRAP = torch.ops.higher_order.wrap_with_autocast


# An operator's arguments are of many types.
def subgraph_autocast(target: Any, args: Sequence[Any]) -> AutocastState:
    """Return the autocast that a higher-order operator runs its subgraph under."""
    return ((tuple(args[:4]), {}),) if target is _WRAP else ()


def autocast_states(module: fx.GraphModule) -> dict[fx.Node, AutocastState]:
    """Return under which autocast the nodes of a graph and its subgraphs are; those under none are left out.

    A subgraph of several calls is told of the first.
    """
    found: dict[fx.Node, AutocastState] = {}
    if has_autocast(module):
        _collect(module, (), found, set())
    return found


def has_autocast(module: fx.GraphModule) -> bool:
    """Return whether a graph or a subgraph of it enters autocast."""
    return has_calls(module, (ENTER_AUTOCAST, _WRAP))


def _collect(module: fx.GraphModule, outer: AutocastState, found: dict[fx.Node, AutocastState], seen: set[fx.Graph]) -> None:
    if module.graph in seen:
        return
    seen.add(module.graph)
    found.update(states := autocast_states_of_graph(module.graph, outer))
    for node in module.graph.nodes:
        if node.op == "call_function":
            for value in node.all_input_nodes:
                if (subgraph := subgraph_of(module, value)) is not None:
                    _collect(subgraph, states.get(node, ()) + subgraph_autocast(node.target, node.args), found, seen)


def autocast_states_of_graph(graph: fx.Graph, outer: AutocastState) -> dict[fx.Node, AutocastState]:
    """Return the same of one graph alone, which is called under `outer`."""
    if not outer and not graph.find_nodes(op="call_function", target=ENTER_AUTOCAST, sort=False):
        return {}
    states, regions = {}, Regions()
    for node in graph.nodes:
        if state := outer + regions.autocast:
            states[node] = state
        regions.visit(node)
    return states
