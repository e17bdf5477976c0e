"""Which values of a graph may share storage, and when they are written to.

It is derived from the operators' schemas, and not only from the recorded values: those that were read from a file have lost their aliases.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import fx

from retraced_server.analysis.effects import arguments_by_name, written_arguments
from retraced_server.analysis.storages import returns_alias
from retraced_server.analysis.targets import Effect, overload_of, stated_effect
from retraced_server.analysis.unstated_aliases import may_hand_on
from retraced_server.torch_compat.fake_tensors import FakeTensor, storage_id
from retraced_server.torch_compat.operators import is_composite, schema_of
from retraced_server.torch_compat.pytree import pytree


class AliasSets:
    """The values of one graph, in sets that may share storage. A value that is alone in its set is a storage of its own.

    Args:
        module: The graph module.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._parents: dict[fx.Node, fx.Node] = {}
        self._positions = {node: position for position, node in enumerate(module.graph.nodes)}
        self._outputs = set(module.graph.output_node().all_input_nodes)
        self._unite_by_operators(module)
        self._unite_by_storages(module)
        self._escaping = {self._find(node) for node in self._outputs}
        # The representative of a set -> the positions of the nodes that write to it, ascending.
        self._writes: dict[fx.Node, list[int]] = defaultdict(list)
        self._find_writes(module)

    def merge(self, first: fx.Node, node: fx.Node) -> None:
        """Note that a value stands for another from now on; neither is written to."""
        if node in self._outputs:
            self._outputs.add(first)
        if holds_tensor(node):
            escapes = self.escapes(first) or self.escapes(node)
            self._unite(first, node)
            if escapes:
                self._escaping.add(self._find(first))

    def is_written(self, node: fx.Node) -> bool:
        """Whether anything in the graph writes to the storage of a value, or changes its sizes in place."""
        return self._find(node) in self._writes

    def version(self, node: fx.Node, at: fx.Node) -> int:
        """How many times the storage of a value may have been written to when a node reads it."""
        return bisect_left(self._writes.get(self._find(node), ()), self._positions[at])

    def is_output(self, node: fx.Node) -> bool:
        """Whether a value is an output of the graph."""
        return node in self._outputs

    def escapes(self, node: fx.Node) -> bool:
        """Whether the storage of a value may be that of an output of the graph."""
        return self._find(node) in self._escaping

    def _unite(self, a: fx.Node, b: fx.Node) -> None:
        one, other = self._find(a), self._find(b)
        if one is not other:
            self._parents[other] = one

    def _find(self, node: fx.Node) -> fx.Node:
        root = node
        while (parent := self._parents.get(root)) is not None:
            root = parent
        while node is not root:
            self._parents[node], node = root, self._parents[node]
        return root

    def _unite_by_operators(self, module: fx.GraphModule) -> None:
        attributes: dict[object, fx.Node] = {}
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self._unite(attributes.setdefault(node.target, node), node)
            elif node.op == "call_function" and holds_tensor(node):
                for argument in aliased_arguments(node):
                    self._unite(argument, node)

    def _unite_by_storages(self, module: fx.GraphModule) -> None:
        owners: dict[int, fx.Node] = {}
        for node in module.graph.nodes:
            for leaf in pytree.tree_leaves(node.meta.get("val")):
                if isinstance(leaf, FakeTensor) and leaf.layout is torch.strided:
                    self._unite(owners.setdefault(storage_id(leaf), node), node)

    def _find_writes(self, module: fx.GraphModule) -> None:
        inputs = module.graph.find_nodes(op="placeholder")
        sources = {self._find(node) for node in inputs}
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            written = {self._find(argument) for argument in written_arguments(module, node)}
            # A caller may give the same tensor twice, and parameters may be tied.
            if written & sources:
                written |= sources
            for representative in written:
                self._writes[representative].append(self._positions[node])


def holds_tensor(node: fx.Node) -> bool:
    """Whether a value is, or may be, a tensor or several values with tensors among them."""
    value = node.meta.get("val")
    return value is None or any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_iter(value))


def is_view(target: object) -> bool:
    """Whether an operator always returns a view of its first argument, and never a copy."""
    op = overload_of(target)
    return op is not None and returns_alias(op) and not is_composite(op) and not schema_of(op).is_mutable


def aliased_arguments(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the arguments with which the results of a call may share storage."""
    target = node.target
    if (op := overload_of(target)) is not None:
        if not returns_alias(op) and not may_hand_on(op):
            return
        wanted = None if may_hand_on(op) else {a.name for a in schema_of(op).arguments if a.alias_info is not None}
        arguments: list[fx.Node] = []
        for name, value in arguments_by_name(op, node.args, node.kwargs).items():
            if wanted is None or name in wanted:
                fx.map_arg(value, arguments.append)
        yield from filter(holds_tensor, arguments)
    elif stated_effect(target) is not Effect.NONE or target is operator.getitem:
        yield from (argument for argument in node.all_input_nodes if argument.op != "get_attr" and holds_tensor(argument))
