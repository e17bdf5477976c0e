"""The attributes of a graph under construction: those of the old graph that its nodes read, with what takes their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.attributes import MISSING, delete_attribute, find_attribute, get_attribute, set_attribute
from retraced_server.retrace.tracer import ExportTracer


class AttributeTable:
    """The attributes of one graph under construction.

    Args:
        module: The old graph module.
        tracer: What builds the new graph.
    """

    def __init__(self, module: fx.GraphModule, tracer: ExportTracer) -> None:
        self._module = module
        self._tracer = tracer

    # An attribute is whatever a `get_attr` node reads.
    def get(self, target: object) -> Any:
        """Return an attribute of the new graph."""
        return get_attribute(self._tracer.root, target)

    def add(self, target: object, value: Any) -> None:
        """Add an attribute that an old node reads. Several nodes may read one subgraph, which may have been replaced since the first."""
        if find_attribute(self._tracer.root, target, MISSING) is MISSING:
            set_attribute(self._tracer.root, target, value)

    def add_reader(self, node: fx.Node, value: Any) -> None:
        """Note that a new node reads an attribute."""
        if isinstance(value, torch.nn.Module):
            self._tracer.submodules[value] = node
        elif isinstance(value, torch.Tensor):
            self._tracer.attribute_nodes[id(value)] = (value, node)

    def replace_subgraph(self, old: fx.GraphModule, new: fx.GraphModule) -> None:
        """Put a changed subgraph into the place of the old one, under its name.

        Where another call has the old one already, unchanged, the new one is an attribute besides it.
        """
        node = self._tracer.submodules.get(old)
        if node is None or new is old:
            return
        readers = self._tracer.graph.find_nodes(op="get_attr", target=node.target, sort=False)
        if not any(reader.users for reader in readers):
            set_attribute(self._tracer.root, node.target, new)
            del self._tracer.submodules[old]
            self._tracer.submodules[new] = node

    def drop_unused_subgraphs(self, kept: Mapping[fx.Node, fx.Node], results: Mapping[fx.Node, Any]) -> None:
        """Remove subgraphs that the old graph called and the new one does not.

        Args:
            kept: For old nodes the new ones that hold their value.
            results: What stands for each old node.
        """
        graph = self._tracer.graph
        readers = Counter(node.target for node in graph.find_nodes(op="get_attr"))
        for old in self._module.graph.find_nodes(op="get_attr"):
            node = kept.get(old)
            if node is not None and old.users and not node.users and isinstance(results[old], torch.nn.Module):
                graph.erase_node(node)
                readers[node.target] -= 1
                if not readers[node.target]:
                    delete_attribute(self._tracer.root, node.target)
