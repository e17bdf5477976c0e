"""Executes one operator on fake values without touching the recorded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from retraced_server.retrace._torch import FakeTensor, OpOverload, OpOverloadPacket, jit_resolve_packet, pytree
from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.errors import ExportPassError

# Operators that state facts about symbols instead of computing.
_FACTS = (
    "_assert_scalar",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_async",
    "_functional_sym_constrain_range",
)


def states_facts(target: Any) -> bool:
    """Whether an operator only states what holds for symbols, so that executing it refines the shape environment."""
    return isinstance(target, OpOverload) and target._opname in _FACTS


def changes_metadata(target: Any) -> bool:
    """Whether an operator changes the sizes or strides of an argument in place, as `unsqueeze_` does."""
    return isinstance(target, OpOverload) and torch.Tag.inplace_view in target.tags


def may_alias(target: Any) -> bool:
    """Whether an operator's results may share storage with its arguments, by its schema."""
    return not isinstance(target, OpOverload) or any(result.alias_info is not None for result in target._schema.returns)


def resolve_packet(packet: OpOverloadPacket, args: Any, kwargs: Any) -> OpOverload:
    """Finds the overload that a packet would call, since a packet in a graph cannot be saved.

    Raises:
        ExportPassError: No overload takes the arguments.
    """
    overloads = packet.overloads()
    if len(overloads) == 1:
        return cast(OpOverload, getattr(packet, overloads[0]))
    try:
        name = jit_resolve_packet(packet._qualified_op_name, *args, **kwargs)
    except RuntimeError as error:
        raise ExportPassError(
            f"no overload of {packet} takes these arguments; name one, for example {packet}.default"
        ) from error
    return cast(OpOverload, getattr(packet, name or "default"))


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


def execute(target: Callable[..., Any], args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Execution:
    """Executes an operator on data. The caller has entered the fake mode and no_grad.

    An operator that writes to an argument runs on a copy of it: fake tensors carry sizes, memos and constants that a write would change.
    """
    copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    if isinstance(target, OpOverload) and target._schema.is_mutable:
        args, kwargs = _copy_written(target, args, kwargs, copies)
    result = target(*args, **kwargs)
    taken = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    taken -= {id(copy) for _, copy in copies.values()}
    value = map_leaves(result, torch.Tensor, lambda tensor: _settled(tensor, taken)) if _has_tensor(result) else result
    return Execution(value, list(copies.values()) if changes_metadata(target) else [])


def _has_tensor(result: Any) -> bool:
    return isinstance(result, (torch.Tensor, tuple, list, dict))


def _settled(tensor: torch.Tensor, taken: set[int]) -> torch.Tensor:
    return tensor.detach() if tensor.requires_grad or id(tensor) in taken else tensor


def _copy_written(
    target: OpOverload,
    args: tuple[Argument, ...],
    kwargs: dict[str, Argument],
    copies: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    def copy(value: Any) -> Any:
        return map_leaves(value, torch.Tensor, lambda tensor: _scratch(tensor, copies))

    # A tensor may be given twice, so every occurrence of a written one is replaced.
    positional = list(args)
    for position, argument in enumerate(target._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if argument.name in kwargs:
            copy(kwargs[argument.name])
        elif position < len(positional):
            copy(positional[position])

    def replaced(value: Any) -> Any:
        return map_leaves(value, torch.Tensor, lambda tensor: copies[id(tensor)][1] if id(tensor) in copies else tensor)

    return tuple(replaced(value) for value in positional), {key: replaced(value) for key, value in kwargs.items()}


def _scratch(tensor: torch.Tensor, copies: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    if id(tensor) not in copies:
        if isinstance(tensor, FakeTensor) and tensor.layout is torch.strided:
            copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        else:
            copy = tensor.detach().clone()
        copies[id(tensor)] = (tensor, copy)
    return copies[id(tensor)][1]
