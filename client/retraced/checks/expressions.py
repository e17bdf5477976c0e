"""Symbolic expressions, as `sympy.srepr` prints them. Stock torch gives them to `sympy.sympify`, which evaluates them as Python.

Nothing is computed here: a text is of the grammar below or not. That of the server's own reader is the same (tests compare them).
"""

from __future__ import annotations

import re
from typing import Any, Final

from retraced.checks.refusal import Refused, shown

_LONGEST: Final = 20_000
_DEEPEST: Final = 64
_MOST_UNBACKED: Final = 1_000_000
"""Torch counts up to the highest number of an unbacked symbol."""
_MOST_BITS: Final = 4_096
"""What a power can make stays under this many bits, whatever its symbols come to."""
_LARGEST_FLOAT: Final = 1e300

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d{1,40})|'(?P<text>[\w.+-]{1,64})'|(?P<mark>[(),=]))", re.ASCII
)
_SYMBOL: Final = re.compile(r"(s|u|zf|zuf|ps)(\d{1,9})", re.ASCII)
_TERM: Final = r"(\d{1,19}\*)?s\d{1,9}|\d{1,19}"
_DERIVED: Final = re.compile(rf"-?({_TERM})( [+-] ({_TERM})){{0,64}}", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII)
_ASSUMPTIONS: Final = frozenset(
    (
        *("integer", "real", "positive", "negative", "nonnegative", "nonpositive"),
        *("zero", "nonzero", "finite", "even", "odd", "rational"),
    )
)
_MANY: Final = 10_000
_OPAQUE: Final = ("acos", "asin", "asinh", "atan", "cos", "cosh", "exp", "log", "log2", "sin", "sinh", "sqrt", "tan", "tanh")

