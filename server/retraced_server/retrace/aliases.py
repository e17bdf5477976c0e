"""Which values of a graph share storage, by what is recorded, or by the operators' schemas where a file has lost that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

from retraced_server.program.functions import WRAPS_FOR_LEVEL, overload_of
from retraced_server.retrace.arguments import item_alone
from retraced_server.torch_compat.fake_tensors import storage_id
from retraced_server.torch_compat.functorch import unwrapped
from retraced_server.torch_compat.operators import is_composite, schema_of


def storages(value: Any) -> frozenset[int]:
    """The storages of a value's tensors, as numbers."""
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
def _is_composed(target: Callable[..., Any]) -> bool:
    op = overload_of(target)
    return op is not None and is_composite(op)


def written_arguments(target: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """Gives the arguments that an operator writes to."""
    op = overload_of(target)
    if op is None or not schema_of(op).is_mutable:
        return
    for position, argument in enumerate(schema_of(op).arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if argument.name in kwargs:
            yield kwargs[argument.name]
        elif position < len(args):
            yield args[position]


def aliased_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs that a node's value shares storage with, by what is recorded, or by a schema that leaves no doubt.

    The recorded values of an exported program share storage where the program's values do; those of a program read from a file do not.
    """
    held = storages(node.meta.get("val"))
    if not held or not callable(node.target):
        return []
    by_schema = _always_aliased(node)
    return [value for value, read in storages_read(node).items() if value in by_schema or held & read]


def storages_read(node: fx.Node) -> dict[fx.Node, frozenset[int]]:
    """Give the inputs of a node, each with the storages of what it reads of the recorded value: of a container the item that it takes."""
    inputs = node.all_input_nodes
    return {value: storages(item_alone(node.target, (value.meta.get("val"), *node.args[1:]))[0]) for value in inputs}


def _always_aliased(node: fx.Node) -> set[fx.Node]:
    if node.target in WRAPS_FOR_LEVEL:
        return set(node.all_input_nodes[:1])
    op = overload_of(node.target)
    if op is None or not returns_alias(op) or is_composite(op):
        # An operator composed of others may return what it takes though its schema does not say so, as dropout does in evaluation, or
        # something new though its schema says that it aliases, as reshape does.
        return set()
    found: set[fx.Node] = set()
    for position, argument in enumerate(schema_of(op).arguments):
        given = node.kwargs.get(argument.name, node.args[position] if position < len(node.args) else None)
        if argument.alias_info is not None:
            fx.map_arg(given, found.add)
    return found


class AliasSets:
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
            if callable(node.target) and held[node] and (returns_alias(node.target) or _is_composed(node.target)):
                joined.extend(value for value in node.all_input_nodes if held[value])
            roots = {first(at), *(first(positions[other]) for other in joined)}
            earliest = min(roots)
            for root in roots:
                parents[root] = earliest
        self._sets: dict[fx.Node, fx.Node] = {node: nodes[first(at)] for at, node in enumerate(nodes)}

    def written_with(self, node: fx.Node) -> fx.Node:
        """The set that a node's value is in."""
        return self._sets[node]

    def holder(self, storage: int) -> fx.Node | None:
        """The first node whose recorded value has a storage."""
        return self._first.get(storage)
