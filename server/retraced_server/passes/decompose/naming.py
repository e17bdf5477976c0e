"""Gives the nodes of a program that torch has traced anew the names and the metadata of the nodes that they stand for."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import sympy
from torch import fx

from retraced_server.analysis.attributes import delete_attribute, set_attribute
from retraced_server.analysis.graphs import node_key, subgraph_of, walk_graphs
from retraced_server.analysis.value_numbers import UnkeyedError, call_key
from retraced_server.passes.decompose.correspondence import ASSERT_SCALAR, Correspondence, GraphMatch
from retraced_server.passes.decompose.working_copy import TAG
from retraced_server.retrace.values import same_metadata
from retraced_server.torch_compat.graphs import fresh_name, replace_namespace, reserve_names, set_name

# Metadata of the value that a node has, and not of where it comes from.
_OF_THE_VALUE = ("val", "tensor_meta", "unbacked_bindings")
# What a tracing adds to say where a node comes from and when it was made.
_OF_THE_TRACING = ("from_node", "original_aten", "seq_nr", "is_functional_regenerated", "desc", TAG)
_SUFFIX = re.compile(r"_\d+$")
_NODE_NAME = re.compile(r"on node '(\w+)'")


def adopt(correspondence: Correspondence) -> dict[str, str]:
    """Rename and describes all nodes of the new program, in place.

    A node that has the value of an old node gets its name; no other node does, even where the old node is gone. A node has the
    metadata of the node that it was traced from, and no more keys than that node had.

    Returns:
        For each node of the new root graph, by its name before, its name after.
    """
    with_tensor_meta = any("tensor_meta" in node.meta for match in correspondence.graphs for node in match.old.graph.nodes)
    renamed: dict[str, str] = {}
    for match in correspondence.graphs:
        names = _names(match)
        if not match.path:
            renamed = {node.name: name for node, name in names.items()}
        bound = {symbol for node in match.new.graph.nodes for symbol in node.meta.get("unbacked_bindings") or ()}
        for node in match.new.graph.nodes:
            node.meta = _metadata(match, node, with_tensor_meta, bound)
        _restore_messages(match, {node.name: name for node, name in names.items()})
        _rename_nodes(match.new.graph, names)
        _rename_subgraphs(match)
        match.new.meta = dict(match.old.meta)
    return renamed


def origins(correspondence: Correspondence, root: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """Return for each node of the new program, by its key, which nodes of the old one it came from; of those that are as they were nothing.

    To be called after `adopt`, since a node that is as it was has the name that it had.
    """
    came_from = {node: keys for match in correspondence.graphs for node, keys in match.origins.items()}
    old_nodes = {key: node for node, key in correspondence.keys.items()}
    return {
        key: tuple(correspondence.keys[old] for old in came_from.get(node, ()))
        for path, module in walk_graphs(root)
        for node in module.graph.nodes
        if not ((old := old_nodes.get(key := node_key(path, node.name))) and is_as_it_was(node, old))
    }


def is_as_it_was(new: fx.Node, old: fx.Node) -> bool:
    """Whether a node of a new program is the one that had its name in the old: call, inputs by name, value and metadata."""
    if new.op != old.op or new.meta.keys() != old.meta.keys() or not _same_call(new, old):
        return False
    return same_metadata(new.meta.get("val"), old.meta.get("val")) and all(
        new.meta[key] is value or new.meta[key] == value for key, value in old.meta.items() if key not in ("val", "tensor_meta")
    )


def _same_call(new: fx.Node, old: fx.Node) -> bool:
    def name(value: object) -> str | None:
        return value.name if isinstance(value, fx.Node) else None

    try:
        return call_key(new.target, new.args, new.kwargs, name) == call_key(old.target, old.args, old.kwargs, name)
    except UnkeyedError:
        return False


def _names(match: GraphMatch) -> dict[fx.Node, str]:
    """Decide the names of the new nodes of a graph, in order."""
    named = fx.Graph()
    reserve_names(named, match.old.graph.nodes)
    stands_for: dict[fx.Node, str] = {}
    inlined: dict[fx.Node, str] = {}
    for old, new in match.values.items():
        (stands_for if old.graph is match.old.graph else inlined).setdefault(new, old.name)
    return {
        node: stands_for[node] if node in stands_for else fresh_name(named, inlined.get(node, _SUFFIX.sub("", node.name)))
        for node in match.new.graph.nodes
    }


def _rename_nodes(graph: fx.Graph, names: dict[fx.Node, str]) -> None:
    # fx would not give a node the name of a builtin, such as `input`; torch.export too sets such names past it.
    replace_namespace(graph)
    for node, name in names.items():
        if node.op == "placeholder":
            node.target = name
        set_name(graph, node, name)


def _restore_messages(match: GraphMatch, before: dict[str, str]) -> None:
    """Make the messages of assertions name nodes by their names now; `before` has them by their names in torch's graph."""
    for node in match.new.graph.find_nodes(op="call_function", target=ASSERT_SCALAR):
        old = match.sources.get(node)
        if old is not None and old.target is ASSERT_SCALAR:
            message = old.args[1]
        else:
            message = _NODE_NAME.sub(lambda found: f"on node '{before.get(found[1], found[1])}'", str(node.args[1]))
        node.args = (node.args[0], message)


def _rename_subgraphs(match: GraphMatch) -> None:
    """Return the subgraphs of a graph module the names of the attributes that their counterparts have."""
    nodes = match.new.graph.find_nodes(op="get_attr")
    subgraphs = {str(node.target): subgraph for node in nodes if (subgraph := subgraph_of(match.new, node)) is not None}
    targets = {str(node.target): str(match.sources[node].target) for node in nodes if node in match.sources}
    for target in subgraphs:
        delete_attribute(match.new, target)
    taken = {*targets.values(), *dir(match.new)}
    for target, subgraph in subgraphs.items():
        if target not in targets:
            stem = _SUFFIX.sub("", target)
            targets[target] = next(name for k in count() if (name := f"{stem}_{k}") not in taken)
            taken.add(targets[target])
        set_attribute(match.new, targets[target], subgraph)
    for node in nodes:
        node.target = targets.get(str(node.target), node.target)


def _metadata(match: GraphMatch, node: fx.Node, with_tensor_meta: bool, bound: set[sympy.Symbol]) -> dict[str, Any]:
    source = match.sources.get(node)
    if source is None:
        return {key: value for key, value in node.meta.items() if key not in _OF_THE_TRACING}
    if node.op == "placeholder" and not match.path:
        return dict(source.meta)
    meta = {key: value for key, value in source.meta.items() if key not in _OF_THE_VALUE}
    if "val" in source.meta and source.target == node.target:
        # Operators without a result have a recorded value in some programs and not in others.
        meta["val"] = None
    bindings = source.meta.get("unbacked_bindings")
    if bindings is not None and match.values.get(source) is node and bound.isdisjoint(bindings):
        # Torch forgets those of subgraphs; what binds a symbol is where it was, since the value is the same. Elsewhere one of the nodes
        # that the operator became may bind it, before the one that has its value.
        meta["unbacked_bindings"] = bindings
    for key in _OF_THE_VALUE:
        if key in node.meta and (key != "tensor_meta" or with_tensor_meta):
            meta[key] = node.meta[key]
    if node.op == "output" and "val" in source.meta:
        # Torch leaves what was recorded before.
        meta.pop("unbacked_bindings", None)
        meta["val"] = fx.node.map_arg(node.args[0], lambda result: result.meta.get("val"))
    return meta
