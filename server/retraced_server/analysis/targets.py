"""What may be called in a program beside tensor operators, and what each call does besides computing its result.

The reader takes the names of `retraced_pt2.operators`; passes ask here what they may erase, merge or move. What does not stand here, such as a
function that a plugin's pass puts into a graph, is taken to do anything.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

import torch

from retraced_pt2.operators import FUNCTIONS as FUNCTION_NAMES
from retraced_pt2.operators import HIGHER_ORDER as HIGHER_ORDER_NAMES
from retraced_pt2.operators import PRIM as PRIM_NAMES
from retraced_pt2.operators import SUBGRAPH_OPERATORS, SYM_FUNCTIONS
from retraced_server.analysis.namespaces import NAMESPACES
from retraced_server.torch_compat.functorch import (
    ADD_BATCH_DIM,
    ENTER_AUTOCAST,
    ENTER_DUAL,
    ENTER_JVP,
    ENTER_VMAP,
    EXIT_AUTOCAST,
    EXIT_DUAL,
    EXIT_JVP,
    EXIT_VMAP,
    MAKE_DUAL,
    REMOVE_BATCH_DIM,
    SET_GRAD_ENABLED,
    UNPACK_DUAL,
    UNWRAP_FOR_GRAD,
)
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload, function_named, held_operator

# An OpOverload, a HigherOrderOperator or one of the functions below.
Target: TypeAlias = Callable[..., Any]


class Effect(Enum):
    """What a call does besides computing its result from its arguments."""

    NONE = "nothing"
    SCHEMA = "what its schema and its tags say"
    SUBGRAPHS = "what its subgraphs do, and the operators among its arguments"
    OUTSIDE = "something outside of the graph: prints, communicates, marks a place"
    ENTERS = "enters a region, in whose state all calls run until it is left"
    LEAVES = "leaves the region that was entered last"
    SETS = "changes the state that all later calls run in"
    WITHIN = "means something only in the region that it stands in"
    UNKNOWN = "anything"

    @property
    def changes_state(self) -> bool:
        """Whether equal calls before and after such a call may differ."""
        return self in (Effect.ENTERS, Effect.LEAVES, Effect.SETS, Effect.UNKNOWN)

    @property
    def of_regions(self) -> bool:
        """Whether such a call means something by the region that it begins, ends or stands in, and cannot be executed alone."""
        return self in (Effect.ENTERS, Effect.LEAVES, Effect.SETS, Effect.WITHIN)

    @property
    def keeps_its_place(self) -> bool:
        """Whether such a call is neither erased, nor merged with another, nor moved."""
        return self not in (Effect.NONE, Effect.SCHEMA, Effect.SUBGRAPHS)


SYM_OPERATORS: Final[frozenset[Target]] = frozenset(map(function_named, SYM_FUNCTIONS))
"""The functions that compute with sizes."""

SIZE_OPERATORS: Final[frozenset[Target]] = frozenset(
    (
        *(torch.ops.aten.sym_size.int, torch.ops.aten.sym_stride.int),
        *(torch.ops.aten.sym_storage_offset.default, torch.ops.aten.sym_numel.default),
    )
)
"""The operators that tell a size of a tensor."""

FUNCTIONS_BY_NAME: Final[Mapping[str, Target]] = {name: function_named(name) for name in FUNCTION_NAMES}
"""What programs call beside operators, by the names that the schema gives them."""

_REGIONS: Final[Mapping[Target, Effect]] = {
    SET_GRAD_ENABLED: Effect.SETS,
    ENTER_AUTOCAST: Effect.ENTERS,
    EXIT_AUTOCAST: Effect.LEAVES,
    ENTER_VMAP: Effect.ENTERS,
    EXIT_VMAP: Effect.LEAVES,
    ENTER_JVP: Effect.ENTERS,
    EXIT_JVP: Effect.LEAVES,
    ENTER_DUAL: Effect.ENTERS,
    EXIT_DUAL: Effect.LEAVES,
}
# The others of functorch keep their place as well.
FUNCTIONS: Final[Mapping[Target, Effect]] = {
    function: Effect.NONE if function in SYM_OPERATORS else _REGIONS.get(function, Effect.WITHIN)
    for function in FUNCTIONS_BY_NAME.values()
}
"""Those functions with the effect of a call."""

HIGHER_ORDER: Final[Mapping[str, Effect]] = {
    name: Effect.SUBGRAPHS if name in SUBGRAPH_OPERATORS else Effect.OUTSIDE for name in HIGHER_ORDER_NAMES
}
"""Higher-order operators with the effect of a call."""

PRIM: Final[Mapping[str, Effect]] = {f"prim::{name}": Effect.SCHEMA for name in PRIM_NAMES}
"""TorchScript's own namespace: what exported programs ask tensors for."""

