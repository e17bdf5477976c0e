"""Which values of a graph share storage, by what is recorded, or by the operators' schemas where a file has lost that."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.effects import arguments_by_name
from retraced_server.analysis.targets import WRAPS_FOR_LEVEL, overload_of
from retraced_server.analysis.unstated_aliases import may_hand_on
from retraced_server.torch_compat.fake_tensors import storage_id
from retraced_server.torch_compat.functorch import unwrapped
from retraced_server.torch_compat.operators import is_composite, schema_of


def storages(value: Any) -> frozenset[int]:
    """Return the storages of a value's tensors, as numbers."""
    if isinstance(value, torch.Tensor):
        value = unwrapped(value)
        return frozenset((storage_id(value),)) if value.layout is torch.strided else frozenset()
    if isinstance(value, (tuple, list)):
        return frozenset().union(*map(storages, value))
    return frozenset()


@cache
def returns_alias(target: Callable[..., Any]) -> bool:
    """Whether an operator's results may share storage with its arguments, by its schema; for other callables it is assumed."""
    op = overload_of(target)
    return op is None or any(result.alias_info is not None for result in schema_of(op).returns)


@cache
def may_return_alias(target: Callable[..., Any]) -> bool:
    """Whether an operator's results may share storage with its arguments, by its schema or without a word of it."""
    op = overload_of(target)
    return returns_alias(target) or (op is not None and may_hand_on(op))


def aliased_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the inputs that a node's value shares storage with, by what is recorded, or by a schema that leaves no doubt.

    The recorded values of an exported program share storage where the program's values do; those of a program read from a file do not.
    """
    held = storages(node.meta.get("val"))
    if not held or not callable(node.target):
        return []
    by_schema = _always_aliased(node)
    return [value for value, read in storages_read(node).items() if value in by_schema or held & read]


def storages_read(node: fx.Node) -> dict[fx.Node, frozenset[int]]:
    """Return the inputs of a node, each with the storages of what it reads of the recorded value: of a container the item that it takes."""
    inputs = node.all_input_nodes
    return {value: storages(read_by(node, value.meta.get("val"))) for value in inputs}


# A value is whatever an operator returns.
def read_by(node: fx.Node, value: Any) -> Any:
    """Return what a node reads of a value: of a container the item that it takes, so that not all items are looked at for each."""
    if node.target is not operator.getitem or not isinstance(value, (tuple, list)):
        return value
    key = node.args[1]
    return value[key] if isinstance(key, int) and -len(value) <= key < len(value) else value


def _always_aliased(node: fx.Node) -> set[fx.Node]:
    if node.target in WRAPS_FOR_LEVEL:
        return set(node.all_input_nodes[:1])
    op = overload_of(node.target)
    if op is None or not returns_alias(op) or is_composite(op):
        # An operator composed of others may return what it takes though its schema does not say so, as dropout does in evaluation, or
        # something new though its schema says that it aliases, as reshape does.
        return set()
    given = arguments_by_name(op, node.args, node.kwargs)
    found: set[fx.Node] = set()
    for argument in schema_of(op).arguments:
        if argument.alias_info is not None:
            fx.map_arg(given.get(argument.name), found.add)
    return found


def _written_alone(node: fx.Node) -> set[fx.Node]:
    """Return the inputs that an in-place operator writes to and returns, if it makes them share storage with no others."""
    op = overload_of(node.target)
    is_in_place = op is not None and schema_of(op).is_mutable and not may_hand_on(op)
    return _always_aliased(node) if is_in_place else set()


class WriteSets:
    """The sets of values of one graph that a write may change together, each named by its first node. It errs on the side of larger sets.

    Args:
        graph: The graph. It must not change afterwards.
    """

    def __init__(self, graph: fx.Graph) -> None:
        nodes = list(graph.nodes)
        positions = {node: at for at, node in enumerate(nodes)}
        held = {node: storages(node.meta.get("val")) for node in nodes}
        self._first: dict[int, fx.Node] = {}
        parents = list(range(len(nodes)))

        def first(at: int) -> int:
            while parents[at] != at:
                parents[at] = parents[parents[at]]
                at = parents[at]
            return at

        for at, node in enumerate(nodes):
            joined = [self._first.setdefault(storage, node) for storage in held[node]]
            if callable(node.target) and held[node] and may_return_alias(node.target):
                joined.extend(value for value in _written_alone(node) or node.all_input_nodes if held[value])
            roots = {first(at), *(first(positions[other]) for other in joined)}
            earliest = min(roots)
            for root in roots:
                parents[root] = earliest
        self._sets: dict[fx.Node, fx.Node] = {node: nodes[first(at)] for at, node in enumerate(nodes)}

    def written_with(self, node: fx.Node) -> fx.Node:
        """Return the set that a node's value is in."""
        return self._sets[node]

    def holder(self, storage: int) -> fx.Node | None:
        """Return the first node whose recorded value has a storage."""
        return self._first.get(storage)
