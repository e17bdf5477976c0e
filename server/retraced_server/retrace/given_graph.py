"""Keeps a graph that hooks visit as it was given: a hook can reach the visited nodes, and may edit those that come later."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from torch import fx

from retraced_server.analysis.graphs import walk_graphs
from retraced_server.retrace.autocast_states import autocast_states
from retraced_server.retrace.edits import RecordedCall
from retraced_server.retrace.metadata_containers import own_containers, same_node_metadata
from retraced_server.retrace.regions import AutocastState
from retraced_server.torch_compat.graphs import restore_order


# Targets, arguments and metadata are whatever a graph has.
class GivenNode(NamedTuple):
    """What a node was given with."""

    target: Any
    args: Any
    kwargs: Any
    name: str
    meta: dict[str, Any]


class GivenGraph:
    """A graph module and its subgraphs, node by node, as they were given.

    Args:
        module: The graph module.

    Attributes:
        was_edited: Whether an edit was found.
        is_lent: Whether the nodes have copies of the containers in their metadata.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.was_edited = self.is_lent = False
        self._graphs = {child.graph: list(child.graph.nodes) for _, child in walk_graphs(module)}
        self._nodes = {
            node: GivenNode(node.target, node.args, node.kwargs, node.name, node.meta.copy())
            for nodes in self._graphs.values()
            for node in nodes
        }
        self._autocast = autocast_states(module)

    # The attribute and the value are whatever a graph has.
    def holds(self, node: fx.Node, attribute: Any, autocast: AutocastState) -> bool:
        """Whether a node has the call and the value that it was given with, under the same autocast. `attribute` is not looked at."""
        given = self._nodes.get(node)
        if given is None:
            return False
        if node.op == "call_function" and self._autocast.get(node, ()) != autocast:
            return False
        target, args, kwargs, _, meta = given
        return node.args is args and node.kwargs is kwargs and node.target is target and node.meta.get("val") is meta.get("val")

    def knows(self, node: fx.Node) -> bool:
        """Whether a node was given: not one that was inserted by hand."""
        return node in self._nodes

    def as_given(self, node: fx.Node) -> GivenNode:
        """Return what a node was given with; what it has now where it was inserted by hand."""
        return self._nodes.get(node) or GivenNode(node.target, node.args, node.kwargs, node.name, node.meta)

    def is_as_given(self, node: fx.Node) -> bool:
        """Whether a node has the call, the name and the metadata that it was given with."""
        return node in self._nodes and self._is_as_given(node)

    def recorded_call(self, node: fx.Node) -> RecordedCall | None:
        """Return the call that a node's value was recorded for; None where it is not known."""
        given = self._nodes.get(node)
        return None if given is None else RecordedCall(*given[:3])

    def recorded_value(self, node: fx.Node) -> Any:
        """Return the value that was recorded for a node."""
        given = self._nodes.get(node)
        return (node.meta if given is None else given[4]).get("val")

    # Metadata holds anything.
    def gave(self, node: fx.Node, key: str, value: Any) -> bool:
        """Whether a value is what a node's metadata was given with."""
        given = self._nodes.get(node)
        return given is not None and given[4].get(key) is value

    def lend(self) -> None:
        """Give the nodes copies of the containers in their metadata, which a hook that has come by a node may write to."""
        if not self.is_lent:
            self.is_lent = True
            copies: dict[int, Any] = {}
            for node in self._nodes:
                own_containers(node.meta, copies)

    def is_edited(self, graph: fx.Graph) -> bool:
        """Whether any node of a graph is not as it was given, or not where it was."""
        nodes = self._graphs.get(graph)
        if nodes is None or (nodes == list(graph.nodes) and all(map(self._is_as_given, nodes))):
            return False
        self.was_edited = True
        return True

    def has_edits(self) -> bool:
        """Whether any graph is edited."""
        return any(map(self.is_edited, self._graphs))

    def _is_as_given(self, node: fx.Node) -> bool:
        target, args, kwargs, name, meta = self._nodes[node]
        return (
            node.args is args
            and node.kwargs is kwargs
            and node.target is target
            and node.name == name
            and self._is_same_metadata(node.meta, meta)
        )

    def _is_same_metadata(self, now: dict[str, Any], meta: dict[str, Any]) -> bool:
        if self.is_lent:
            return same_node_metadata(now, meta)
        return now.keys() == meta.keys() and all(map(operator.is_, now.values(), meta.values()))

    def put_back(self) -> None:
        """Make the graphs what they were, wherever they were edited."""
        for graph, nodes in self._graphs.items():
            if self.is_lent or self.is_edited(graph):
                self._put_back(graph, nodes)

    def _put_back(self, graph: fx.Graph, nodes: list[fx.Node]) -> None:
        restore_order(graph, nodes)
        for node in nodes:
            target, args, kwargs, name, meta = self._nodes[node]
            if self.is_lent or not self._is_as_given(node):
                node.target, node.args, node.kwargs, node.name = target, args, kwargs, name
                node.meta.clear()
                node.meta.update(meta)
        for node in reversed([node for node in graph.nodes if node not in self._nodes]):
            graph.erase_node(node)
