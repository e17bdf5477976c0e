"""Symbolic expressions as people write them: `2*s77 + 1` for `Add(Mul(Integer(2), Symbol('s77')), Integer(1))`.

Operators have Python's meaning and precedence; what Python has no operator for stays a call by its name in the file. Terms stay in the order of
the file.
"""

from __future__ import annotations

from typing import Final

from retraced_pt2.expressions import read_expression

# How tightly the outermost operator of a text binds.
_LOGIC, _COMPARISON, _SUM, _PRODUCT, _POWER, _ATOM = range(6)

_INFIX: Final = {
    "Equality": (" == ", _COMPARISON),
    "Unequality": (" != ", _COMPARISON),
    "StrictLessThan": (" < ", _COMPARISON),
    "LessThan": (" <= ", _COMPARISON),
    "StrictGreaterThan": (" > ", _COMPARISON),
    "GreaterThan": (" >= ", _COMPARISON),
    "And": (" and ", _LOGIC),
    "Or": (" or ", _LOGIC),
    "FloorDiv": ("//", _PRODUCT),
    "IntTrueDiv": ("/", _PRODUCT),
    "FloatTrueDiv": ("/", _PRODUCT),
    "Pow": ("**", _POWER),
    "PowByNatural": ("**", _POWER),
    "FloatPow": ("**", _POWER),
}
_PREFIXES: Final = ("OpaqueUnaryFn_", "BitwiseFn_")

_Text = tuple[str, int]
"""A text, and how tightly its outermost operator binds."""


def expression_text(text: str) -> str:
    """Return a text of `sympy.srepr` as people write it.

    Raises:
        FormatError: The text is not of the grammar (`retraced_pt2.expressions`), too long or too deep.
    """
    return read_expression(text, _TextBuilder())[0]


class _TextBuilder:
    def truth(self, value: bool) -> _Text:
        return str(value), _ATOM

    def symbol(self, name: str, assumptions: dict[str, bool]) -> _Text:
        return name, _ATOM

    def integer(self, value: int) -> _Text:
        return _number(str(value))

    def rational(self, numerator: int, denominator: int) -> _Text:
        return f"{numerator}/{denominator}", _PRODUCT

    def float(self, digits: str, precision: int) -> _Text:
        return _number(repr(float(digits)))

    def call(self, function: str, arguments: list[_Text]) -> _Text:
        if function == "Add":
            return _sum(arguments), _SUM
        if function == "Mul":
            return _product(arguments), _PRODUCT
        if function == "Not":
            return f"not {_within(arguments[0], _LOGIC)}", _LOGIC
        if function in _INFIX:
            operator, level = _INFIX[function]
            return operator.join(_within(argument, level) for argument in arguments), level
        for prefix in _PREFIXES:
            function = function.removeprefix(prefix)
        return f"{function}({', '.join(text for text, _ in arguments)})", _ATOM


def _number(text: str) -> _Text:
    return text, _PRODUCT if text.startswith("-") else _ATOM


def _within(argument: _Text, level: int) -> str:
    """Return a text as an operand of an operator, in parentheses where it does not bind more tightly than that."""
    text, own = argument
    return text if own > level else f"({text})"


def _sum(terms: list[_Text]) -> str:
    first, *rest = (_within(term, _SUM) for term in terms)
    return first + "".join(f" - {term[1:]}" if term.startswith("-") else f" + {term}" for term in rest)


def _product(factors: list[_Text]) -> str:
    (first, _), *rest = factors
    joined = "*".join(_within(factor, _PRODUCT) for factor in rest)
    if first == "-1" and rest:
        return f"-{joined}"
    # A number with a sign may begin a product.
    beginning = first if first.removeprefix("-").isdigit() else _within(factors[0], _PRODUCT)
    return f"{beginning}*{joined}" if rest else beginning
