"""Makes sympy expressions of the texts that `sympy.srepr` prints, bounded in what they compute; the grammar is `retraced_pt2.expressions`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import sympy
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.polys.polyerrors import BasePolynomialError

from retraced_pt2.errors import Fault, invalid, unsupported
from retraced_pt2.expressions import FLATTENED, FUNCTIONS, POWERS, expression_fault, read_expression
from retraced_server.program.errors import cause, format_errors, program_invalid
from retraced_server.torch_compat.symbolic_shapes import int_oo, sympy_functions

_LARGEST_BITS: Final = 256
"""Numbers that arise while an expression is built stay under this many bits."""
_MOST_BITS: Final = 4096
"""Nor does what it computes need more, with 64 for each symbol in it."""
MOST_TERMS: Final = 1024
"""Terms that it, or an expression in it, has when products and powers are expanded, as torch and sympy do to compare, simplify and divide."""
MOST_NODES: Final = 16_384
"""Nodes of the tree that it is then. Each term repeats the factors that do not expand, a piecewise function with all its relations among
them, and torch substitutes, bounds and brings into canonical form what stands in each."""

_MOST_DIVIDED: Final = 1024
"""Terms that are divided, or divided by, times the symbols in them: sympy looks for common divisors in all symbols at once."""

# Anything that sympy makes; sympy has no types.
_Expr: TypeAlias = Any

# Max, Min and Mod are torch's, which sympify takes for sympy's own.
_FUNCTIONS: Final[dict[str, _Expr]] = {
    "ExprCondPair": ExprCondPair,
    **{name: getattr(sympy_functions, name, None) or getattr(sympy, name) for name in FUNCTIONS if name != "ExprCondPair"},
}
_DIVISIONS: Final = frozenset(
    ("FloorDiv", "ModularIndexing", "PythonMod", "Mod", "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv")
)
_CHEAP_OF_SUMS: Final = frozenset(("FloorDiv", "ModularIndexing", "Mod", "CleanDiv", "IntTrueDiv"))
"""Those of them that take a sum of many sizes and a number no longer than the sum itself."""
# What functions make of a division by zero and the like.
_INFINITE: Final = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan, int_oo, -int_oo)
# All others are of numbers. sympy takes truth values there too, and warns that it will not for long.
_OF_TRUTH_VALUES: Final = frozenset(("And", "Or", "Not", "ITE", "Piecewise", "ExprCondPair", "Where", "Equality", "Unequality"))


def parse_expression(text: str) -> _Expr:
    """Return the sympy expression that a text of `sympy.srepr` stands for.

    Raises:
        RetracedError: PROGRAM_INVALID where the text is not of the grammar, or would make numbers that no shape has;
            PROGRAM_UNSUPPORTED where it is too long or too deep, or would make sympy work without end.
    """
    try:
        with format_errors():
            expression = read_expression(text, _SympyBuilder())
    # What sympy makes of arguments that do not fit a function.
    except (
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        NotImplementedError,
        RecursionError,
        BasePolynomialError,
    ) as error:
        raise _invalid(text, cause(error)) from error
    if expression.has(*_INFINITE):
        raise _invalid(text, "it is not finite")
    return expression


class _SympyBuilder:
    def __init__(self) -> None:
        self._bits: dict[_Expr, int] = {}
        self._expanded: dict[_Expr, Expanded] = {}

    def truth(self, value: bool) -> _Expr:
        return sympy.true if value else sympy.false

    def symbol(self, name: str, assumptions: dict[str, bool]) -> _Expr:
        return sympy.Symbol(name, **assumptions)

    def integer(self, value: int) -> _Expr:
        return sympy.Integer(value)

    def rational(self, numerator: int, denominator: int) -> _Expr:
        return sympy.Rational(numerator, denominator)

    def float(self, digits: str, precision: int) -> _Expr:
        return sympy.Float(digits, precision=precision)

    def call(self, function: str, arguments: list[_Expr]) -> _Expr:
        made_by = _FUNCTIONS[function]
        if function in FLATTENED:
            # What becomes one is compared, and written, with all of their arguments.
            count = sum(len(argument.args) if argument.func is made_by else 1 for argument in arguments)
            if count > FUNCTIONS[function][1]:
                raise unsupported(f"`{function}` does not take {count} arguments")
        if function not in _OF_TRUTH_VALUES and not all(isinstance(argument, sympy.Expr) for argument in arguments):
            raise invalid(f"`{function}` is a function of numbers")
        if function in POWERS:
            self._bound_power(function, *arguments)
        if function in _DIVISIONS:
            symbols = set[_Expr]().union(*(argument.free_symbols for argument in arguments))
            is_cheap = function in _CHEAP_OF_SUMS and _is_sum_over_numbers(arguments)
            if not is_cheap and sum(self.expanded(argument).terms for argument in arguments) * len(symbols) > _MOST_DIVIDED:
                raise unsupported("a division in it is of too many terms")
        made = made_by(*arguments)
        if function.startswith("OpaqueUnaryFn_") and made.is_number and not made.is_Atom:
            # Of a number torch computes it, unless no floating-point number holds the result.
            raise invalid("what it computes is too large")
        if made.is_Integer and int(made).bit_length() > _LARGEST_BITS:
            raise unsupported("a number in it is too large")
        if self._size(made) > _MOST_BITS:
            raise unsupported("what it computes is too large")
        if excess := self.expanded(made).excess:
            raise unsupported(f"it has {excess} when its products are expanded")
        return made

    def _bound_power(self, name: str, base: _Expr, exponent: _Expr) -> None:
        if not exponent.is_number:
            # torch's own sympy_functions of symbolic exponents are bounded; the power of sympy is not.
            if name == "Pow":
                raise invalid("the exponent of a power in it is no number")
            return
        size = int(base).bit_length() if base.is_Integer else 1
        if abs(exponent) * max(size, 1) > _LARGEST_BITS or abs(exponent) * self._size(base) > _MOST_BITS:
            raise unsupported("a power in it is too large")

    def _size(self, expression: _Expr) -> int:
        """How many bits a value of an expression has, roughly and at most."""
        known = self._bits.get(expression)
        if known is None:
            sizes = [self._size(argument) for argument in expression.args]
            if not sizes:
                known = int(expression).bit_length() if expression.is_Integer else 64
            elif expression.func.__name__ in POWERS and expression.args[1].is_number:
                known = sizes[0] * (int(abs(expression.args[1])) + 1)
            else:
                known = sum(sizes) if expression.is_Mul else max(sizes)
            self._bits[expression] = known
        return known

    def expanded(self, expression: _Expr) -> Expanded:
        """Bound what an expression expands to, from above; what is no sum, product or power is one term."""
        known = self._expanded.get(expression)
        if known is None:
            known = _weighed(self._expand(expression), [expression])
            # What is over a bound is refused, and need not be exact.
            known = known._replace(terms=min(known.terms, MOST_TERMS + 1), nodes=min(known.nodes, MOST_NODES + 1))
            self._expanded[expression] = known
        return known

    def _expand(self, expression: _Expr) -> Expanded:
        if expression.is_Symbol:
            # torch writes a symbol as what it is at least and the rest.
            return Expanded(2, 2, 1)
        if not expression.args:
            return Expanded(1, 1, 0)
        parts = [self.expanded(argument) for argument in expression.args]
        terms, nodes, degrees = ([part[field] for part in parts] for field in range(3))
        if expression.is_Add:
            # Numbers become one.
            return Expanded(1 + sum(terms) - len(terms), 1 + sum(nodes), max(degrees))
        if expression.is_Mul:
            return _product(parts)
        if expression.is_Pow and expression.exp.is_Integer:
            # The monomials of that degree in as many unknowns as the base has terms.
            base, power = parts[0], abs(int(expression.exp))
            count = math.comb(base.terms + power - 1, power)
            return Expanded(count, count + count * min(power, base.terms) * base.nodes // base.terms, base.degree * power)
        # It is one term, but not where an expression in it is over the bound: sympy draws powers into some functions.
        return Expanded(max((count for count in terms if count > MOST_TERMS), default=1), 1 + sum(nodes), max(degrees))


class Expanded(NamedTuple):
    """What an expression is when the products and powers in it are expanded.

    Attributes:
        terms: How many terms it has.
        nodes: How many nodes the tree of its terms has, or as many as make the same work.
        degree: Its degree as a polynomial.
    """

    terms: int
    nodes: int
    degree: int

    @property
    def excess(self) -> str:
        """What is more of it than torch and sympy can work with in little time, such as "more than 1024 terms"; empty where nothing is."""
        if self.terms > MOST_TERMS:
            return f"more than {MOST_TERMS} terms"
        return f"more than {MOST_NODES} parts" if self.nodes > MOST_NODES else ""


def expanded_product(factors: Sequence[_Expr]) -> Expanded:
    """Bound what the product of expressions expands to, from above; what is over the bounds need not be exact."""
    builder = _SympyBuilder()
    return _weighed(_product([builder.expanded(factor) for factor in factors]), factors)


def _product(parts: Sequence[Expanded]) -> Expanded:
    # Each term has one term of each factor.
    count = math.prod(part.terms for part in parts)
    nodes = count + sum(count // part.terms * part.nodes for part in parts)
    return Expanded(count, nodes, sum(part.degree for part in parts))


def _weighed(expanded: Expanded, factors: Sequence[_Expr]) -> Expanded:
    """Count a polynomial in one unknown as what it takes sympy to find its roots, and those of its derivatives, which tell its sign."""
    if expanded.degree**3 <= expanded.nodes or len(set[_Expr]().union(*(factor.free_symbols for factor in factors))) != 1:
        return expanded
    return expanded._replace(nodes=expanded.degree**3)


def _is_sum_over_numbers(arguments: list[_Expr]) -> bool:
    """Return whether a sum of symbols, each with a number for a factor, is divided by numbers."""
    divided, *divisors = arguments
    return all(divisor.is_Integer for divisor in divisors) and all(
        term.is_Integer or (term.as_coeff_Mul()[0].is_Integer and term.as_coeff_Mul()[1].is_Symbol)
        for term in sympy.Add.make_args(divided)
    )


def _invalid(text: str, what: str) -> Exception:
    return program_invalid(f"{expression_fault(text, Fault.PROGRAM_INVALID)}: {what}")