# Only programs that never were an archive have them, or graphs while a pass runs: the reader makes `getitem` itself.
_IN_PROCESS: Final[Mapping[Target, Effect]] = dict.fromkeys(
    (operator.getitem, torch.sym_sum, math.ceil, math.floor, round, max, min, abs), Effect.NONE
)
WITHIN_OPERATORS: Final = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("_add_batch_dim", "_remove_batch_dim", "_make_dual", "_unpack_dual", "_fw_primal")
)
"""Operators that are what functions above call, and stand beside them in programs."""

WRAPS_FOR_LEVEL: Final = frozenset(
    (
        *(ADD_BATCH_DIM, MAKE_DUAL),
        *(torch.ops.aten._add_batch_dim.default, torch.ops.aten._make_dual.default, torch.ops.aten._fw_primal.default),
    )
)
"""Calls that bring a tensor, their first argument, into a level of functorch: the result is a view of it, though no schema says so."""

UNWRAPS_FROM_LEVEL: Final = frozenset(
    (
        *(REMOVE_BATCH_DIM, UNPACK_DUAL, UNWRAP_FOR_GRAD),
        *(torch.ops.aten._remove_batch_dim.default, torch.ops.aten._unpack_dual.default),
    )
)
"""Calls that take a tensor out of a level of functorch, which has to be executed in that level."""


# A target of fx is any callable, or the name of a method.
def overload_of(target: Any) -> OpOverload | None:
    """Return the operator that a target runs, None for any other callable.

    It is the target itself, or what an operator of a dialect holds as `_op` and calls, as ExecuTorch's `EdgeOpOverload` and
    `BackendOpOverload` do (executorch/exir/dialects/edge/_ops.py). What is to be known of a call, schema and tags, is asked of this operator;
    what is recorded and executed is the target.
    """
    if isinstance(target, OpOverload):
        return target
    wrapped = held_operator(target)
    return wrapped if isinstance(wrapped, OpOverload) else None


@functools.cache
def acts_on_regions(target: Target | str) -> bool:
    """Whether a call means something by the region that it begins, ends or stands in: `Effect.of_regions` of its stated effect."""
    return stated_effect(target).of_regions


@functools.cache
def stated_effect(target: Target | str) -> Effect:
    """Return the effect of a call of an operator or a function, as far as the target alone decides on it.

    Args:
        target: Anything that a `call_function` node may call.

    Returns:
        Its entry here, or that of its namespace; UNKNOWN where it has none.
    """
    if (op := overload_of(target)) is not None:
        if op.namespace == "prim":
            return PRIM.get(op.name(), Effect.UNKNOWN)
        if op in WITHIN_OPERATORS:
            return Effect.WITHIN
        known = NAMESPACES.get(op.namespace)
        return Effect.OUTSIDE if known is not None and known.acts_outside else Effect.SCHEMA
    if isinstance(target, HigherOrderOperator):
        return HIGHER_ORDER.get(target.name(), Effect.UNKNOWN)
    if isinstance(target, str):
        return Effect.UNKNOWN
    return FUNCTIONS.get(target) or _IN_PROCESS.get(target, Effect.UNKNOWN)
