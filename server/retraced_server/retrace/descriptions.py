"""What an operator can see of its arguments, hashable, so that calls which must give the same can be found."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import sympy
import torch
from torch.fx.immutable_collections import immutable_dict, immutable_list

from retraced_server.analysis.targets import overload_of
from retraced_server.retrace.arguments import map_leaves
from retraced_server.retrace.values import SYMBOLIC, expression
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.operators import schema_of


class UnknownError(Exception):
    """A value whose description would not say all that an operator can see."""


class Descriptions:
    """Describes values of one call of a pass: metadata of fake tensors, expressions of symbolic numbers, constants with their types.

    Tensors that were described are kept for as long.
    """

    def __init__(self) -> None:
        # The tensor too, so that its id stays its own.
        self._tensors: dict[int, tuple[FakeTensor, Hashable]] = {}

    # Values are whatever an operator takes and returns.
    def call(self, target: Any, args: Any, others: Any, tensors: list[FakeTensor] | None = None) -> Hashable | None:
        """Return what tells a call of an operator from calls that may give something else.

        It is asked before the operator is executed. What one writes to is described anew: a subgraph's operators write to the tensors
        themselves, as `unsqueeze_` does to sizes.

        Args:
            target: The operator.
            args: Its arguments.
            others: Its keyword arguments, and what else is told.
            tensors: Where the tensors of both are added, in order.

        Returns:
            The description; None where the operator writes, or returns nothing, or where a description would not say all.
        """
        op = overload_of(target)
        if op is None:
            return None
        if schema_of(op).is_mutable:
            map_leaves((args, others), FakeTensor, lambda tensor: self._tensors.pop(id(tensor), None))
            return None
        if not schema_of(op).returns:
            return None
        try:
            return op, self.describe(args, tensors), self.describe(others, tensors)
        except UnknownError:
            return None

    def describe(self, value: Any, tensors: list[FakeTensor] | None = None) -> Hashable:
        """Describe a value.

        Args:
            value: The value.
            tensors: Where its tensors are added, in order.

        Raises:
            UnknownError: Its description would not say all of it.
        """
        kind = type(value)
        if kind is FakeTensor:
            if tensors is not None:
                tensors.append(value)
            return self._tensor(value)
        if kind in (tuple, list, immutable_list):
            return tuple([self.describe(item, tensors) for item in value])
        if kind is dict or kind is immutable_dict:
            return tuple([(key, self.describe(item, tensors)) for key, item in value.items()])
        if kind in SYMBOLIC:
            return kind, value.node.expr
        if kind is float or kind is complex:
            return kind, repr(value)
        # A tensor that is not fake is a constant, which results may share storage with.
        if value is None or kind in (int, bool, str) or (kind.__module__ == "torch" and not isinstance(value, torch.Tensor)):
            return kind, value
        raise UnknownError

    def _tensor(self, tensor: FakeTensor) -> Hashable:
        found = self._tensors.get(id(tensor))
        if found is not None:
            return found[1]
        if tensor.constant is not None or tensor.layout is not torch.strided or tensor.is_quantized:
            raise UnknownError
        numbers = tuple([expression(number) for number in (*tensor.shape, None, *tensor.stride(), tensor.storage_offset())])
        # A symbol that has become a number equals the number, and results may have the one or the other.
        if any(isinstance(number, sympy.Integer) for number in numbers):
            raise UnknownError
        described = (
            numbers,
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
            tensor.is_conj(),
            tensor.is_neg(),
        )
        self._tensors[id(tensor)] = tensor, described
        return described
