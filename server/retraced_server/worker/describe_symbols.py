"""What is known of a symbolic expression: its value at export and its bounds by the program's constraints."""

from __future__ import annotations

from collections.abc import Mapping

import sympy

from retraced_server.torch_compat.symbolic_shapes import ValueRanges, bound_sympy, int_oo

Ranges = Mapping[sympy.Symbol, ValueRanges[sympy.Expr]]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

# What bounding an expression with functions or ranges that torch cannot bound can raise. Bounds are extras: it has none then.
_CANNOT_BOUND = (RuntimeError, LookupError, ArithmeticError, TypeError, ValueError, AttributeError, AssertionError)


def hint(expression: sympy.Basic, type_: type, values: Mapping[sympy.Symbol, sympy.Basic]) -> int | float | bool | None:
    """Evaluate an expression with the values that its symbols had at export.

    Args:
        expression: An expression, without replacements to be made.
        type_: The Python type that it stands for: int, float or bool.
        values: The symbols' values at export.

    Returns:
        The value; None where a symbol has none, or an integer does not fit in 64 bits.
    """
    try:
        result = expression.xreplace(values)
    except ArithmeticError:
        return None
    if type_ is bool:
        return {sympy.true: True, sympy.false: False}.get(result)
    if not (isinstance(result, sympy.Expr) and result.is_number and result.is_extended_real):
        return None
    if type_ is float:
        return float(result)
    number = int(result) if result.is_Integer else None
    return number if number is not None and INT64_MIN <= number <= INT64_MAX else None


def bounds(expression: sympy.Basic, ranges: Ranges) -> tuple[int | None, int | None]:
    """Bound an integer expression by the program's range constraints.

    Returns:
        The lower and the upper bound; None for one that is infinite or past 64 bits, so says nothing.
    """
    if isinstance(expression, sympy.Symbol):
        range_ = ranges.get(expression)
    else:
        try:
            range_ = bound_sympy(expression, dict(ranges))
        except _CANNOT_BOUND:
            range_ = None
    if range_ is None:
        return None, None
    return _int64(range_.lower), _int64(range_.upper)


def bound_text(bound: sympy.Basic) -> str | None:
    """Write a bound of a range; None for one that is infinite."""
    return None if bound in (int_oo, -int_oo, sympy.oo, -sympy.oo) else str(bound)


def _int64(bound: sympy.Basic) -> int | None:
    if not isinstance(bound, sympy.Integer):
        return None
    number = int(bound)
    return number if INT64_MIN <= number <= INT64_MAX else None
