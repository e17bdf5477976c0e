"""Remembers what executing nodes again gave, for nodes that call the same operator on equal metadata: layers of a network repeat."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from retraced_server.retrace._torch import FakeTensor, OpOverload
from retraced_server.retrace.values import SYMBOLIC, expression


class _UnknownError(Exception):
    """A value whose description would not say all that an operator can see."""


class Repeats:
    """What became of comparisons in one graph. Not for another: its operators may run under another autocast.

    A fake operator's result depends on nothing but the metadata of its arguments and what is known of their symbols. Left out are operators
    that write, that make symbols, or that read numbers.
    """

    def __init__(self) -> None:
        self._remarks: dict[Hashable, frozenset[str]] = {}
        self._described: dict[int, tuple[torch.Tensor, Hashable]] = {}

    # Arguments and values are whatever an operator takes and returns.
    def key(self, node: fx.Node, args: Any, kwargs: Any, recorded: Any, known: Hashable) -> Hashable | None:
        """A key of a call and its recorded value; None where the call has to be executed.

        Args:
            node: The node.
            args: Its arguments as data.
            kwargs: Its keyword arguments as data.
            recorded: Its recorded value.
            known: What is known of symbols, in short.
        """
        if not isinstance(node.target, OpOverload) or node.target._schema.is_mutable or not node.target._schema.returns:
            return None
        try:
            described = self._describe(args), self._describe(kwargs), self._describe(recorded)
        except _UnknownError:
            return None
        return (node.target, *described, known)

    def find(self, key: Hashable) -> frozenset[str] | None:
        """The remarks of an equal comparison; None if there was none."""
        return self._remarks.get(key)

    def keep(self, key: Hashable, remarks: set[str]) -> None:
        """Remembers the remarks of a comparison."""
        self._remarks[key] = frozenset(remarks)

    def _describe(self, value: Any) -> Hashable:
        kind = type(value)
        if kind is FakeTensor:
            return self._tensor(value)
        if kind in (tuple, list, immutable_list):
            return tuple([self._describe(item) for item in value])
        if kind is dict:
            return tuple([(key, self._describe(item)) for key, item in value.items()])
        if kind in SYMBOLIC:
            return kind, value.node.expr
        if kind is float or kind is complex:
            return kind, repr(value)
        if value is None or kind in (int, bool, str) or kind.__module__ == "torch":
            return kind, value
        raise _UnknownError

    def _tensor(self, tensor: FakeTensor) -> Hashable:
        found = self._described.get(id(tensor))
        if found is not None and found[0] is tensor:
            return found[1]
        if tensor.constant is not None or tensor.layout is not torch.strided:
            raise _UnknownError
        numbers = (*tensor.shape, None, *tensor.stride(), tensor.storage_offset())
        described = (
            tuple([expression(number) for number in numbers]),
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
            tensor.is_conj(),
            tensor.is_neg(),
        )
        self._described[id(tensor)] = tensor, described
        return described
