"""The grammar of symbolic expressions, as `sympy.srepr` prints them; nothing is evaluated as Python.

torch gives the text to `sympy.sympify`, which does evaluate it. The grammar is the part of `srepr` that shape expressions use: calls of the
functions in `FUNCTIONS`, numbers, symbols named as torch names them, `true` and `false`. What is made of them is the builder's.
"""

from __future__ import annotations

import re
from typing import Final, Generic, Protocol, TypeVar

from retraced_pt2.errors import Fault, FormatError, invalid, shortened, unsupported
from retraced_pt2.limits import DEEPEST_EXPRESSION, LONGEST_EXPRESSION, MOST_PRECISION, MOST_UNBACKED_SYMBOLS

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d{1,40})|'(?P<text>[\w.+-]{1,64})'|(?P<mark>[(),=]))", re.ASCII
)
_SYMBOL: Final = re.compile(r"(s|u|zf|zuf|ps)(\d{1,9})", re.ASCII)
_UNBACKED: Final = ("u", "zuf")
_TERM: Final = r"(\d{1,19}\*)?s\d{1,9}|\d{1,19}"
_DERIVED: Final = re.compile(rf"-?({_TERM})( [+-] ({_TERM})){{0,64}}", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII)
_INFINITE: Final = (float("inf"), float("-inf"))
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
FLATTENED: Final = frozenset(("Add", "Mul", "And", "Or", "Max", "Min"))
"""Of these, one in another of the same becomes one, with the arguments of both."""
POWERS: Final = frozenset(("Pow", "PowByNatural", "FloatPow", "LShift"))
"""Of these, a small text makes a large number; the second argument is what counts."""

_Built = TypeVar("_Built")


class ExpressionBuilder(Protocol[_Built]):
    """Makes something of an expression, from its leaves to its root. Each method may raise a `FormatError`."""

    def truth(self, value: bool) -> _Built:
        """Build `true` or `false`."""
        ...

    def symbol(self, name: str, assumptions: dict[str, bool]) -> _Built:
        """Return a symbol, with what is assumed of it."""
        ...

    def integer(self, value: int) -> _Built:
        """Return an integer."""
        ...

    def rational(self, numerator: int, denominator: int) -> _Built:
        """Return a fraction, whose denominator is not zero."""
        ...

    def float(self, digits: str, precision: int) -> _Built:
        """Return a floating-point number, with its precision in bits."""
        ...

    def call(self, function: str, arguments: list[_Built]) -> _Built:
        """Return a call of one of `FUNCTIONS`, with as many arguments as it takes."""
        ...


def split_symbol(name: str) -> tuple[str, int]:
    """Return the kind and number of a symbol by its name, `u` and 3 for `u3`.

    Raises:
        FormatError: PROGRAM_INVALID where torch has no such name, PROGRAM_UNSUPPORTED where the number is too large.
    """
    match = _SYMBOL.fullmatch(name)
    if match is None:
        raise invalid(f"`{shortened(name, 64)}` is no name of a symbol")
    number = int(match[2])
    if number >= MOST_UNBACKED_SYMBOLS and match[1] in _UNBACKED:
        raise unsupported(f"the symbol `{name}` has a number over {MOST_UNBACKED_SYMBOLS}")
    return match[1], number


def is_derived_size(name: str) -> bool:
    """Return whether a name in range constraints is that of a size derived from another one, as sympy prints it: `2*s0 + 1`."""
    return _SYMBOL.fullmatch(name) is None and _DERIVED.fullmatch(name) is not None


def read_expression(text: str, builder: ExpressionBuilder[_Built]) -> _Built:
    """Return what a builder makes of a text of `sympy.srepr`.

    Raises:
        FormatError: PROGRAM_INVALID where the text is not of the grammar above, PROGRAM_UNSUPPORTED where it is too long or too deep; or what
            the builder raises. `what` begins with the text.
    """
    try:
        if len(text) > LONGEST_EXPRESSION:
            raise unsupported(f"it has {len(text)} characters, and {LONGEST_EXPRESSION} are the most")
        parser = _Parser(text, builder)
        built = parser.expression(0)
        parser.end()
    except FormatError as error:
        error.what = f"{expression_fault(text, error.fault)}: {error.what}"
        raise
    return built


