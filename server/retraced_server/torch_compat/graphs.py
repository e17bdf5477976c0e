"""Graphs of torch.fx: names, places and copies of nodes, and what torch records of where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.fx.graph import CodeGen, _Namespace
from torch.fx.node import Argument
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.proxy import _COPY_META_FIELDS
from torch.fx.traceback import NodeSource, NodeSourceAction, get_current_meta

__all__ = [
    "INHERITED_META",
    "Argument",
    "CodeGen",
    "LazyGraphModule",
    "NodeSource",
    "NodeSourceAction",
    "PassBase",
    "PassResult",
    "codegen_of",
    "copy_node",
    "empty_node_source",
    "fresh_name",
    "get_current_meta",
    "graph_module_attributes",
    "is_erased",
    "name_for_target",
    "node_source",
    "rename_node",
    "replace_namespace",
    "reserve_names",
    "restore_order",
    "root_of",
    "set_name",
    "taken_names",
]

INHERITED_META = ("stack_trace", *_COPY_META_FIELDS)
"""Metadata that a node has of the node in whose place it is made."""


def codegen_of(graph: fx.Graph) -> CodeGen:
    """Return how a graph's code is generated."""
    return graph._codegen


def taken_names(graph: fx.Graph) -> set[str]:
    """Return the names that nodes have, or that are reserved for them; to add one is to reserve it."""
    return graph._graph_namespace._used_names


def reserve_names(graph: fx.Graph, nodes: Iterable[fx.Node]) -> None:
    """Reserve the names of nodes of another graph."""
    graph._graph_namespace._used_names.update(node.name for node in nodes)


def fresh_name(graph: fx.Graph, name: str) -> str:
    """Return a node name like the given one that no node has, and reserve it."""
    return graph._graph_namespace.create_name(name, None)


def replace_namespace(graph: fx.Graph) -> None:
    """Give a graph a namespace without reserved names."""
    graph._graph_namespace = _Namespace()


def set_name(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Give a node a name that is free, also one that fx would not give, such as that of a builtin."""
    node.name = name
    graph._graph_namespace._used_names.add(name)
    graph._graph_namespace.associate_name_with_obj(name, node)


# A target is anything that fx calls.
def name_for_target(graph: fx.Graph, target: Any) -> str:
    """Return the name that fx would begin with for a node of a target."""
    return graph._target_to_str(target)


def rename_node(node: fx.Node, name: str) -> None:
    """Give a node a name, or one like it that is free."""
    node._rename(name)


def is_erased(node: fx.Node) -> bool:
    """Whether a node has been erased from its graph."""
    return node._erased


def root_of(graph: fx.Graph) -> fx.Node:
    """Return the node before the first and after the last one of a graph, which is none of its nodes."""
    return graph._root


# The arguments are fx's own open types.
def copy_node(
    graph: fx.Graph, node: fx.Node, args: Any, kwargs: Any, given: tuple[Any, str, Mapping[str, Any]] | None = None
) -> fx.Node:
    """Append a copy of a node of another graph: name, target, type and metadata.

    Faster than `Graph.node_copy`, which asks for a fresh name and walks the arguments twice.

    Args:
        graph: The graph. Its namespace must have the name already, for this node.
        node: The node.
        args: The copy's arguments.
        kwargs: Its keyword arguments.
        given: The target, name and metadata that the copy has; None for those that the node has.
    """
    target, name, meta = given or (node.target, node.name, node.meta)
    copy = fx.Node(graph, name, node.op, target, args, kwargs, node.type)
    # Assigning `meta` makes fx look the node up in its tables.
    copy.meta.update(meta)
    # What Graph.create_node does with a node that it has made.
    graph._graph_namespace.associate_name_with_obj(copy.name, copy)
    graph._insert(copy)
    graph._find_nodes_lookup_table.insert(copy)
    graph._len += 1
    return copy


def restore_order(graph: fx.Graph, nodes: Sequence[fx.Node]) -> None:
    """Put nodes of a graph back to its beginning, in an order, erased ones too."""
    for node in nodes:
        if node._erased:
            # What Graph.erase_node did is undone; the place follows below.
            node._erased = False
            node._prev = node._next = node
            graph._find_nodes_lookup_table.insert(node)
            graph._len += 1
    cursor = graph._root
    for node in nodes:
        cursor.append(node)
        cursor = node


def graph_module_attributes() -> frozenset[str]:
    """Return what every graph module has, so that no subgraph of it may have the name: class, instance, and what code leaves behind."""
    empty = fx.Graph()
    return frozenset(name for make in (fx.GraphModule, LazyGraphModule) for name in dir(make(torch.nn.Module(), empty)))


def node_source(node: fx.Node, pass_name: str) -> NodeSource:
    """Return torch's own record of the node that another was made for."""
    return NodeSource(node, pass_name, NodeSourceAction.CREATE)


def empty_node_source() -> NodeSource:
    """Return a record of origin whose fields are still to be set: the constructor wants a node, and torch's own reader goes around it too."""
    source: NodeSource = NodeSource.__new__(NodeSource)
    source._action_string = None
    source._dict = None
    return source
