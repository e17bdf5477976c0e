"""Reads symbolic expressions, as `sympy.srepr` prints them, with a parser of their own: nothing is evaluated as Python.

torch gives the text to `sympy.sympify`, which does evaluate it. The grammar here is the part of `srepr` that shape expressions
use: calls of the sympy_functions in `_FUNCTIONS`, numbers, symbols named as torch names them, `true` and `false`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import sympy
from sympy.polys.polyerrors import BasePolynomialError

from retraced_server.program.errors import cause, program_invalid, program_unsupported, shortened
from retraced_server.program.options import DEEPEST_EXPRESSION, LONGEST_EXPRESSION, MOST_PRECISION, MOST_UNBACKED_SYMBOLS
from retraced_server.torch_compat.symbolic_shapes import int_oo, sympy_functions

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d{1,40})|'(?P<text>[\w.+-]{1,64})'|(?P<mark>[(),=]))", re.ASCII
)
_SYMBOL: Final = re.compile(r"(s|u|zf|zuf|ps)(\d{1,9})", re.ASCII)
_UNBACKED: Final = ("u", "zuf")
_TERM: Final = r"(\d{1,19}\*)?s\d{1,9}|\d{1,19}"
_DERIVED: Final = re.compile(rf"-?({_TERM})( [+-] ({_TERM})){{0,64}}", re.ASCII)
_ASSUMPTIONS: Final = frozenset(
    (
        "integer",
        "real",
        "positive",
        "negative",
        "nonnegative",
        "nonpositive",
        "zero",
        "nonzero",
        "finite",
        "even",
        "odd",
        "rational",
    )
)
_LARGEST_BITS: Final = 256
"""Numbers that arise while an expression is built stay under this many bits."""
_MOST_BITS: Final = 4096
"""Nor does what it computes need more, with 64 for each symbol in it."""
_MOST_TERMS: Final = 1024
"""Terms that it has when its products and powers are expanded, as torch and sympy do to compare, to simplify and to divide."""

_MOST_DIVIDED: Final = 1024
"""Terms that are divided, or divided by, times the symbols in them: sympy looks for common divisors in all symbols at once."""

# Anything that sympy makes; sympy has no types.
_Expr: TypeAlias = Any

_COMPARISONS: Final[dict[str, _Expr]] = {
    "Equality": sympy.Eq,
    "Unequality": sympy.Ne,
    "StrictLessThan": sympy.Lt,
    "LessThan": sympy.Le,
    "StrictGreaterThan": sympy.Gt,
    "GreaterThan": sympy.Ge,
}
_OPAQUE: Final = ("acos", "asin", "asinh", "atan", "cos", "cosh", "exp", "log", "log2", "sin", "sinh", "sqrt", "tan", "tanh")
_MANY: Final = 10_000
_FEW: Final = 64

# Each with how many arguments it takes, at least and at most. Max and Min are torch's, which sympify takes for sympy's own.
_FUNCTIONS: Final[dict[str, tuple[_Expr, int, int]]] = {
    "Add": (sympy.Add, 1, _MANY),
    "Mul": (sympy.Mul, 1, _MANY),
    "Pow": (sympy.Pow, 2, 2),
    "And": (sympy.And, 1, _MANY),
    "Or": (sympy.Or, 1, _MANY),
    "Not": (sympy.Not, 1, 1),
    "ITE": (sympy.ITE, 3, 3),
    "Abs": (sympy.Abs, 1, 1),
    "floor": (sympy.floor, 1, 1),
    "ceiling": (sympy.ceiling, 1, 1),
    "Piecewise": (sympy.Piecewise, 1, _MANY),
    "ExprCondPair": (sympy.functions.elementary.piecewise.ExprCondPair, 2, 2),
    # They compare each argument with each other.
    "Max": (sympy_functions.Max, 1, _FEW),
    "Min": (sympy_functions.Min, 1, _FEW),
    "FloorDiv": (sympy_functions.FloorDiv, 2, 2),
    "ModularIndexing": (sympy_functions.ModularIndexing, 3, 3),
    "Where": (sympy_functions.Where, 3, 3),
    "PythonMod": (sympy_functions.PythonMod, 2, 2),
    "Mod": (sympy_functions.Mod, 2, 2),
    "CleanDiv": (sympy_functions.CleanDiv, 2, 2),
    "CeilToInt": (sympy_functions.CeilToInt, 1, 1),
    "FloorToInt": (sympy_functions.FloorToInt, 1, 1),
    "CeilDiv": (sympy_functions.CeilDiv, 2, 2),
    "LShift": (sympy_functions.LShift, 2, 2),
    "RShift": (sympy_functions.RShift, 2, 2),
    "PowByNatural": (sympy_functions.PowByNatural, 2, 2),
    "FloatPow": (sympy_functions.FloatPow, 2, 2),
    "FloatTrueDiv": (sympy_functions.FloatTrueDiv, 2, 2),
    "IntTrueDiv": (sympy_functions.IntTrueDiv, 2, 2),
    "IsNonOverlappingAndDenseIndicator": (sympy_functions.IsNonOverlappingAndDenseIndicator, 2, 2 * 64),
    "TruncToFloat": (sympy_functions.TruncToFloat, 1, 1),
    "TruncToInt": (sympy_functions.TruncToInt, 1, 1),
    "RoundToInt": (sympy_functions.RoundToInt, 1, 1),
    "RoundDecimal": (sympy_functions.RoundDecimal, 2, 2),
    "ToFloat": (sympy_functions.ToFloat, 1, 1),
    "Identity": (sympy_functions.Identity, 1, 1),
    "BitwiseFn_bitwise_and": (sympy_functions.BitwiseFn_bitwise_and, 2, 2),
    "BitwiseFn_bitwise_or": (sympy_functions.BitwiseFn_bitwise_or, 2, 2),
    "BitwiseFn_bitwise_xor": (sympy_functions.BitwiseFn_bitwise_xor, 2, 2),
    **{f"OpaqueUnaryFn_{name}": (getattr(sympy_functions, f"OpaqueUnaryFn_{name}"), 1, 1) for name in _OPAQUE},
    **{name: (function, 2, 2) for name, function in _COMPARISONS.items()},
}
_DIVISIONS: Final = frozenset(
    ("FloorDiv", "ModularIndexing", "PythonMod", "Mod", "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv")
)
_CHEAP_OF_SUMS: Final = frozenset(("FloorDiv", "ModularIndexing", "Mod", "CleanDiv", "IntTrueDiv"))
"""Those of them that take a sum of many sizes and a number no longer than the sum itself."""
_FLATTENED: Final = frozenset(("Add", "Mul", "And", "Or", "Max", "Min"))
"""Functions of which one in another of the same becomes one, with the arguments of both."""
# What sympy_functions make of a division by zero and the like.
_INFINITE: Final = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan, int_oo, -int_oo)
# All others are of numbers. sympy takes truth values there too, and warns that it will not for long.
_OF_TRUTH_VALUES: Final = frozenset(("And", "Or", "Not", "ITE", "Piecewise", "ExprCondPair", "Where", "Equality", "Unequality"))
# Of these, a small text makes a large number; the second argument is what counts.
_POWERS: Final = frozenset(("Pow", "PowByNatural", "FloatPow", "LShift"))


def split_symbol(name: str) -> tuple[str, int]:
    """Splits the name of a symbol into its kind and number, `u` and 3 for `u3`.

    Raises:
        RetracedError: PROGRAM_INVALID where torch has no such name.
    """
    match = _SYMBOL.fullmatch(name)
    if match is None:
        raise program_invalid(f"`{shortened(name, 64)}` is no name of a symbol")
    return match[1], int(match[2])


def is_derived_size(name: str) -> bool:
    """Whether a name in range constraints is that of a size derived from another one (`Dim("n") + 1`), as sympy prints it: `2*s0 + 1`."""
    return _SYMBOL.fullmatch(name) is None and _DERIVED.fullmatch(name) is not None


def parse_expression(text: str) -> _Expr:
    """Makes the sympy expression that a text of `sympy.srepr` stands for.

    Raises:
        RetracedError: PROGRAM_INVALID where the text is not of the grammar above, or would make numbers that no shape has;
            PROGRAM_UNSUPPORTED where it is too long or too deep.
    """
    if len(text) > LONGEST_EXPRESSION:
        raise _unsupported(text, f"it has {len(text)} characters, and {LONGEST_EXPRESSION} are the most")
    parser = _Parser(text)
    try:
        expression = parser.expression(0)
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
    parser.end()
    if expression.has(*_INFINITE):
        raise _invalid(text, "it is not finite")
    return expression


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._kind = self._value = ""
        self._bits: dict[_Expr, int] = {}
        self._expanded: dict[_Expr, int] = {}
        self._advance()

    def expression(self, depth: int) -> _Expr:
        """Reads one expression; the position is behind it afterwards."""
        if depth > DEEPEST_EXPRESSION:
            raise _unsupported(self._text, f"it is deeper than {DEEPEST_EXPRESSION} calls")
        name = self._take("name")
        if name == "true":
            return sympy.true
        if name == "false":
            return sympy.false
        self._take("mark", "(")
        if name in _LITERALS:
            made = _LITERALS[name](self)
        elif name in _FUNCTIONS:
            made = self._call(name, depth)
        else:
            raise _invalid(self._text, f"`{shortened(name, 64)}` is no function of shape expressions")
        self._take("mark", ")")
        if made.is_Integer and int(made).bit_length() > _LARGEST_BITS:
            raise _unsupported(self._text, "a number in it is too large")
        if self._size(made) > _MOST_BITS:
            raise _unsupported(self._text, "what it computes is too large")
        if self._terms(made) > _MOST_TERMS:
            raise _unsupported(self._text, f"it has more than {_MOST_TERMS} terms when its products are expanded")
        return made

    def end(self) -> None:
        """Checks that nothing follows."""
        if self._kind:
            raise _invalid(self._text, f"`{shortened(self._value, 64)}` follows its end")

    def symbol(self) -> _Expr:
        name = self._take("text")
        kind, number = split_symbol(name)
        if kind in _UNBACKED and number >= MOST_UNBACKED_SYMBOLS:
            raise _unsupported(self._text, f"the number of `{name}` is over {MOST_UNBACKED_SYMBOLS}")
        assumptions: dict[str, bool] = {}
        while self._value == ",":
            self._advance()
            key = self._take("name")
            self._take("mark", "=")
            value = self._take("name")
            if key not in _ASSUMPTIONS or key in assumptions or value not in ("True", "False"):
                raise _invalid(self._text, f"`{shortened(key, 64)}={shortened(value, 64)}` is no assumption on a symbol")
            assumptions[key] = value == "True"
        return sympy.Symbol(name, **assumptions)

    def integer(self) -> _Expr:
        return sympy.Integer(int(self._take("number")))

    def rational(self) -> _Expr:
        numerator = int(self._take("number"))
        self._take("mark", ",")
        denominator = int(self._take("number"))
        if denominator == 0:
            raise _invalid(self._text, "a denominator in it is zero")
        return sympy.Rational(numerator, denominator)

    def float(self) -> _Expr:
        digits = self._take("text")
        for part in (",", "precision", "="):
            self._take("name" if part == "precision" else "mark", part)
        precision = int(self._take("number"))
        value = float(digits)
        if not 1 <= precision <= MOST_PRECISION or value in (float("inf"), float("-inf")) or value != value:
            raise _invalid(self._text, f"`{shortened(digits, 64)}` is no floating-point number of a shape expression")
        return sympy.Float(digits, precision=precision)

    def _call(self, name: str, depth: int) -> _Expr:
        function, least, most = _FUNCTIONS[name]
        arguments = [self.expression(depth + 1)]
        while self._value == "," and self._kind == "mark":
            self._advance()
            arguments.append(self.expression(depth + 1))
        # What becomes one is compared, and written, with all of their arguments.
        flattened = name in _FLATTENED
        count = sum(len(argument.args) if flattened and argument.func is function else 1 for argument in arguments)
        if not least <= count <= most:
            refused = _unsupported if flattened and count > most else _invalid
            raise refused(self._text, f"`{name}` does not take {count} arguments")
        if name not in _OF_TRUTH_VALUES and not all(isinstance(argument, sympy.Expr) for argument in arguments):
            raise _invalid(self._text, f"`{name}` is a function of numbers")
        if name in _POWERS:
            self._bound_power(name, *arguments)
        if name in _DIVISIONS:
            symbols = set[_Expr]().union(*(argument.free_symbols for argument in arguments))
            is_cheap = name in _CHEAP_OF_SUMS and _is_sum_over_numbers(arguments)
            if not is_cheap and sum(map(self._terms, arguments)) * len(symbols) > _MOST_DIVIDED:
                raise _unsupported(self._text, "a division in it is of too many terms")
        made = function(*arguments)
        if name.startswith("OpaqueUnaryFn_") and made.is_number and not made.is_Atom:
            # Of a number torch computes it, unless no floating-point number holds the result.
            raise _invalid(self._text, "what it computes is too large")
        return made

    def _bound_power(self, name: str, base: _Expr, exponent: _Expr) -> None:
        if not exponent.is_number:
            # torch's own sympy_functions of symbolic exponents are bounded; the power of sympy is not.
            if name == "Pow":
                raise _invalid(self._text, "the exponent of a power in it is no number")
            return
        size = int(base).bit_length() if base.is_Integer else 1
        if abs(exponent) * max(size, 1) > _LARGEST_BITS or abs(exponent) * self._size(base) > _MOST_BITS:
            raise _unsupported(self._text, "a power in it is too large")

    def _size(self, expression: _Expr) -> int:
        """How many bits a value of an expression has, roughly and at most."""
        known = self._bits.get(expression)
        if known is None:
            sizes = [self._size(argument) for argument in expression.args]
            if not sizes:
                known = int(expression).bit_length() if expression.is_Integer else 64
            elif expression.func.__name__ in _POWERS and expression.args[1].is_number:
                known = sizes[0] * (int(abs(expression.args[1])) + 1)
            else:
                known = sum(sizes) if expression.is_Mul else max(sizes)
            self._bits[expression] = known
        return known

    def _terms(self, expression: _Expr) -> int:
        """Bound the number of terms that an expression expands to, from above; what is no sum, product or power is one term."""
        known = self._expanded.get(expression)
        if known is None:
            if expression.is_Add:
                known = sum(map(self._terms, expression.args))
            elif expression.is_Mul:
                known = math.prod(map(self._terms, expression.args))
            elif expression.is_Pow and expression.exp.is_Integer:
                # The monomials of that degree in as many unknowns as the base has terms.
                degree = abs(int(expression.exp))
                known = math.comb(self._terms(expression.base) + degree - 1, degree)
            else:
                known = 1
            # What is over the bound is refused, and need not be exact.
            self._expanded[expression] = known = min(known, _MOST_TERMS + 1)
        return known

    def _take(self, kind: str, value: str | None = None) -> str:
        if self._kind != kind or (value is not None and self._value != value):
            found = f"`{shortened(self._value, 64)}` stands" if self._kind else "it ends"
            raise _invalid(self._text, f"{found} where {f'`{value}`' if value else f'a {kind}'} is expected")
        taken = self._value
        self._advance()
        return taken

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            rest = self._text[self._at :].strip()
            if rest:
                raise _invalid(self._text, f"`{shortened(rest, 64)}` is not of its grammar")
            self._kind = self._value = ""
            return
        self._at = match.end()
        self._kind = match.lastgroup or ""
        self._value = match[self._kind]


_LITERALS: Final[dict[str, Callable[[_Parser], _Expr]]] = {
    "Symbol": _Parser.symbol,
    "Integer": _Parser.integer,
    "Rational": _Parser.rational,
    "Float": _Parser.float,
}


def _is_sum_over_numbers(arguments: list[_Expr]) -> bool:
    """Return whether a sum of symbols, each with a number for a factor, is divided by numbers."""
    divided, *divisors = arguments
    return all(divisor.is_Integer for divisor in divisors) and all(
        term.is_Integer or (term.as_coeff_Mul()[0].is_Integer and term.as_coeff_Mul()[1].is_Symbol)
        for term in sympy.Add.make_args(divided)
    )


def _invalid(text: str, what: str) -> Exception:
    return program_invalid(f"the expression `{shortened(text, 200)}` cannot be read: {what}")


def _unsupported(text: str, what: str) -> Exception:
    return program_unsupported(f"the expression `{shortened(text, 200)}` is not read: {what}")
