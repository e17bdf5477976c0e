"""The grammar of symbolic expressions: what a builder is given, what is refused whatever is built, and what the client bounds."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retraced.checks.expressions import check_expression, check_size
from retraced_pt2.errors import Fault, FormatError
from retraced_pt2.expressions import FUNCTIONS, is_derived_size, read_expression, split_symbol
from retraced_server.errors import RetracedError
from retraced_server.program.expressions import parse_expression


class _Nested:
    """Builds nested tuples."""

    def truth(self, value: bool) -> Any:
        return value

    def symbol(self, name: str, assumptions: dict[str, bool]) -> Any:
        return name, assumptions

    def integer(self, value: int) -> Any:
        return value

    def rational(self, numerator: int, denominator: int) -> Any:
        return numerator, denominator

    def float(self, digits: str, precision: int) -> Any:
        return digits, precision

    def call(self, function: str, arguments: list[Any]) -> Any:
        return function, *arguments


def test_a_builder_is_given_the_leaves_first() -> None:
    text = "Add(Symbol('s7', positive=True, integer=False), Mul(Integer(-2), Rational(1, 3)), Float('1.5', precision=53), true)"
    expected = ("Add", ("s7", {"positive": True, "integer": False}), ("Mul", -2, (1, 3)), ("1.5", 53), True)
    assert read_expression(text, _Nested()) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Float('1.5', precision=128)", None),
        ("Float('1.5', precision=129)", Fault.PROGRAM_INVALID),
        ("Float('1.5', precision=0)", Fault.PROGRAM_INVALID),
        ("Float('nan', precision=53)", Fault.PROGRAM_INVALID),
        ("Float('1_0', precision=53)", Fault.PROGRAM_INVALID),
        ("Float('1e999', precision=53)", Fault.PROGRAM_INVALID),
        ("Rational(1, 0)", Fault.PROGRAM_INVALID),
        ("Symbol('u999999')", None),
        ("Symbol('u1000000')", Fault.PROGRAM_UNSUPPORTED),
        ("Symbol('s1000000')", None),
        ("Symbol('x')", Fault.PROGRAM_INVALID),
        ("Symbol('s0', commutative=True)", Fault.PROGRAM_INVALID),
        ("Symbol('s0', integer=True, integer=True)", Fault.PROGRAM_INVALID),
        ("Abs(" * 64 + "true" + ")" * 64, None),
        ("Abs(" * 65 + "true" + ")" * 65, Fault.PROGRAM_UNSUPPORTED),
        ("Abs(true, true)", Fault.PROGRAM_INVALID),
        (f"Max({', '.join(['true'] * 64)})", None),
        (f"Max({', '.join(['true'] * 65)})", Fault.PROGRAM_UNSUPPORTED),
        ("true" + " " * 20_000, Fault.PROGRAM_UNSUPPORTED),
        ("eval(true)", Fault.PROGRAM_INVALID),
        ("true true", Fault.PROGRAM_INVALID),
        ("true)", Fault.PROGRAM_INVALID),
        ("Add(true", Fault.PROGRAM_INVALID),
        ("[]", Fault.PROGRAM_INVALID),
        ("", Fault.PROGRAM_INVALID),
    ],
)
def test_what_is_not_of_the_grammar_is_refused(text: str, fault: Fault | None) -> None:
    with contextlib.nullcontext() if fault is None else pytest.raises(FormatError) as caught:
        read_expression(text, _Nested())
    if caught is not None:
        assert caught.value.fault is fault
        assert caught.value.what.startswith("the expression `")


def test_symbols_and_sizes_that_are_derived_from_them() -> None:
    assert split_symbol("zuf12") == ("zuf", 12)
    assert is_derived_size("2*s0 + 1")
    assert not is_derived_size("s0")
    for name in ("s0", "2*s0 + 1"):
        check_size(name)
    for bad in ("x", "s0; 1", "2*u0", 7, None):
        with pytest.raises(FormatError):
            check_size(bad)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("Pow(Symbol('s0'), Integer(4096))", True),
        ("Pow(Symbol('s0'), Integer(4097))", False),
        ("Pow(Symbol('s0'), Symbol('s1'))", True),
        ("LShift(Integer(1), Integer(2000))", True),
        ("LShift(Integer(1), Integer(3000))", False),
        ("Pow(Float('1e300', precision=53), Integer(2))", False),
        ("Pow(Integer(2), Add(Integer(1000000000), Symbol('s0')))", False),
    ],
)
def test_the_client_takes_powers_that_stay_small_whatever_their_symbols_are(text: str, taken: bool) -> None:
    with contextlib.nullcontext() if taken else pytest.raises(FormatError, match="a power in it can become too large"):
        check_expression(text)


_leaf = st.one_of(
    st.integers(-300, 300).map(lambda value: f"Integer({value})"),
    st.sampled_from(("s0", "s77", "u0", "zf3", "x", "u9999999")).map(lambda name: f"Symbol('{name}', integer=True)"),
    st.sampled_from(("true", "false", "Rational(1, 2)", "Rational(1, 0)", "Float('1.5', precision=53)", "Symbol('s1')")),
)
_calls = st.recursive(
    _leaf,
    lambda inner: st.builds(
        lambda name, args: f"{name}({', '.join(args)})",
        st.sampled_from((*sorted(FUNCTIONS), "eval", "Lambda", "Function")),
        st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=12,
)


def _by_the_server(text: str) -> None:
    with warnings.catch_warnings():
        # Of sympy, for truth values where numbers are meant.
        warnings.simplefilter("ignore")
        parse_expression(text)


def _refusal(read: Callable[[], object]) -> str:
    """Why a text is not read; empty where it is."""
    try:
        read()
    except (FormatError, RetracedError) as error:
        return str(error)
    return ""


@settings(deadline=None, max_examples=300)
@given(_calls)
def test_what_is_not_of_the_grammar_is_refused_whatever_is_built(text: str) -> None:
    refusal = _refusal(lambda: read_expression(text, _Nested()))
    if refusal:
        by_client = _refusal(lambda: check_expression(text))
        assert by_client == refusal or "a power in it" in by_client
        assert _refusal(lambda: _by_the_server(text))
