"""Map the nodes of a rewritten graph to those of the source graph."""

from __future__ import annotations

from typing import Any

from torch import fx

from retraced_server.retrace.metadata_containers import same_node_metadata
from retraced_server.torch_compat.graphs import is_erased


class NodeCorrespondence:
    """Map each node of a rewritten graph to the nodes of the source graph that it came from.

    A node is a copy of an old one, or was made while one was visited.
    """

    def __init__(self) -> None:
        # Copies of old nodes, with the old node and the arguments that they were made with.
        self._copies: dict[fx.Node, tuple[fx.Node, Any, Any]] = {}
        # The old nodes that other nodes came from, and copies that stand for more than the node that they are a copy of.
        self._origins: dict[fx.Node, list[fx.Node]] = {}
        # The target and the arguments that all other nodes were made with.
        self._made: dict[fx.Node, tuple[Any, Any, Any]] = {}

    def add_copy(self, node: fx.Node, old: fx.Node) -> None:
        """Note that a new node is an old one with its name and metadata."""
        self._copies[node] = old, node.args, node.kwargs

    def add_made(self, node: fx.Node, old: fx.Node | None) -> None:
        """Note that a node was made while an old one was visited; None: an attribute that became a node on the way."""
        self._origins[node] = [] if old is None else [old]
        self._made[node] = node.target, node.args, node.kwargs

    def stands_for(self, node: fx.Node, old: fx.Node) -> None:
        """Note that a node from before stands for an old node too."""
        origins = self._origins.setdefault(node, self.origins_of(node))
        if old not in origins:
            origins.append(old)

    def forget_copy(self, node: fx.Node) -> None:
        """Note that a copy is one no longer."""
        self._origins.setdefault(node, self.origins_of(node))
        old, args, kwargs = self._copies.pop(node)
        self._made[node] = old.target, args, kwargs

    def forget_edited(self) -> bool:
        """Whether nodes are copies no longer, since hooks changed them: their name, target, arguments or metadata."""
        edited = [
            node
            for node, (old, args, kwargs) in self._copies.items()
            if node.args is not args
            or node.kwargs is not kwargs
            or node.target is not old.target
            or node.name != old.name
            or not same_node_metadata(node.meta, old.meta)
        ]
        for node in edited:
            self.forget_copy(node)
        return bool(edited)

    def has_edited_calls(self) -> bool:
        """Whether hooks gave nodes another target or other arguments than these were made with, so that their values do not hold."""
        return any(
            not is_erased(node) and (node.target is not target or node.args is not args or node.kwargs is not kwargs)
            for node, (target, args, kwargs) in self._made.items()
        )

    def made_with(self, node: fx.Node) -> tuple[Any, Any, Any] | None:
        """Return the target and the arguments that a node was made with; None for one that a hook made without the base's hooks."""
        if node in self._copies:
            old, args, kwargs = self._copies[node]
            return old.target, args, kwargs
        return self._made.get(node)

    def origins_of(self, node: fx.Node) -> list[fx.Node]:
        """Return the old nodes that a new node came from."""
        origins = self._origins.get(node)
        if origins is None:
            origins = [self._copies[node][0]] if node in self._copies else []
        return origins

    def is_copy(self, node: fx.Node) -> bool:
        """Whether a new node is an old one with its name and metadata."""
        return node in self._copies

    def is_plain_copy(self, node: fx.Node) -> bool:
        """Whether a new node is an old one with its name and metadata, and stands for no other."""
        return node in self._copies and node not in self._origins
