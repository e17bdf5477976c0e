"""Expressions as people write them mean what the file says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retraced_pt2.errors import FormatError
from retraced_pt2.expression_text import expression_text

_S0, _U1 = "Symbol('s0', positive=True, integer=True)", "Symbol('u1', integer=True)"
_VALUES = {"s0": 7, "u1": -3}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "Equality": lambda a, b: a == b,
    "Unequality": lambda a, b: a != b,
    "StrictLessThan": lambda a, b: a < b,
    "LessThan": lambda a, b: a <= b,
    "StrictGreaterThan": lambda a, b: a > b,
    "GreaterThan": lambda a, b: a >= b,
}

# An expression in the file's words, and its value.
_Valued = tuple[str, Any]
_LEAVES: st.SearchStrategy[_Valued] = st.one_of(
    st.sampled_from([(_S0, 7), (_U1, -3)]), st.integers(-9, 9).map(lambda value: (f"Integer({value})", value))
)


def _combined(parts: st.SearchStrategy[_Valued]) -> st.SearchStrategy[_Valued]:
    several = st.lists(parts, min_size=1, max_size=4)
    divisors = parts.filter(lambda part: part[1] != 0)
    return st.one_of(
        several.map(lambda terms: (_call("Add", terms), sum(value for _, value in terms))),
        several.map(lambda factors: (_call("Mul", factors), _product(value for _, value in factors))),
        st.tuples(parts, divisors).map(lambda two: (_call("FloorDiv", two), two[0][1] // two[1][1])),
        st.tuples(parts, st.just(("Integer(2)", 2))).map(lambda two: (_call("Pow", two), two[0][1] ** 2)),
        several.map(lambda values: (_call("Max", [*values, values[0]]), max(value for _, value in values))),
    )


_NUMBERS = st.recursive(_LEAVES, _combined, max_leaves=8)


def _conditions() -> st.SearchStrategy[_Valued]:
    compared = st.tuples(st.sampled_from(sorted(_COMPARISONS)), _NUMBERS, _NUMBERS).map(
        lambda one: (_call(one[0], one[1:]), _COMPARISONS[one[0]](one[1][1], one[2][1]))
    )
    return st.recursive(
        compared,
        lambda parts: st.one_of(
            st.lists(parts, min_size=1, max_size=3).map(lambda them: (_call("And", them), all(value for _, value in them))),
            st.lists(parts, min_size=1, max_size=3).map(lambda them: (_call("Or", them), any(value for _, value in them))),
            parts.map(lambda one: (_call("Not", [one]), not one[1])),
        ),
        max_leaves=6,
    )


def _call(function: str, arguments: Any) -> str:
    return f"{function}({', '.join(text for text, _ in arguments)})"


def _product(values: Any) -> int:
    product = 1
    for value in values:
        product *= value
    return product


@given(_NUMBERS | _conditions())
def test_python_computes_of_the_text_what_the_expression_is(expression: _Valued) -> None:
    text, value = expression
    # The text is of this test's own making.
    assert eval(expression_text(text), {"Max": max, **_VALUES}) == value


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (f"Add(Mul(Integer(2), {_S0}), Integer(-1))", "2*s0 - 1"),
        (f"Mul(Integer(-1), {_S0})", "-s0"),
        (f"FloorDiv(Add({_S0}, {_U1}), Integer(2))", "(s0 + u1)//2"),
        (f"Mul(Rational(1, 2), {_S0})", "(1/2)*s0"),
        (f"Mod({_S0}, Integer(8))", "Mod(s0, 8)"),
        ("OpaqueUnaryFn_sqrt(Float('2.50000000', precision=53))", "sqrt(2.5)"),
        (f"And(GreaterThan({_U1}, Integer(0)), Unequality({_S0}, {_U1}))", "u1 >= 0 and s0 != u1"),
        ("true", "True"),
    ],
)
def test_it_reads_as_people_write_it(expression: str, text: str) -> None:
    assert expression_text(expression) == text


@pytest.mark.parametrize("text", ["__import__('os')", "", "Symbol('x y')", "Add(" * 80 + "Integer(1)" + ")" * 80])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        expression_text(text)
