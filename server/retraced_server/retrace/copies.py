"""Copies of whole graph modules for passes that may change them, what they give back, and whether it still is what it was."""

from __future__ import annotations

from typing import Any

from torch import fx

from retraced_server.analysis.attributes import get_attribute, set_attribute
from retraced_server.retrace.arguments import same_arguments
from retraced_server.retrace.constants import copy_graph_module
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.metadata_containers import own_containers, same_node_metadata
from retraced_server.torch_compat.graphs import PassResult


def copy_with_subgraphs(module: fx.GraphModule) -> fx.GraphModule:
    """Copy a graph and its subgraphs, with names and metadata; tensors, recorded values and other objects in metadata are shared."""
    return _copy_with_subgraphs(module, {})


def _copy_with_subgraphs(module: fx.GraphModule, containers: dict[int, Any]) -> fx.GraphModule:
    result = copy_graph_module(module)
    own_containers(result.meta, containers)
    for node in result.graph.nodes:
        own_containers(node.meta, containers)
    for node in result.graph.find_nodes(op="get_attr"):
        subgraph = get_attribute(module, node.target)
        if isinstance(subgraph, fx.GraphModule) and get_attribute(result, node.target) is subgraph:
            set_attribute(result, node.target, _copy_with_subgraphs(subgraph, containers))
    return result


# A pass that does not keep to its type returns anything.
def returned_graph(result: Any, given: fx.GraphModule) -> fx.GraphModule:
    """Return the graph module that a pass returned; the one that it was given, and may have changed, where it returned None.

    Raises:
        ExportPassError: It returned something else.
    """
    if result is None:
        return given
    if not isinstance(result, PassResult):
        raise ExportPassError(f"it returned a {type(result).__name__}, not a PassResult")
    if not isinstance(result.graph_module, fx.GraphModule):
        raise ExportPassError(f"its PassResult has a {type(result.graph_module).__name__}, not a GraphModule")
    return result.graph_module


def result_count(module: fx.GraphModule) -> int | None:
    """Return the number of a graph's outputs; None where it does not end with a flat tuple of them."""
    last = next(reversed(module.graph.nodes), None)
    results = last.args[0] if last is not None and last.op == "output" and last.args else None
    return len(results) if isinstance(results, (tuple, list)) else None


def same_graphs(new: fx.GraphModule, old: fx.GraphModule) -> bool:
    """Whether two graphs have the same nodes, names, metadata and attributes, subgraphs included.

    What metadata holds is compared by identity.
    """
    if new is old:
        return True
    if len(new.graph.nodes) != len(old.graph.nodes):
        return False
    counterparts: dict[fx.Node, fx.Node] = {}

    def same_node(a: Any, b: fx.Node) -> bool:
        return counterparts.get(b) is a

    for a, b in zip(new.graph.nodes, old.graph.nodes, strict=True):
        counterparts[b] = a
        if a.op != b.op or a.name != b.name or a.target != b.target or not same_node_metadata(a.meta, b.meta):
            return False
        if not same_arguments(a.args, b.args, same_node) or not same_arguments(a.kwargs, b.kwargs, same_node):
            return False
        if a.op == "get_attr" and not _same_attribute(get_attribute(new, a.target), get_attribute(old, b.target)):
            return False
    return same_node_metadata(new.meta, old.meta)


def _same_attribute(new: Any, old: Any) -> bool:
    if isinstance(new, fx.GraphModule) and isinstance(old, fx.GraphModule):
        return same_graphs(new, old)
    return new is old