FUNCTIONS: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(("Add", "Mul", "And", "Or", "Piecewise"), (1, _MANY)),
    # They compare each argument with each other.
    **dict.fromkeys(("Max", "Min"), (1, 64)),
    **dict.fromkeys(("Not", "Abs", "floor", "ceiling", "CeilToInt", "FloorToInt", "TruncToFloat", "TruncToInt"), (1, 1)),
    **dict.fromkeys(("RoundToInt", "ToFloat", "Identity"), (1, 1)),
    **dict.fromkeys(("Pow", "ExprCondPair", "FloorDiv", "PythonMod", "Mod", "CleanDiv", "CeilDiv", "LShift", "RShift"), (2, 2)),
    **dict.fromkeys(("PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "RoundDecimal"), (2, 2)),
    **dict.fromkeys(("BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "BitwiseFn_bitwise_xor"), (2, 2)),
    **dict.fromkeys(("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"), (2, 2)),
    **dict.fromkeys(("ITE", "ModularIndexing", "Where"), (3, 3)),
    "IsNonOverlappingAndDenseIndicator": (2, 2 * 64),
    **{f"OpaqueUnaryFn_{name}": (1, 1) for name in _OPAQUE},
}
"""The functions of shape expressions, with how many arguments each takes, at least and at most."""
_POWERS: Final = frozenset(("Pow", "PowByNatural", "FloatPow", "LShift"))


def check_symbol(name: Any) -> None:
    """The name of a symbol, as torch makes them: `s77`, `u0`.

    Raises:
        Refused: It is none.
    """
    match = _SYMBOL.fullmatch(name) if type(name) is str else None
    if match is None:
        raise Refused(f"{shown(name)} is no name of a symbol")
    if match[1] in ("u", "zuf") and int(match[2]) >= _MOST_UNBACKED:
        raise Refused(f"the number of the symbol {shown(name)} is over {_MOST_UNBACKED}")


def check_size(name: Any) -> None:
    """What has a range of its own: a symbol, or a size derived from others, as sympy prints it: `2*s0 + 1`.

    Raises:
        Refused: It is neither.
    """
    if type(name) is not str or _DERIVED.fullmatch(name) is None:
        check_symbol(name)


def check_expression(text: Any) -> None:
    """A shape expression.

    Raises:
        Refused: It is not of the grammar, too long or deep, or could make numbers that no shape has.
    """
    if type(text) is not str or len(text) > _LONGEST:
        raise Refused(f"the expression {shown(text)} is not a text of at most {_LONGEST} characters")
    try:
        parser = _Parser(_tokens(text))
        parser.expression(0)
        parser.take("end")
    except Refused as refused:
        refused.what = f"the expression {shown(text)} cannot be taken: {refused.what}"
        raise


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise Refused(f"{shown(text[at:])} is not of its grammar")
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind]))
        at = match.end()
    tokens.append(("end", ""))
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def expression(self, depth: int) -> int:
        """Goes behind one expression, and bounds it: how many bits it has when its symbols come to nothing."""
        if depth > _DEEPEST:
            raise Refused(f"it is deeper than {_DEEPEST} calls")
        name = self.take("name")
        if name in ("true", "false"):
            return 1
        self.take("mark", "(")
        if name == "Symbol":
            bits = self._symbol()
        elif name == "Integer":
            bits = self._integer()
        elif name == "Rational":
            bits = self._integer()
            self.take("mark", ",")
            denominator = self._integer()
            if denominator == 1:
                raise Refused("a denominator in it is zero")
            bits += denominator
        elif name == "Float":
            bits = self._float()
        else:
            bits = self._call(name, depth)
        self.take("mark", ")")
        return bits

    def take(self, kind: str, value: str | None = None) -> str:
        """Goes behind one token."""
        found, taken = self._tokens[self._at]
        if found != kind or (value is not None and taken != value):
            raise Refused(f"{shown(taken) if taken else 'its end'} stands where {value or f'a {kind}'} is expected")
        self._at += 1
        return taken

    def _symbol(self) -> int:
        check_symbol(self.take("text"))
        seen = set()
        while self._tokens[self._at] == ("mark", ","):
            self._at += 1
            key = self.take("name")
            self.take("mark", "=")
            if key not in _ASSUMPTIONS or key in seen or self.take("name") not in ("True", "False"):
                raise Refused(f"{shown(key)} is no assumption on a symbol")
            seen.add(key)
        return 1

    def _integer(self) -> int:
        return (abs(int(self.take("number"))) + 1).bit_length()

    def _float(self) -> int:
        digits = self.take("text")
        if _FLOAT.fullmatch(digits) is None:
            raise Refused(f"{shown(digits)} is no number")
        self.take("mark", ",")
        self.take("name", "precision")
        self.take("mark", "=")
        if not 1 <= int(self.take("number")) <= 1_000:
            raise Refused("the precision of a number in it is not from 1 to 1000")
        value = abs(float(digits))
        return int(value).bit_length() + 1 if value < _LARGEST_FLOAT else _MOST_BITS

    def _call(self, name: str, depth: int) -> int:
        if name not in FUNCTIONS:
            raise Refused(f"{shown(name)} is no function of shape expressions")
        bits = [self.expression(depth + 1)]
        begins = self._at
        while self._tokens[self._at] == ("mark", ","):
            self._at += 1
            bits.append(self.expression(depth + 1))
        least, most = FUNCTIONS[name]
        if not least <= len(bits) <= most:
            raise Refused(f"{name} does not take {len(bits)} arguments")
        if name not in _POWERS:
            # A sum is no larger than the product of its parts, each counted with one more.
            return sum(bits)
        made = bits[0] * self._exponent(begins, bits[1])
        if made > _MOST_BITS:
            raise Refused("a power in it can become too large")
        return made + bits[0] if name == "LShift" else made

    def _exponent(self, begins: int, bits: int) -> int:
        match self._tokens[begins : self._at]:
            case [_, ("name", "Integer"), _, ("number", digits), _]:
                return max(abs(int(digits)), 1)
            case _:
                return 1 << min(bits, _MOST_BITS.bit_length())
