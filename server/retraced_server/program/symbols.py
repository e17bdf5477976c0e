"""The symbols of a program: its shape environment, made from the expressions and ranges in the file.

The steps, and their order, are those of `GraphModuleDeserializer._parse_sym_expr` in torch/_export/serde/serialize.py, since the
order shows in the shape environment. Each distinct expression is read once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import sympy
import torch
from msgspec import UNSET, Raw

from retraced_pt2 import program_schema, schema
from retraced_pt2.errors import shortened
from retraced_pt2.expressions import is_derived_size, split_symbol
from retraced_server.program.errors import cause, format_errors, program_invalid
from retraced_server.program.expressions import parse_expression
from retraced_server.torch_compat.fake_tensors import FakeTensorMode
from retraced_server.torch_compat.symbolic_shapes import (
    SYMBOLIC,
    ShapeEnv,
    SymT,
    ValueRanges,
    backed_values,
    hint_of,
    int_oo,
    python_type,
    raw_expression,
    remember_stack,
    reserve_unbacked_symbol,
    symbol_is_type,
)

Size: TypeAlias = int | torch.SymInt

_SYM_INT = msgspec.json.Decoder(schema.SymInt)
_SYM_FLOAT = msgspec.json.Decoder(schema.SymFloat)
_SYM_BOOL = msgspec.json.Decoder(schema.SymBool)
_UNBACKED = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)


class Symbols:
    """The shape environment and fake tensor mode of one program.

    Args:
        ranges: The ranges of its symbols by name.

    Attributes:
        shape_env: The shape environment.
        mode: The mode of its fake tensors.
        fresh: Unbacked symbols that no node of the current graph has bound yet. Whoever enters a subgraph replaces it.
    """

    def __init__(self, ranges: dict[str, program_schema.RangeConstraint]) -> None:
        self.shape_env = ShapeEnv(assume_static_by_default=True)
        self.mode = FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True, shape_env=self.shape_env)
        self.fresh: set[sympy.Symbol] = set()
        self._ranges = {name: _interval(name, bounds) for name, bounds in ranges.items()}
        # By their text, as torch has it: also expressions that are not symbols.
        self._known: dict[str, sympy.Expr] = {}
        self._ints: dict[bytes, Size] = {}
        self._offsets: dict[bytes, Size] = {}
        self._typical: dict[sympy.Expr, Any] = {}
        # Unbacked symbols that only storage offsets have named so far.
        self._in_offsets: set[sympy.Symbol] = set()
        self._reserve(ranges)

    def range_constraints(self) -> dict[sympy.Symbol, ValueRanges[sympy.Expr]]:
        """Return the ranges of the symbols that the program uses, once it is read."""
        return {self._known[name]: interval for name, interval in self._ranges.items() if name in self._known}

    def sym_int(self, raw: Raw) -> Size:
        """Return the value that a `SymInt` of the schema describes."""
        key = bytes(raw)
        found = self._ints.get(key)
        if found is None:
            found = self._ints[key] = self._int(_SYM_INT.decode(raw))
        return found

    def offset(self, raw: Raw) -> Size:
        """Return the storage offset that a `SymInt` of the schema describes.

        torch drops it. A symbol that occurs nowhere else, such as the number of steps of a while_loop, is bound by no node, and a
        hint of an offset tells the shape environment nothing.
        """
        key = bytes(raw)
        found = self._offsets.get(key)
        if found is None:
            fresh = self.fresh.copy()
            found = self._offsets[key] = self._int(_SYM_INT.decode(raw), in_offset=True)
            self._in_offsets |= self.fresh - fresh
            self.fresh &= fresh
        return found

    def sym_float(self, raw: Raw) -> float | torch.SymFloat:
        """Return the value that a `SymFloat` of the schema describes."""
        described = _SYM_FLOAT.decode(raw)
        _check(described)
        if described.as_expr is UNSET:
            return schema.number(described.as_float)  # type: ignore[arg-type]  # checked: one of the two is set
        hint = described.as_expr.hint
        value = None if hint is None else _hint(hint, "as_float")
        expression = self._expression(described.as_expr.expr_str, value)
        return self.shape_env.create_symfloatnode(expression, hint=value)

    def sym_bool(self, raw: Raw) -> bool | torch.SymBool:
        """Return the value that a `SymBool` of the schema describes."""
        described = _SYM_BOOL.decode(raw)
        _check(described)
        if described.as_expr is UNSET:
            return described.as_bool is True
        return self.shape_env.create_symboolnode(self._expression(described.as_expr.expr_str, None))

    def typical(self, value: Any) -> Any:
        """Return a number for a symbolic one: its hint, or what it is for unbacked symbols that are large and differ."""
        if not isinstance(value, SYMBOLIC):
            return value
        if (hint := hint_of(value)) is not None:
            return hint
        expression = raw_expression(value)
        found = self._typical.get(expression)
        if found is None:
            chosen = {symbol: self._choose(symbol) for symbol in expression.free_symbols}
            found = self._typical[expression] = python_type(value)(expression.subs(chosen))
        return found

    def _choose(self, symbol: sympy.Symbol) -> sympy.Expr:
        known = backed_values(self.shape_env).get(symbol)
        return sympy.Integer(1009 + 2 * split_symbol(str(symbol))[1]) if known is None else known

    def _int(self, described: schema.SymInt, *, in_offset: bool = False) -> Size:
        _check(described)
        if described.as_expr is UNSET:
            return described.as_int  # type: ignore[return-value]  # checked: one of the two is set
        hint = described.as_expr.hint
        value = None if hint is None else _hint(hint, "as_int")
        expression = self._expression(described.as_expr.expr_str, None if in_offset else value)
        return self.shape_env.create_symintnode(expression, hint=value)

    def _expression(self, text: str, hint: Any) -> sympy.Expr:
        try:
            return self._register(parse_expression(text), hint)
        # torch asserts that a hint lies in its symbol's range.
        except (AssertionError, ValueError, TypeError) as error:
            raise program_invalid(f"the expression `{shortened(text, 200)}` contradicts the others: {cause(error)}") from error

    def _register(self, expression: sympy.Expr, hint: Any = None) -> sympy.Expr:
        if expression.is_Integer or expression.is_Float or expression.is_Boolean:
            return expression
        text = str(expression)
        for argument in expression.args:
            self._register(argument)
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = expression
            if isinstance(known, sympy.Symbol):
                if symbol_is_type(known, _UNBACKED):
                    self.fresh.add(known)
                remember_stack(self.shape_env, known)
        if known in self._in_offsets:
            self._in_offsets.discard(known)
            self.fresh.add(known)
        if hint is not None and known not in backed_values(self.shape_env):
            self.shape_env.add_backed_var_to_val(known, hint)
        # Not of a derived size, as torch does: a shape environment whose ranges are not all of symbols cannot be decomposed under.
        if isinstance(known, sympy.Symbol) and (interval := self._ranges.get(text)):
            self.shape_env.constrain_symbol_range(known, compiler_min=interval.lower, compiler_max=interval.upper)
        return known

    def _reserve(self, names: dict[str, program_schema.RangeConstraint]) -> None:
        for name in names:
            # It is found by its text when a value has it.
            if is_derived_size(name):
                continue
            with format_errors(field="range_constraints"):
                kind, number = split_symbol(name)
            reserve_unbacked_symbol(self.shape_env, kind, number)


def _interval(name: str, bounds: program_schema.RangeConstraint) -> ValueRanges[sympy.Expr]:
    lower = -int_oo if bounds.min_val is None else sympy.Integer(bounds.min_val)
    upper = int_oo if bounds.max_val is None else sympy.Integer(bounds.max_val)
    if lower > upper:
        raise program_invalid(f"the range of the symbol `{shortened(name, 64)}` is empty: {lower} to {upper}")
    return ValueRanges(lower, upper)


def _check(union: schema.SymInt | schema.SymFloat | schema.SymBool) -> None:
    if not schema.only_member(union):
        raise program_invalid(f"a {type(union).__name__} must be either an expression or a number")


def _hint(hint: schema.SymExprHint, expected: str) -> Any:
    name, value = schema.member(hint)
    if name != expected:
        raise program_invalid(f"a hint is `{name}` where `{expected}` is expected")
    return schema.number(value) if expected == "as_float" else value
