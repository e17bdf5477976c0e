"""Torch's decomposition tables, each made once, and what runs them. Checked with torch 2.13.0."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

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
    "OWN_TABLES",
    "Decompositions",
    "TableChoice",
    "decompositions",
    "is_preserved",
    "operators_named",
    "register_decomposition_table",
    "run_decompositions",
    "stride_order",
    "table_names",
]

_decompose: Callable[..., ExportedProgram] = _disable_prexisiting_fake_mode(_decompose_exported_program)

OWN_TABLES: Final = ("core-aten", "aten", "none")
"""The tables that there are without plugins."""

# Operators of several types, and what stands in for a call of each.
_Table = dict[Any, Callable[..., Any]]
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
# The tables of plugins.
_REGISTERED: dict[str, Callable[[], Mapping[Any, Callable[..., Any]]]] = {}


@dataclass(frozen=True)
class TableChoice:
    """Which decompositions a table is to have.

    Attributes:
        name: The table's name.
        preserve: Names of operators that are left out of it, with spaces between: `aten.linear.default`.
        only: Names of the operators that it is to have, if they are in it; all where there are none.
        keeps_strides: Whether attention is decomposed to results of its own strides.
    """

    name: str
    preserve: str = ""
    only: str = ""
    keeps_strides: bool = False


@dataclass(frozen=True)
class Decompositions:
    """A table as torch wants it: operators that are composite in ATen apart from the rest, and what was chosen."""

    composite: _Table
    python: _Table
    choice: TableChoice


def decompositions(choice: TableChoice) -> Decompositions:
    """Return a decomposition table, which the caller may change.

    Torch searches every operator that there is for each program, which takes longer than a small program's decomposition. That is done
    once here for a table, and again when operators or decompositions were registered since.

    Raises:
        ValueError: There is no operator of a name.
    """
    composite, python = _made(choice.name, len(registered_operators()), sum(map(len, global_decomposition_table.values())))
    composite, python = dict(composite), dict(python)
    left_out = operators_named(choice.preserve)
    if only := operators_named(choice.only):
        left_out |= (composite.keys() | python.keys()) - only
    for op in left_out:
        python.pop(op, None)
        if op in composite:
            composite[op] = _special_op_to_preserve_cia
    return Decompositions(composite, python, choice)


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


def register_decomposition_table(name: str, make: Callable[[], Mapping[Any, Callable[..., Any]]]) -> None:
    """Make a decomposition table one that pipelines can name: `decompose{table=mybackend}`.

    Args:
        name: Its name: lower-case letters, digits and hyphens.
        make: Returns the table, from operators to what stands in for a call, as `torch.export.default_decompositions` does. It is called when
            the table is first asked for. What its functions make of a call is used again for others: they depend on their arguments alone.

    Raises:
        ValueError: The name is none, or is taken.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a decomposition table cannot have the name `{name}`: lower-case letters, digits and hyphens make one"
        )
    if name in table_names():
        raise ValueError(f"there is a decomposition table `{name}` already")
    _REGISTERED[name] = make


def table_names() -> tuple[str, ...]:
    """Return the names of the tables that there are."""
    return (*OWN_TABLES, *sorted(_REGISTERED))


@functools.lru_cache(maxsize=8)
def _made(table: str, _operators: int, _decompositions: int) -> tuple[_Table, _Table]:
    """Make a table. The numbers of operators and of decompositions are here for the cache."""
    if table in _REGISTERED:
        chosen: _Table = dict(_REGISTERED[table]())
    elif table == "none":
        chosen = {}
    else:
        default = default_decompositions()
        chosen = {
            operator: default[operator]
            for operator in default
            if table == "core-aten" or (isinstance(operator, OpOverload) and is_composite(operator))
        }
    composite, python = _split_decomp_table_to_cia_and_python_decomp(chosen)
    return composite, python
