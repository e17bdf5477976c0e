"""The graphs of a program, the root and the subgraphs of higher-order operators, and their paths.

A path is that of attributes from the root: empty for the root graph, `true_graph_0` for a subgraph, `true_graph_0.body_graph_0` for a
subgraph in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.attributes import find_attribute


def walk_graphs(module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    """Yield every graph with its path, each subgraph right after the graph that holds it, in the order of its nodes.

    A subgraph that several nodes name is yielded once, with the path that is met first.
    """
    return _walk("", module, set())


def _walk(path: str, module: fx.GraphModule, seen: set[int]) -> Iterator[tuple[str, fx.GraphModule]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for node in module.graph.find_nodes(op="get_attr", sort=True):
        subgraph = subgraph_of(module, node)
        if subgraph is not None:
            yield from _walk(child_path(path, node.target), subgraph, seen)


def count_nodes(module: fx.GraphModule) -> int:
    """Count a graph's nodes, subgraphs of higher-order operators included."""
    return sum(len(child.graph.nodes) for _, child in walk_graphs(module))


# A target of fx is any callable.
def has_calls(module: fx.GraphModule, targets: Iterable[Any]) -> bool:
    """Return whether a graph or a subgraph of it calls any of some functions."""
    graphs = [child.graph for _, child in walk_graphs(module)]
    return any(graph.find_nodes(op="call_function", target=target, sort=False) for graph in graphs for target in targets)


def subgraph_of(module: torch.nn.Module, node: object) -> fx.GraphModule | None:
    """Return the graph module that a `get_attr` node of a graph stands for, or None where the argument is anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found = find_attribute(module, node.target)
    return found if isinstance(found, fx.GraphModule) else None


def subgraph_names(module: fx.GraphModule) -> dict[int, str]:
    """Return the attributes that hold the subgraphs of a graph, by the subgraphs' ids: the one that is read first."""
    names: dict[int, str] = {}
    for node in module.graph.find_nodes(op="get_attr", sort=True):
        subgraph = subgraph_of(module, node)
        if subgraph is not None:
            names.setdefault(id(subgraph), str(node.target))
    return names


def child_path(path: str, target: object) -> str:
    """Return the path of a subgraph from the path of the graph that holds it and the target of its `get_attr` node."""
    return f"{path}.{target}" if path else str(target)


def node_key(path: str, name: str) -> str:
    """How a node is written in provenance: `name` in the root graph, `true_graph_0.body_graph_0:name` in a subgraph."""
    return f"{path}:{name}" if path else name
