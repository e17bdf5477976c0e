"""Checks integers in calls where what torch does with them has no bound of its own, or where the reader executes the call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx
from torch._ops import OpOverload

from retraced_server.program.errors import program_unsupported
from retraced_server.program.options import MOST_DIMENSIONS, MOST_RESULTS

_aten: Final = torch.ops.aten
# Operators that give a list as long as a size or an integer says. Other lists are as long as a list among the arguments, or as the rank of one.
_COUNTED: Final = frozenset(
    (
        *(_aten.unbind.int, _aten.unbind_copy.int, _aten.chunk.default, _aten.unsafe_chunk.default),
        *(_aten.split.Tensor, _aten.split_copy.Tensor, _aten.unsafe_split.Tensor),
        *(_aten.tensor_split.sections, _aten.hsplit.int, _aten.vsplit.int, _aten.dsplit.int),
        *(_aten.unbind_copy.int_out, _aten.split_copy.Tensor_out, _aten.unsafe_split.Tensor_out),
    )
)
_LARGEST: Final = 2**63 - 1


def check_results(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], typical: Callable[[Any], Any]) -> None:
    """Check that a call gives no longer a list than passes can be expected to execute.

    Args:
        target: The operator.
        args: The arguments by position: values, or nodes that have them recorded.
        kwargs: Those by keyword.
        typical: Gives a number for a symbolic one.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED: it gives more than `MOST_RESULTS` tensors.
    """
    if target not in _COUNTED:
        return
    given = {name: _known(value, typical) for name, value in arguments_by_name(target, args, kwargs).items()}
    if (count := _count(given)) > MOST_RESULTS:
        raise program_unsupported(f"the operator gives {count} tensors, and {MOST_RESULTS} are the most of one call")


def _count(given: Mapping[str, Any]) -> int:
    for name in ("chunks", "sections"):
        if isinstance(count := given.get(name), int):
            return count
    shape, dim, step = given.get("self"), given.get("dim", 0), given.get("split_size", 1)
    # Of what does not fit, torch says so when the call is executed.
    if not isinstance(shape, tuple) or not isinstance(dim, int) or not -len(shape) <= dim < len(shape):
        return 0
    return math.ceil(shape[dim] / step) if isinstance(step, int) and step > 0 else 0


def _known(value: Any, typical: Callable[[Any], Any]) -> Any:
    """The shape of a tensor, and a number for what is symbolic."""
    value = value.meta.get("val") if isinstance(value, fx.Node) else value
    if isinstance(value, torch.Tensor):
        return tuple(map(typical, value.shape))
    return typical(value) if isinstance(value, torch.SymInt) else value


def integers_fit(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the integers of a call are in the range that its arguments have by their kind.

    Args:
        target: An operator on a tensor whose lists of integers are sizes, and whose integers are dimensions, or else counts.
        args: The arguments by position, without anything symbolic.
        kwargs: Those by keyword.
    """
    given = arguments_by_name(target, args, kwargs)
    tensor = given.get("self")
    rank = max(tensor.dim(), 1) if isinstance(tensor, torch.Tensor) else 0
    for name, value in given.items():
        if isinstance(value, (tuple, list)):
            sizes = [size for size in value if isinstance(size, int)]
            # Of -1 torch makes the size that fits.
            if (
                len(sizes) > MOST_DIMENSIONS
                or min(sizes, default=0) < -1
                or math.prod(max(size, 1) for size in sizes) > _LARGEST
            ):
                return False
        elif type(value) is int and not (-rank <= value < rank if name.endswith("dim") else 0 < value <= _LARGEST):
            return False
    return True


def arguments_by_name(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a call was given by the names of the schema; those that are left out are missing."""
    return {**{argument.name: value for argument, value in zip(target._schema.arguments, args, strict=False)}, **kwargs}
