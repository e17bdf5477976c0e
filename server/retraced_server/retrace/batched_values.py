"""Tells at which levels of vmap the values of a graph are batched."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from retraced_server.program.functions import overload_of
from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.torch_compat.functorch import ADD_BATCH_DIM, ENTER_VMAP, REMOVE_BATCH_DIM
from retraced_server.torch_compat.operators import HigherOrderOperator

_aten = torch.ops.aten
# Calls that batch a value at a level, or take it out of one, with the position of the level's number among their arguments.
_ADDS = dict.fromkeys((ADD_BATCH_DIM, _aten._add_batch_dim.default), 2)
_REMOVES = dict.fromkeys((REMOVE_BATCH_DIM, _aten._remove_batch_dim.default), 1)

# The calls that entered the levels that a value is batched at.
Levels = frozenset[fx.Node]


class BatchedValues:
    """Tells at which levels of vmap the values of one graph are batched, while it is built.

    Args:
        caller: Tells it of the graph that calls this one as a subgraph; None for the root graph.
        operands: What this one is called with.

    Attributes:
        callers: The calls that entered the levels that the graph is called in, outermost first.
        levels: The calls that entered the levels that the next node is in, of vmap and jvp, outermost first, those of callers included.
    """

    def __init__(self, caller: BatchedValues | None, operands: Sequence[Argument]) -> None:
        self.callers: tuple[fx.Node, ...] = () if caller is None else caller.levels
        self._operands = [caller.of(operand) for operand in operands] if caller is not None and self.callers else []
        self.levels: tuple[fx.Node, ...] = self.callers
        # Values that are batched at no level are left out. Of a higher-order operator's results each may be batched at others.
        self._levels_of: dict[fx.Node, Levels | list[Levels]] = {}
        # For subgraphs that were visited, those of their results.
        self._results: dict[fx.GraphModule, list[Levels]] = {}

    def of(self, value: Argument) -> Levels:
        """Return the levels at which any of the values among arguments is batched, which are ProxyValues or nodes."""
        found: set[fx.Node] = set()

        def add(node: fx.Node) -> None:
            levels = self._levels_of.get(node, ())
            found.update(*levels) if isinstance(levels, list) else found.update(levels)

        map_leaves(value, ProxyValue, lambda proxy: add(proxy.node))
        map_leaves(value, fx.Node, add)
        return frozenset(found)

    # A value is whatever is recorded for a node.
    def batch(self, value: Any, levels: Levels) -> Any:
        """Return new tensors of those of one example, batched at levels that have been entered as the next node is in them."""
        entered = [(_size(level), number) for number, level in enumerate(self.levels, 1) if level in levels]
        return map_leaves(value, torch.Tensor, lambda tensor: _batched(tensor, entered)) if entered else value

    def enter(self, levels: Sequence[fx.Node]) -> None:
        """Hear of the levels of this graph that the next node is in."""
        self.levels = (*self.callers, *levels)

    def add_input(self, position: int, value: Argument) -> None:
        """Hear of what stands for an input of the graph."""
        if position < len(self._operands) and isinstance(value, ProxyValue):
            self._levels_of[value.node] = self._operands[position]

    def add_subgraph(self, subgraph: fx.GraphModule, results: Argument, values: BatchedValues) -> None:
        """Hear of a subgraph that was visited: its results as nodes, and what tells of them."""
        if self.levels and isinstance(results, (tuple, list)):
            self._results[subgraph] = [values.of(result) for result in results]

    # An attribute is whatever a `get_attr` node reads.
    def add_call(self, node: fx.Node, attribute: Callable[[str], Any]) -> None:
        """Hear of a call in the levels that have been entered. `attribute` gives what a `get_attr` node reads, by its target."""
        if levels := self._of_call(node, attribute):
            self._levels_of[node] = levels

    def _of_call(self, node: fx.Node, attribute: Callable[[str], Any]) -> Levels | list[Levels]:
        target, given = node.target, self.of((node.args, node.kwargs))
        if target in _ADDS:
            return given | self._numbered(node, _ADDS[target])
        if target in _REMOVES:
            return given - self._numbered(node, _REMOVES[target])
        if target is operator.getitem:
            return self._of_item(*node.args)
        if isinstance(target, HigherOrderOperator):
            read = [attribute(str(value.target)) for value in node.all_input_nodes if value.op == "get_attr"]
            known = [self._results[value] for value in read if isinstance(value, fx.GraphModule) and value in self._results]
            return known[0] if len(known) == 1 else given
        if (op := overload_of(target)) is not None and torch.Tag.nondeterministic_seeded in op.tags:
            return given | {level for level in self.levels if level.target is ENTER_VMAP and "different" in level.args}
        return given

    # The container is a node, which may have become a constant.
    def _of_item(self, container: Any, key: Any) -> Levels:
        levels = self._levels_of.get(container)
        return levels[key] if isinstance(levels, list) and key < len(levels) else self.of(container)

    def _numbered(self, node: fx.Node, position: int) -> Levels:
        number = node.args[position] if position < len(node.args) else node.kwargs.get("level")
        return (
            frozenset((self.levels[number - 1],)) if isinstance(number, int) and 0 < number <= len(self.levels) else frozenset()
        )


def _size(level: fx.Node) -> Any:
    return fx.node.map_arg(level.args[0], lambda node: node.meta["val"])


def _batched(tensor: torch.Tensor, entered: list[tuple[Any, int]]) -> torch.Tensor:
    sizes, strides = tuple(tensor.size()), tuple(tensor.stride())
    # From the innermost level outwards, each is a dimension before those of the tensor.
    step = tensor.numel()
    for size, _ in reversed(entered):
        sizes, strides, step = (size, *sizes), (step, *strides), step * size
    result = torch.empty_strided(sizes, strides, dtype=tensor.dtype, device=tensor.device)
    for _, number in entered:
        result = ADD_BATCH_DIM(result, 0, number)
    return result
