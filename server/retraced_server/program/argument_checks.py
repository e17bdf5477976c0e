"""Checks arguments of calls that torch trusts, whose work has no bound of its own, or that the reader executes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx

from retraced_pt2.limits import MOST_DIMENSIONS
from retraced_server.program.errors import program_invalid, program_unsupported
from retraced_server.program.options import MOST_ITEMS
from retraced_server.torch_compat.operators import OpOverload, OpOverloadPacket, schema_of

_aten: Final = torch.ops.aten
# Operators that give a list as long as a size or an integer says. Other lists are as long as a list among the arguments, or as the rank of one.
_COUNTED: Final = frozenset(
    (
        *(_aten.unbind.int, _aten.unbind_copy.int, _aten.chunk.default, _aten.unsafe_chunk.default),
        *(_aten.split.Tensor, _aten.split_copy.Tensor, _aten.unsafe_split.Tensor),
        *(_aten.tensor_split.sections, _aten.hsplit.int, _aten.vsplit.int, _aten.dsplit.int),
    )
)
# Operators composed of others that take an argument apart along a dimension, which no program has many of: layers of a state, coordinates.
_TAKEN_APART: Final[Mapping[OpOverloadPacket, tuple[str, int]]] = {
    **dict.fromkeys((_aten.rnn_tanh, _aten.rnn_relu, _aten.gru, _aten.lstm), ("hx", 0)),
    _aten.histogramdd: ("self", -1),
}
# Integers that torch raises numbers to, with all of their digits (torch/_refs), and how large they may be: no float has more decimals.
_EXPONENTS: Final[Mapping[OpOverloadPacket, tuple[str, int]]] = dict.fromkeys(
    (_aten.round, _aten.round_, _aten.special_round), ("decimals", 400)
)
# Operators whose native code reads the size of the second dimension, whether there is one or not.
_OF_CHANNELS: Final = frozenset((_aten.batch_norm, _aten.instance_norm))
# Of these torch takes numbers too, and looks them up in tables without asking how long these are.
_ENUMERATIONS: Final[Mapping[str, type]] = {
    "ScalarTypeType": torch.dtype,
    "LayoutType": torch.layout,
    "MemoryFormatType": torch.memory_format,
}
_LARGEST: Final = 2**63 - 1


def check_arguments(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], typical: Callable[[Any], Any]) -> None:
    """Check that torch can be trusted with the arguments of a call, and that passes can be expected to execute it.

    Args:
        target: The operator.
        args: The arguments by position: values, or nodes that have them recorded.
        kwargs: Those by keyword.
        typical: Gives a number for a symbolic one.

    Raises:
        RetracedError: PROGRAM_INVALID: a dtype, a layout or a memory format is something else, or a tensor has no channels.
            PROGRAM_UNSUPPORTED: the call gives more than `MOST_ITEMS` tensors, or takes one into more apart, or raises a number to an
            integer without bound.
    """
    for position, name, kind in _enumerations(target):
        value = args[position] if position < len(args) else kwargs.get(name)
        if value is not None and not isinstance(value, kind):
            raise program_invalid(f"the argument `{name}` is no {kind.__name__}")
    if target in _COUNTED:
        given = {name: _known(value, typical) for name, value in _by_name(target, args, kwargs).items()}
        if (count := _count(given)) > MOST_ITEMS:
            raise program_unsupported(f"the operator gives {count} tensors, and {MOST_ITEMS} are the most of one call")
    if target.overloadpacket in _OF_CHANNELS:
        shape = _known(_by_name(target, args, kwargs).get("input"), typical)
        if isinstance(shape, tuple) and len(shape) < 2:
            raise program_invalid(
                f"`input` has {len(shape)} dimensions, and the operator normalizes channels, which are the second"
            )
    if (exponent := _EXPONENTS.get(target.overloadpacket)) is not None:
        name, most = exponent
        number = _known(_by_name(target, args, kwargs).get(name, 0), typical)
        if isinstance(number, int) and abs(number) > most:
            raise program_unsupported(f"the operator's `{name}` is {number}, and {most} is the most")
    if (apart := _TAKEN_APART.get(target.overloadpacket)) is not None:
        name, dim = apart
        value = _by_name(target, args, kwargs).get(name)
        for shape in (_known(item, typical) for item in (value if isinstance(value, (tuple, list)) else (value,))):
            if isinstance(shape, tuple) and shape and shape[dim] > MOST_ITEMS:
                raise program_unsupported(f"the operator takes `{name}` into {shape[dim]} apart, and {MOST_ITEMS} are the most")


def check_operand(args: Sequence[Any], kwargs: Mapping[str, Any], typical: Callable[[Any], Any]) -> None:
    """Check the arguments of the operator that a higher-order operator, such as `auto_functionalized`, is given and calls.

    Args:
        args: The arguments of the higher-order operator by position; those of the operator follow it.
        kwargs: Those by keyword.
        typical: Gives a number for a symbolic one.

    Raises:
        RetracedError: As `check_arguments`.
    """
    for position, value in enumerate(args):
        if isinstance(value, OpOverload):
            check_arguments(value, args[position + 1 :], kwargs, typical)


@functools.cache
def _enumerations(target: OpOverload) -> tuple[tuple[int, str, type], ...]:
    """Return the arguments of an operator that are dtypes, layouts or memory formats: position, name and type."""
    found = []
    for position, argument in enumerate(schema_of(target).arguments):
        kind = argument.real_type
        if kind.kind() == "OptionalType":
            kind = kind.getElementType()
        if kind.kind() in _ENUMERATIONS:
            found.append((position, argument.name, _ENUMERATIONS[kind.kind()]))
    return tuple(found)


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
    """Return the shape of a tensor, and a number for what is symbolic."""
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
    given = _by_name(target, args, kwargs)
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


def _by_name(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a call was given by the names of the schema; those that are left out are missing."""
    return {**{argument.name: value for argument, value in zip(schema_of(target).arguments, args, strict=False)}, **kwargs}