def expression_fault(text: str, fault: Fault) -> str:
    """Return how a message about an expression begins."""
    return f"the expression `{shortened(text, 200)}` {'cannot be' if fault is Fault.PROGRAM_INVALID else 'is not'} read"


class _Parser(Generic[_Built]):
    def __init__(self, text: str, builder: ExpressionBuilder[_Built]) -> None:
        self._text = text
        self._builder = builder
        self._at = 0
        self._kind = self._value = ""
        self._advance()

    def expression(self, depth: int) -> _Built:
        """Read one expression; the position is behind it afterwards."""
        if depth > DEEPEST_EXPRESSION:
            raise unsupported(f"it is deeper than {DEEPEST_EXPRESSION} calls")
        name = self._take("name")
        if name in ("true", "false"):
            return self._builder.truth(name == "true")
        self._take("mark", "(")
        if name == "Symbol":
            built = self._symbol()
        elif name == "Integer":
            built = self._builder.integer(int(self._take("number")))
        elif name == "Rational":
            built = self._rational()
        elif name == "Float":
            built = self._float()
        elif name in FUNCTIONS:
            built = self._call(name, depth)
        else:
            raise invalid(f"`{shortened(name, 64)}` is no function of shape expressions")
        self._take("mark", ")")
        return built

    def end(self) -> None:
        """Check that nothing follows."""
        if self._kind:
            raise invalid(f"`{shortened(self._value, 64)}` follows its end")

    def _symbol(self) -> _Built:
        name = self._take("text")
        split_symbol(name)
        assumptions: dict[str, bool] = {}
        while self._value == ",":
            self._advance()
            key = self._take("name")
            self._take("mark", "=")
            value = self._take("name")
            if key not in _ASSUMPTIONS or key in assumptions or value not in ("True", "False"):
                raise invalid(f"`{shortened(key, 64)}={shortened(value, 64)}` is no assumption on a symbol")
            assumptions[key] = value == "True"
        return self._builder.symbol(name, assumptions)

    def _rational(self) -> _Built:
        numerator = int(self._take("number"))
        self._take("mark", ",")
        denominator = int(self._take("number"))
        if denominator == 0:
            raise invalid("a denominator in it is zero")
        return self._builder.rational(numerator, denominator)

    def _float(self) -> _Built:
        digits = self._take("text")
        for kind, value in (("mark", ","), ("name", "precision"), ("mark", "=")):
            self._take(kind, value)
        precision = int(self._take("number"))
        if not 1 <= precision <= MOST_PRECISION or _FLOAT.fullmatch(digits) is None or float(digits) in _INFINITE:
            raise invalid(f"`{shortened(digits, 64)}` is no floating-point number of a shape expression")
        return self._builder.float(digits, precision)

    def _call(self, name: str, depth: int) -> _Built:
        arguments = [self.expression(depth + 1)]
        while self._value == "," and self._kind == "mark":
            self._advance()
            arguments.append(self.expression(depth + 1))
        least, most = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            refused = unsupported if name in FLATTENED else invalid
            raise refused(f"`{name}` does not take {len(arguments)} arguments")
        return self._builder.call(name, arguments)

    def _take(self, kind: str, value: str | None = None) -> str:
        if self._kind != kind or (value is not None and self._value != value):
            found = f"`{shortened(self._value, 64)}` stands" if self._kind else "it ends"
            raise invalid(f"{found} where {f'`{value}`' if value else f'a {kind}'} is expected")
        taken = self._value
        self._advance()
        return taken

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            rest = self._text[self._at :].strip()
            if rest:
                raise invalid(f"`{shortened(rest, 64)}` is not of its grammar")
            self._kind = self._value = ""
            return
        self._at = match.end()
        self._kind = match.lastgroup or ""
        self._value = match[self._kind]
