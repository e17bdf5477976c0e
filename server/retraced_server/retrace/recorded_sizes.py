"""Keeps the sizes of recorded values: graphs share them with their copies, and a pass may change one in place, as `unsqueeze_` does."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from retraced_server.retrace.graphs import walk_graphs
from retraced_server.retrace.values import expression
from retraced_server.torch_compat.fake_tensors import FakeTensor, alias_of, version_of
from retraced_server.torch_compat.pytree import pytree


class RecordedSizes:
    """Sizes, strides and offsets of the fake tensors that are recorded in a graph and its subgraphs, as they were given.

    Args:
        module: The graph module.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._given: dict[int, tuple[FakeTensor, int, Any]] = {}
        for _, child in walk_graphs(module):
            for node in child.graph.nodes:
                value = node.meta.get("val")
                for tensor in (value,) if isinstance(value, FakeTensor) else _tensors(value):
                    # Those of inference mode do not count what is done to them.
                    if tensor.layout is torch.strided and not tensor.is_inference():
                        self._given[id(tensor)] = (tensor, version_of(tensor), _sizes(tensor))

    def _changed(self) -> dict[int, FakeTensor]:
        # Torch counts what is done in place to a tensor.
        return {
            key: tensor
            for key, (tensor, version, sizes) in self._given.items()
            if version_of(tensor) != version and _as_expressions(_sizes(tensor)) != _as_expressions(sizes)
        }

    def keep_changes(self, module: fx.GraphModule) -> None:
        """Have a graph that a pass made record what the pass made of values, as values of its own."""
        own = {key: alias_of(tensor) for key, tensor in self._changed().items()}
        for _, child in walk_graphs(module) if own else ():
            for node in child.graph.nodes:
                if own.keys() & set(map(id, pytree.tree_leaves(node.meta.get("val")))):
                    node.meta["val"] = pytree.tree_map(lambda leaf: own.get(id(leaf), leaf), node.meta["val"])

    def put_back(self) -> None:
        """Make the values what they were."""
        with torch.no_grad():
            for key, tensor in self._changed().items():
                tensor.as_strided_(*self._given[key][2])


# A recorded value is whatever an operator returns.
def _tensors(value: Any) -> list[FakeTensor]:
    if not isinstance(value, (tuple, list, dict)):
        return []
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, FakeTensor)]


def _sizes(tensor: FakeTensor) -> tuple[Any, ...]:
    return tensor.size(), tensor.stride(), tensor.storage_offset()


def _as_expressions(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return sizes as they can be compared: comparing symbolic numbers would teach the shape environment that they are equal."""
    size, stride, offset = sizes
    return tuple(map(expression, (*size, *stride, offset)))
