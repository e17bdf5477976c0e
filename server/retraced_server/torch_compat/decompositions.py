"""Torch's decomposition tables, each made once, and what runs them. Checked with torch 2.13.0."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch._decomp import global_decomposition_table
from torch._export.utils import _special_op_to_preserve_cia
from torch._prims_common import compute_elementwise_output_logical_to_physical_perm as stride_order
from torch.export import ExportedProgram, default_decompositions
from torch.export.exported_program import (
    _decompose_exported_program,
    _disable_prexisiting_fake_mode,
    _split_decomp_table_to_cia_and_python_decomp,
)

from retraced_server.torch_compat.operators import OpOverload, is_composite, registered_operators

__all__ = [
    "Decompositions",
    "TableName",
    "decompositions",
    "is_preserved",
    "operators_named",
    "run_decompositions",
    "stride_order",
]

_decompose: Callable[..., ExportedProgram] = _disable_prexisiting_fake_mode(_decompose_exported_program)

TableName = Literal["core-aten", "aten", "none"]
"""The tables that there are."""

# Operators of several types, and what stands in for a call of each.
_Table = dict[Any, Callable[..., Any]]


@dataclass(frozen=True)
class Decompositions:
    """A table as torch wants it: operators that are composite in ATen apart from the rest."""

    composite: _Table
    python: _Table


def decompositions(
    table: TableName, *, preserved: frozenset[OpOverload] = frozenset(), only: frozenset[OpOverload] = frozenset()
) -> Decompositions:
    """Return a decomposition table, which the caller may change.

    Torch searches every operator that there is for each program, which takes longer than a small program's decomposition. That is done
    once here for a table, and again when operators or decompositions were registered since.

    Args:
        table: Its name.
        preserved: Operators that are left out of it.
        only: The operators that it is to have, if they are in it; all where there are none.
    """
    made = _made(table, len(registered_operators()), sum(map(len, global_decomposition_table.values())))
    composite, python = dict(made.composite), dict(made.python)
    left_out = preserved if not only else preserved | ((composite.keys() | python.keys()) - only)
    for op in left_out:
        python.pop(op, None)
        if op in composite:
            composite[op] = _special_op_to_preserve_cia
    return Decompositions(composite, python)


def operators_named(names: str) -> frozenset[OpOverload]:
    """Return operators by their names, `aten.linear.default`, with spaces between.

    Raises:
        ValueError: There is no operator of a name.
    """
    return frozenset(map(_operator_named, names.split()))


def _operator_named(name: str) -> OpOverload:
    parts = name.split(".")
    found: Any = torch.ops if len(parts) == 3 and all(part.isidentifier() for part in parts) else None
    for part in parts:
        found = getattr(found, part, None)
    if not isinstance(found, OpOverload):
        raise ValueError(
            f"there is no operator `{name}`; an operator is written with its overload, as in `aten.linear.default`"
        )
    return found


# Operators are of several types.
def is_preserved(table: Decompositions, op: Any) -> bool:
    """Whether torch leaves a composite operator as it is when it decomposes by a table."""
    return table.composite.get(op) is _special_op_to_preserve_cia


def run_decompositions(program: ExportedProgram, table: Decompositions) -> ExportedProgram:
    """Do what `ExportedProgram.run_decompositions` does once it has its table (torch/export/exported_program.py).

    Raises:
        Exception: Whatever torch raises.
    """
    return _decompose(
        program,
        cia_to_decomp=table.composite,
        python_decomp_table=table.python,
        joint_loss_index=None,
        decompose_custom_triton_ops=False,
    )


@functools.lru_cache(maxsize=3)
def _made(table: TableName, _operators: int, _registered: int) -> Decompositions:
    """Make a table. The numbers of operators and of decompositions are here for the cache."""
    chosen: _Table = {}
    if table != "none":
        default = default_decompositions()
        chosen = {
            operator: default[operator]
            for operator in default
            if table == "core-aten" or (isinstance(operator, OpOverload) and is_composite(operator))
        }
    return Decompositions(*_split_decomp_table_to_cia_and_python_decomp(chosen))
