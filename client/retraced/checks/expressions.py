"""Symbolic expressions: those of the grammar that could make no number that no shape has. Stock torch evaluates them as Python."""

from __future__ import annotations

from typing import Any, Final

from retraced.checks.refusal import Refused, shown
from retraced_pt2.expressions import POWERS, is_derived_size, read_expression, split_symbol

_MOST_BITS: Final = 4_096
"""What a power can make stays under this many bits, whatever its symbols come to."""
_LARGEST_FLOAT: Final = 1e300

_Bound = tuple[int, int | None]
"""How many bits something has when its symbols come to nothing; and what it is, of an integer."""


def check_size(name: Any) -> None:
    """Check what has a range of its own: a symbol, or a size derived from others, as sympy prints it: `2*s0 + 1`.

    Raises:
        FormatError: It is neither.
    """
    if type(name) is not str:
        raise Refused(f"{shown(name)} is no name of a symbol")
    if not is_derived_size(name):
        split_symbol(name)


def check_expression(text: Any) -> None:
    """Check a shape expression.

    Raises:
        FormatError: It is not of the grammar, too long or deep, or could make numbers that no shape has.
    """
    if type(text) is not str:
        raise Refused(f"{shown(text)} is no expression")
    read_expression(text, _Bounds())


class _Bounds:
    """Bounds what sympy would compute, without computing it."""

    def truth(self, value: bool) -> _Bound:
        return 1, None

    def symbol(self, name: str, assumptions: dict[str, bool]) -> _Bound:
        return 1, None

    def integer(self, value: int) -> _Bound:
        return (abs(value) + 1).bit_length(), value

    def rational(self, numerator: int, denominator: int) -> _Bound:
        return self.integer(numerator)[0] + self.integer(denominator)[0], None

    def float(self, digits: str, precision: int) -> _Bound:
        value = abs(float(digits))
        return int(value).bit_length() + 1 if value < _LARGEST_FLOAT else _MOST_BITS, None

    def call(self, function: str, arguments: list[_Bound]) -> _Bound:
        if function not in POWERS:
            # A sum is no larger than the product of its parts, each counted with one more.
            return sum(bits for bits, _ in arguments), None
        (base, _), (bits, exponent) = arguments
        largest = 1 << min(bits, _MOST_BITS.bit_length()) if exponent is None else max(abs(exponent), 1)
        if base * largest > _MOST_BITS:
            raise Refused("a power in it can become too large")
        return base * largest + base * (function == "LShift"), None
