"""Executes one operator on fake values without touching the recorded ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeGuard, cast

import torch

from retraced_server.analysis.effects import written_by_operator
from retraced_server.analysis.targets import acts_on_regions, overload_of
from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.interpreted_subgraphs import Call, interpreted, plainly
from retraced_server.torch_compat.fake_tensors import FakeTensor, alias_of, set_version, version_of
from retraced_server.torch_compat.operators import (
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    base_name,
    resolve_overload,
    schema_of,
)
from retraced_server.torch_compat.pytree import pytree

# Operators that state facts about symbols instead of computing.
_FACTS = (
    "_assert_scalar",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_async",
    "_functional_sym_constrain_range",
)


@cache
def is_symbolic_assert(target: Any) -> bool:
    """Whether an operator only states what holds for symbols, so that executing it refines the shape environment."""
    op = overload_of(target)
    return op is not None and base_name(op) in _FACTS


@cache
def changes_metadata(target: Any) -> bool:
    """Whether an operator changes the sizes or strides of an argument in place, as `unsqueeze_` does."""
    op = overload_of(target)
    return op is not None and torch.Tag.inplace_view in op.tags


@cache
def is_plain(target: Any) -> bool:
    """Whether a call does nothing but compute: it neither asserts facts about symbols, changes metadata in place, nor acts on regions."""
    return not (is_symbolic_assert(target) or changes_metadata(target) or acts_on_regions(target))


@cache
def has_result(target: Any) -> bool:
    """Whether an operator returns anything, by its schema; for other callables it is assumed."""
    op = overload_of(target)
    return op is None or bool(schema_of(op).returns)


def resolve_packet(packet: OpOverloadPacket, args: Any, kwargs: Any) -> OpOverload:
    """Find the overload that a packet would call, since a packet in a graph cannot be saved.

    Raises:
        ExportPassError: No overload takes the arguments.
    """
    overloads = packet.overloads()
    if len(overloads) == 1:
        return cast(OpOverload, getattr(packet, overloads[0]))
    try:
        return resolve_overload(packet, args, kwargs)
    except RuntimeError as error:
        raise ExportPassError(
            f"no overload of {packet} takes these arguments; name one, for example {packet}.default"
        ) from error


class Execution:
    """The result of one operator.

    Attributes:
        value: What it returned, free of gradients, and never one of its arguments.
        written: For an operator that changes metadata in place: (argument, its changed copy) pairs.
    """

    __slots__ = ("value", "written")

    def __init__(self, value: Any, written: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.value = value
        self.written = written


def execute(
    target: Callable[..., Any], args: tuple[Argument, ...], kwargs: dict[str, Argument], call: Call = plainly
) -> Execution:
    """Execute an operator on data. The caller has entered the fake mode and no_grad. `call` is how the operators of its subgraphs are called.

    An operator that writes to an argument is given a stand-in for it: fake tensors carry sizes, memos and constants that a write would
    change. The stand-in shares the argument's storage, as does what the operator returns of it, unless that may grow.
    """
    stand_ins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    op = overload_of(target)
    if op is not None and schema_of(op).is_mutable:
        args, kwargs = _without_written(op, args, kwargs, stand_ins)
    elif isinstance(target, HigherOrderOperator):
        args, kwargs = interpreted(args, call), interpreted(kwargs, call)
    versions = [(original, version_of(original)) for original, _ in stand_ins.values()]
    result = target(*args, **kwargs)
    for original, version in versions:
        if version_of(original) != version:
            set_version(original, version)
    taken = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    taken -= {id(stand_in) for _, stand_in in stand_ins.values()}
    value = map_leaves(result, torch.Tensor, lambda tensor: _settled(tensor, taken)) if _has_tensor(result) else result
    return Execution(value, list(stand_ins.values()) if changes_metadata(target) else [])


def _has_tensor(result: Any) -> bool:
    return isinstance(result, (torch.Tensor, tuple, list, dict))


def _settled(tensor: torch.Tensor, taken: set[int]) -> torch.Tensor:
    if id(tensor) in taken and _is_plain(tensor):
        return alias_of(tensor)
    return tensor.detach() if tensor.requires_grad or id(tensor) in taken else tensor


def _is_plain(tensor: torch.Tensor) -> TypeGuard[FakeTensor]:
    return (
        type(tensor) is FakeTensor and tensor.constant is None and not tensor.requires_grad and tensor.layout is torch.strided
    )


@cache
def _keeps_storage(target: OpOverload) -> bool:
    # An operator that is given where to put its result may make that larger.
    may_grow = base_name(target) in ("resize_", "resize_as_", "set_") or any(
        argument.is_out for argument in schema_of(target).arguments
    )
    return not may_grow


def _without_written(
    target: OpOverload,
    args: tuple[Argument, ...],
    kwargs: dict[str, Argument],
    stand_ins: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in stand_ins:
            stand_ins[id(tensor)] = (
                tensor,
                (alias_of(tensor) if _is_plain(tensor) and _keeps_storage(target) else _scratch(tensor)),
            )
        return tensor

    for argument in written_by_operator(target, args, kwargs):
        map_leaves(argument, torch.Tensor, stand_in)

    # A tensor may be given twice, so every occurrence of a written one is replaced.
    def replaced(value: Any) -> Any:
        return map_leaves(value, torch.Tensor, lambda tensor: stand_ins[id(tensor)][1] if id(tensor) in stand_ins else tensor)

    return tuple(replaced(value) for value in args), {key: replaced(value) for key, value in kwargs.items()}


def _scratch(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, FakeTensor) and tensor.layout is torch.strided:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return tensor.detach().clone()
