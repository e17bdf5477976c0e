"""Symbolic expressions: the parser gives what sympify gives, on everything that srepr prints, and refuses the rest."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy import functions

from retraced_server.errors import Reason, RetracedError
from retraced_server.program.expressions import parse_expression

_SYMBOLS = [
    sympy.Symbol("s0", positive=True, integer=True),
    sympy.Symbol("s27", positive=True, integer=True),
    sympy.Symbol("u0", integer=True),
    sympy.Symbol("zuf1"),
]
_LEAVES = st.one_of(
    st.sampled_from(_SYMBOLS),
    st.integers(-(2**62), 2**62).map(sympy.Integer),
    st.floats(-1e9, 1e9).map(lambda value: sympy.Float(value, precision=53)),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(lambda pair: sympy.Rational(*pair)),
)
# What sympify knows of torch's functions, as `GraphModuleDeserializer` tells it.
_KNOWN = {
    name: getattr(functions, name)
    for name in (
        "FloorDiv",
        "ModularIndexing",
        "PythonMod",
        "Mod",
        "CleanDiv",
        "CeilDiv",
        "IntTrueDiv",
        "FloatTrueDiv",
        "ToFloat",
    )
}


def _grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    integer, positive = st.sampled_from(_SYMBOLS[:3]), st.integers(1, 1000).map(sympy.Integer)
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(lambda args: sympy.Add(*args)),
        st.lists(inner, min_size=2, max_size=3).map(lambda args: sympy.Mul(*args)),
        st.tuples(st.sampled_from(_SYMBOLS), st.integers(1, 4)).map(lambda pair: sympy.Pow(*pair)),
        st.tuples(integer, positive).map(lambda pair: functions.FloorDiv(*pair)),
        st.tuples(integer, positive).map(lambda pair: functions.PythonMod(*pair)),
        st.tuples(integer, integer).map(lambda pair: functions.IntTrueDiv(*pair)),
    )


def _has_short_numbers(expression: Any) -> bool:
    # The grammar ends at 40 digits, which a product of leaves may pass.
    return all(abs(number) < 10**40 for number in expression.atoms(sympy.Integer))


_ARITHMETIC = st.recursive(_LEAVES, _grow, max_leaves=12).filter(_has_short_numbers)
_COMPARISONS = st.tuples(
    st.sampled_from((sympy.Eq, sympy.Ne, sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge)),
    st.sampled_from(_SYMBOLS[:3]),
    st.integers(-9, 9),
).map(lambda parts: parts[0](parts[1], parts[2]))
_EXPRESSIONS = st.one_of(
    _ARITHMETIC, _COMPARISONS, st.lists(_COMPARISONS, min_size=2, max_size=3).map(lambda args: sympy.Or(*args))
)


@settings(max_examples=300, deadline=None)
@given(_EXPRESSIONS)
def test_parses_what_sympify_parses(expression: Any) -> None:
    text = sympy.srepr(expression)
    assert parse_expression(text) == sympy.sympify(text, locals=_KNOWN)


@settings(max_examples=200, deadline=None)
@given(_EXPRESSIONS)
def test_what_is_parsed_prints_as_it_was(expression: Any) -> None:
    parsed = parse_expression(sympy.srepr(expression))
    assert sympy.srepr(parse_expression(sympy.srepr(parsed))) == sympy.srepr(parsed)


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="AddMulsymbol()'0123456789,= -_u", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    # Any other error fails the test.
    with contextlib.suppress(RetracedError):
        parse_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "Max(Integer(3), Symbol('s0', positive=True, integer=True))",
        "OpaqueUnaryFn_sqrt(Symbol('s0', positive=True, integer=True))",
        "Or(StrictLessThan(Symbol('u0', integer=True), Integer(3)), Equality(Symbol('u0', integer=True), Integer(9)))",
        "Piecewise(ExprCondPair(Integer(1), Equality(Symbol('u0', integer=True), Integer(9))), ExprCondPair(Integer(0), true))",
        "Unequality(Symbol('u0', integer=True), Integer(9))",
        "true",
        "TruncToInt(IntTrueDiv(Symbol('s0', positive=True, integer=True), Integer(2)))",
        "Float('0.1', precision=53)",
    ],
)
def test_functions_of_shape_expressions_print_as_they_were_read(text: str) -> None:
    printed = sympy.srepr(parse_expression(text)).replace("0.10000000000000001", "0.1")
    # Their order is sympy's.
    assert sorted(re.findall(r"[\w.]+", printed)) == sorted(re.findall(r"[\w.]+", text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s0",
        "s0 + 1",
        "Symbol('s0', positive=True",
        "Symbol('s0'))",
        "Symbol('s0', shape=True)",
        "Symbol('s0', integer=1)",
        "Symbol('x')",
        "Symbol('__import__')",
        "Symbol('u99999999')",
        "Symbol('s99999999999')",
        "Integer(1.5)",
        "Integer('1')",
        "Integer(" + "9" * 41 + ")",
        "Rational(1, 0)",
        "Float('1e400', precision=53)",
        "Float('nan', precision=53)",
        "Function('f')",
        "__import__('os').system('true')",
        "Lambda(Integer(1), Integer(2))",
        "Add(Integer(1), __class__)",
        "Add()",
        "Add(Integer(1), true)",
        "OpaqueUnaryFn_exp(Integer(4294967297))",
        "OpaqueUnaryFn_cosh(Integer(2147483648))",
        "Pow(false, Integer(2))",
        "StrictLessThan(Equality(Symbol('s0'), Integer(1)), Integer(2))",
        "Not(Integer(1), Integer(2))",
        "FloorDiv(Integer(1))",
        # sympy divides polynomials, and this is none.
        "CeilDiv(Piecewise(ExprCondPair(Symbol('s0'), LessThan(Symbol('s0'), Symbol('s1'))), ExprCondPair(Symbol('s1'), true)), Symbol('s2'))",
        "FloorDiv(Symbol('s0', positive=True, integer=True), Integer(0))",
        "And(Integer(3), Integer(5))",
        "StrictLessThan(true, Integer(1))",
        "Pow(Integer(10), Integer(1000000000))",
        "Pow(Pow(Pow(Integer(10), Integer(60)), Integer(60)), Integer(60))",
        "PowByNatural(Integer(10), Integer(1000000000))",
        "Pow(Integer(2), Symbol('s0', positive=True, integer=True))",
        "Pow(Pow(Pow(Symbol('s0', positive=True, integer=True), Integer(200)), Integer(200)), Integer(200))",
        "Pow(Add(Pow(Add(Symbol('s0'), Integer(1)), Integer(20)), Integer(1)), Integer(20))",
        "Mul(" + ", ".join(f"Pow(Symbol('s{number}'), Integer(50))" for number in range(50)) + ")",
        "Max(" + ", ".join(f"Symbol('s{number}')" for number in range(65)) + ")",
        "LShift(Integer(1), Integer(1000000000))",
        "Pow(Symbol('s0', positive=True, integer=True), Integer(1000000000))",
        "Add(" * 100 + "Integer(1)" + ")" * 100,
        "Add(" + ", ".join(["Integer(1)"] * 3000) + ")",
        "Integer(1) Integer(2)",
        "oo",
    ],
)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(RetracedError, match=r"cannot be read|is not read|no name of a symbol") as caught:
        parse_expression(text)
    # What is too long or deep may be an expression all the same.
    too_large = "is not read" in caught.value.message
    assert caught.value.reason is (Reason.PROGRAM_UNSUPPORTED if too_large else Reason.PROGRAM_INVALID)


def test_expression_is_not_evaluated(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = f"Add(Integer(1), __import__('pathlib').Path('{marker}').touch())"
    with pytest.raises(RetracedError):
        parse_expression(text)
    assert not marker.exists()


_SIZES = [f"Symbol('s{number}', positive=True, integer=True)" for number in range(24)]


@pytest.mark.parametrize(
    "text",
    [
        f"Pow(Add({', '.join(_SIZES[:10])}), Integer(60))",
        f"Pow(Add({', '.join(_SIZES[:6])}), Integer(-40))",
        f"Mul({', '.join(f'Add({size}, Integer(1))' for size in _SIZES)})",
        f"Mod(Mul({', '.join(f'Add({size}, Integer(3))' for size in _SIZES)}), Add({_SIZES[0]}, Integer(7)))",
        f"FloorDiv(Mul(Pow(Add({', '.join(_SIZES[:4])}), Integer(30)), {_SIZES[4]}), {_SIZES[5]})",
    ],
)
def test_expression_that_expands_without_end_is_refused(text: str) -> None:
    with pytest.raises(RetracedError, match="1024 terms when its products are expanded"):
        parse_expression(text)


def _sum_of(*sizes: str) -> str:
    return f"Add({', '.join(sizes)})"


def _chosen(chosen: str, *relations: str) -> str:
    """Return a piecewise function that is an expression where all relations hold, and one otherwise."""
    return f"Piecewise(ExprCondPair({chosen}, And({', '.join(relations)})), ExprCondPair(Integer(1), true))"


def test_power_of_a_piecewise_function_is_bounded_as_that_of_what_it_chooses() -> None:
    """sympy makes a piecewise function of powers of it; torch took two and a half minutes of a processor to expand this one."""
    chosen = _chosen(_sum_of(*_SIZES[:6]), f"LessThan({_SIZES[0]}, {_SIZES[1]})")
    parse_expression(f"Pow({chosen}, Integer(3))")
    with pytest.raises(RetracedError, match="more than 1024 terms") as caught:
        parse_expression(f"Pow({chosen}, Integer(60))")
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_relations_that_each_term_of_a_product_repeats_are_counted_with_each() -> None:
    """Of 18 times 108 terms each had the relations; sympy brings them into a canonical form whenever torch substitutes a symbol."""

    def product(depth: int) -> str:
        relations = (f"LessThan({_sum_of(*_SIZES[at : at + 3])}, {_SIZES[at + 3]})" for at in range(8))
        inner = _SIZES[0] if depth == 0 else product(depth - 1)
        sums = (_sum_of(*_SIZES[at : at + 5]) for at in (3 * depth, 3 * depth + 6))
        return f"Mul({', '.join(sums)}, {_chosen(inner, *relations)})"

    parse_expression(product(0))
    with pytest.raises(RetracedError, match="more than 16384 parts when its products are expanded") as caught:
        parse_expression(product(2))
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


@pytest.mark.parametrize("power", ["Pow({0}, Integer({1}))", "Pow(Add({0}, Integer(1)), Integer({1}))"])
def test_polynomial_in_one_size_is_bounded_by_its_degree(power: str) -> None:
    """For its sign sympy looks for the roots of it and of its derivatives: 8 to 19 seconds of a processor at a degree of 60."""
    parse_expression(f"FloorDiv({power.format(_SIZES[0], 25)}, {_SIZES[1]})")
    with pytest.raises(RetracedError, match="more than 16384 parts") as caught:
        parse_expression(f"FloorDiv({power.format(_SIZES[0], 26)}, {_SIZES[1]})")
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_division_of_many_terms_in_many_symbols_is_refused() -> None:
    def divided(count: int) -> str:
        sums = (f"Add({', '.join(_SIZES[at : at + 4])})" for at in range(0, 4 * count, 4))
        return f"PythonMod(Mul({', '.join(sums)}), Mul({_SIZES[20]}, {_SIZES[21]}))"

    parse_expression(divided(2))
    with pytest.raises(RetracedError, match="a division in it is of too many terms") as caught:
        parse_expression(divided(4))
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


@pytest.mark.parametrize("name", ["FloorDiv", "Mod", "CleanDiv", "IntTrueDiv"])
def test_sum_of_many_sizes_is_divided_by_a_number(name: str) -> None:
    sizes = (f"Mul(Integer(3), Symbol('s{number}', positive=True, integer=True))" for number in range(60))
    assert len(parse_expression(f"{name}(Add({', '.join(sizes)}, Integer(-3)), Integer(2))").free_symbols) == 60


def test_terms_are_counted_as_sympy_expands_them() -> None:
    # 3 ** 6 = 729 terms fit, and 3 ** 7 do not; the powers of a sum of 3 have (n + 1)(n + 2) / 2 terms.
    factors = [f"Add({a}, {b}, Integer(1))" for a, b in zip(_SIZES[::2], _SIZES[1::2], strict=True)]
    assert len(parse_expression(f"Mul({', '.join(factors[:6])})").expand().args) == 729
    assert len(parse_expression(f"Pow({factors[0]}, Integer(43))").expand().args) == 990
    for text in (f"Mul({', '.join(factors[:7])})", f"Pow({factors[0]}, Integer(44))"):
        with pytest.raises(RetracedError, match="terms"):
            parse_expression(text)


def test_symbol_that_is_multiplied_counts_as_the_sum_that_torch_makes_of_it() -> None:
    """Torch took eleven seconds of a processor to compare this with zero: it has 757 terms, and 2,000 once symbols begin at zero."""
    first, second, third = (f"Add({', '.join(_SIZES[at : at + count])}, Integer(1))" for at, count in ((0, 2), (2, 2), (4, 5)))
    powers = ", ".join(f"Pow({factor}, Integer(2))" for factor in (_SIZES[9], first, second, third))
    with pytest.raises(RetracedError, match="terms"):
        parse_expression(f"Mul({powers})")


def test_sum_of_many_sizes_and_a_product_of_two_of_them_are_read() -> None:
    sizes = [f"Symbol('s{number}', positive=True, integer=True)" for number in range(300)]
    assert len(parse_expression(f"Add({', '.join(sizes)})").free_symbols) == 300
    parse_expression(f"Mul(Add({', '.join(sizes[:24])}), Add({', '.join(sizes[24:48])}))")


def test_nested_extremes_have_as_many_arguments_as_they_are_written_with() -> None:
    def extreme(first: int, count: int) -> str:
        return f"Max({', '.join(f'Symbol({name!r})' for name in (f's{number}' for number in range(first, first + count)))})"

    assert len(parse_expression(f"Max({extreme(0, 32)}, {extreme(32, 32)})").args) == 64
    with pytest.raises(RetracedError, match="`Max` does not take 65 arguments"):
        parse_expression(f"Max({extreme(0, 33)}, {extreme(33, 32)})")
