"""Symbolic shapes: shape environments, the expressions of sizes, and their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch._dynamo.source import LocalSource
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
    SymbolicContext,
    _free_unbacked_symbols_with_path,
    canonicalize_bool_expr,
    compute_unbacked_bindings,
    free_unbacked_symbols,
    safe_expand,
)
from torch.utils._sympy import functions as sympy_functions
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, symbol_is_type
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy
from torch.utils._traceback import CapturedTraceback

from retraced_server.torch_compat.fake_tensors import FakeTensor, FakeTensorMode
from retraced_server.torch_compat.pytree import KeyPath, pytree

__all__ = [
    "SYMBOLIC",
    "DimDynamic",
    "LocalSource",
    "ShapeEnv",
    "StatelessSymbolicContext",
    "SymT",
    "Symbolic",
    "SymbolicContext",
    "ValueRanges",
    "backed_values",
    "bound_sympy",
    "canonicalize_bool_expr",
    "compute_unbacked_bindings",
    "constrain_size",
    "equate",
    "expression_of",
    "free_unbacked_symbols",
    "has_facts_about",
    "hint_of",
    "int_oo",
    "is_known",
    "only_fresh_renamed",
    "python_type",
    "ranges_of",
    "raw_expression",
    "rebuilt",
    "remember_stack",
    "replacements_of",
    "reserve_unbacked_symbol",
    "safe_expand",
    "shape_env_of",
    "shape_env_of_value",
    "symbol_is_type",
    "symbolic_number",
    "sympy_functions",
    "unbacked_bindings",
]

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
Symbolic = torch.SymInt | torch.SymFloat | torch.SymBool


# -- symbolic numbers ----------------------------------------------------------------------------------------------------------------


def raw_expression(value: Symbolic) -> sympy.Basic:
    """Return the expression of a symbolic number as it was made; equal ones of one shape environment mean the same."""
    return value.node._expr


def expression_of(value: Symbolic) -> sympy.Basic:
    """Return the expression of a symbolic number, with the replacements of its shape environment.

    Equal to `value.node.expr`, which may shorten chains of replacements in the shape environment on the way and so raise its
    version; this only reads.
    """
    expression = sympy.sympify(value.node._expr)
    replacements = value.node.shape_env.replacements if value.node.shape_env is not None else {}
    if not replacements or replacements.keys().isdisjoint(expression.free_symbols):
        return expression
    for _ in range(len(replacements)):
        replaced = expression.xreplace(replacements)
        if replaced == expression:
            break
        expression = replaced
    return safe_expand(expression)


# A hint is a number of the type that the symbolic one stands for.
def hint_of(value: Symbolic) -> Any:
    """Return what a symbolic number was at export; None for one that comes from data."""
    return value.node._hint


def python_type(value: Symbolic) -> type[int] | type[float] | type[bool]:
    """Return the Python type that a symbolic number stands for."""
    # `node` is untyped: SymInt and its like declare it as Any.
    result: type[int] | type[float] | type[bool] = value.node.pytype
    return result


# The three types of symbolic numbers share no base, and expressions have no types.
def symbolic_number(env: ShapeEnv, kind: type[int] | type[float] | type[bool], number: Any, hint: Any = None) -> Any:
    """Return a symbolic number of a Python type and an expression."""
    if kind is int:
        return env.create_symintnode(number, hint=hint)
    if kind is float:
        return env.create_symfloatnode(number, hint=hint)
    return env.create_symboolnode(number)


# As there.
def rebuilt(value: Any, env: ShapeEnv) -> Any:
    """Return a symbolic number made anew of its expression, with the replacements of a shape environment, and its hint."""
    return symbolic_number(env, python_type(value), value.node.expr, value.node._hint)


# -- shape environments --------------------------------------------------------------------------------------------------------------


def shape_env_of_value(value: FakeTensor | Symbolic) -> ShapeEnv | None:
    """Return the shape environment of a recorded value."""
    shape_env: ShapeEnv | None = value.fake_mode.shape_env if isinstance(value, FakeTensor) else value.node.shape_env
    return shape_env


def shape_env_of(module: torch.fx.GraphModule) -> ShapeEnv | None:
    """Return the shape environment of a graph by its recorded values; None if nothing in it is symbolic or fake."""
    mode: FakeTensorMode | None = None
    for node in module.graph.nodes:
        for leaf in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(leaf, SYMBOLIC):
                return shape_env_of_value(leaf)
            if mode is None and isinstance(leaf, FakeTensor):
                mode = leaf.fake_mode
                if mode.shape_env is not None:
                    return mode.shape_env
    return None


def backed_values(shape_env: ShapeEnv | None) -> Mapping[sympy.Symbol, sympy.Basic]:
    """Return what the symbols of a shape environment were at export; symbols that come from data are not among them."""
    return shape_env.backed_var_to_val if shape_env is not None else {}


def ranges_of(shape_env: ShapeEnv) -> Mapping[sympy.Symbol, ValueRanges[sympy.Expr]]:
    """Return the ranges of the symbols of a shape environment."""
    return shape_env.var_to_range


def replacements_of(shape_env: ShapeEnv) -> Mapping[sympy.Symbol, sympy.Expr]:
    """Return the symbols that a shape environment knows to be equal to something else."""
    return shape_env.replacements


def has_facts_about(shape_env: ShapeEnv, symbol: sympy.Symbol) -> bool:
    """Whether more is known of a backed size than its range, its hint, and that it is at least 2: a guard, a divisor, an assertion."""
    facts = (*(guard.expr for guard in shape_env.guards), *shape_env.divisible, *shape_env.axioms)
    asserted = (check.expr for checks in shape_env.deferred_runtime_asserts.values() for check in checks)
    at_least_2 = sympy.Dummy(integer=True, nonnegative=True) + 2
    return symbol in shape_env.var_to_hint_override or any(
        symbol in fact.free_symbols and fact.xreplace({symbol: at_least_2}) not in (sympy.true, sympy.false)
        for fact in (*facts, *asserted)
    )


def is_known(shape_env: ShapeEnv, guard: sympy.Basic) -> bool:
    """Whether a shape environment knows that something holds, without the hints."""
    return shape_env._maybe_evaluate_static(guard) in (True, sympy.true)


def constrain_size(shape_env: ShapeEnv, value: torch.SymInt) -> None:
    """Record that a symbolic number is a size, neither negative nor, as torch reasons, zero or one."""
    shape_env._constrain_range_for_size(value.node.expr)


def reserve_unbacked_symbol(shape_env: ShapeEnv, kind: str, number: int) -> None:
    """Have the unbacked symbols that a shape environment makes come after one that is there, `u` or `zuf` by kind."""
    if kind == "u":
        shape_env.unbacked_symint_counter = max(shape_env.unbacked_symint_counter, number + 1)
    elif kind == "zuf":
        shape_env.unbacked_symfloat_counter = max(shape_env.unbacked_symfloat_counter, number + 1)


def remember_stack(shape_env: ShapeEnv, symbol: sympy.Symbol) -> None:
    """Record where a symbol was made; torch looks it up when it reports a failed constraint."""
    shape_env.var_to_stack[symbol] = CapturedTraceback.extract(skip=1)


def unbacked_bindings(value: object, shape_env: ShapeEnv, fresh: set[sympy.Symbol]) -> dict[sympy.Symbol, KeyPath]:
    """Return where in a value the fresh unbacked symbols are made; those found are taken out of `fresh`."""
    return _free_unbacked_symbols_with_path(value, (), shape_env=shape_env, pending=fresh, simplify=True)


def equate(env: ShapeEnv, renaming: Mapping[sympy.Symbol, sympy.Symbol]) -> None:
    """Record in a shape environment that symbols are equal to others, which it does not find out by itself."""
    if renaming:
        env.replacements.update(renaming)
        env._replacements_version_counter += 1
        env._update_version_counter()


@contextmanager
def only_fresh_renamed(env: ShapeEnv | None) -> Iterator[None]:
    """Keep torch from renaming symbols that are known, when it executes the operators of a program again.

    Torch takes what an operator gives in the place of a symbol of the program for a fresh one (`rebind_unbacked` in
    torch/fx/experimental/symbolic_shapes.py), and fails where it is not: since ranges are known from the start, the size of `x[:n]` is now `n`,
    when at export it had a symbol of its own. Such a symbol is not needed any more.
    """
    if env is None:
        yield
        return
    rename, known = env._rename_unbacked_to, set(env.var_to_range)

    def rename_fresh(symbol: sympy.Symbol, name: sympy.Symbol) -> None:
        if symbol not in known and symbol not in env.unbacked_renamings:
            rename(symbol, name)

    vars(env)["_rename_unbacked_to"] = rename_fresh
    try:
        yield
    finally:
        del vars(env)["_rename_unbacked_to"]
