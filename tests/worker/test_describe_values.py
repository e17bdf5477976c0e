"""Arguments, values and tensors one by one: kinds that small programs seldom hold."""

from __future__ import annotations

import math
import operator
from collections import OrderedDict
from typing import Any

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx
from torch._library.fake_class_registry import FakeScriptObject
from torch._subclasses import FakeTensorMode
from torch.export.graph_signature import CustomObjArgument
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.value_ranges import ValueRanges

from retraced.v1 import node_metadata_pb2 as pb
from retraced_server.worker.describe_arguments import write_argument, write_value
from retraced_server.worker.describe_tables import Tables
from retraced_server.worker.describe_text import target_text

from .decode import Decoder
from .expected import expected_argument, expected_tensor


def argument(value: Any) -> Any:
    tables, message = Tables({}), pb.Argument()
    write_argument(value, message, tables)
    decoder = Decoder()
    decoder.batch(tables.take())
    return decoder.argument(message)


def value(value: Any, ranges: dict[sympy.Symbol, Any] | None = None) -> Any:
    return values([value], ranges)[0]


def values(items: list[Any], ranges: dict[sympy.Symbol, Any] | None = None) -> list[Any]:
    tables, messages = Tables(ranges or {}), [pb.Value() for _ in items]
    for item, message in zip(items, messages, strict=True):
        write_value(item, message, tables)
    decoder = Decoder()
    decoder.batch(tables.take())
    return [decoder.value(message) for message in messages]


constants = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from([torch.float32, torch.strided, torch.sparse_coo, torch.channels_last, torch.device("cuda", 1)]),
        st.sampled_from([torch.ops.aten.mm.default, torch.ops.higher_order.cond]),
        st.complex_numbers(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    ),
)


@given(constants)
def test_argument_is_written_as_it_is(constant: Any) -> None:
    assert argument(constant) == expected_argument(constant)
    # As fx holds it: lists and dictionaries become immutable ones.
    (held,) = fx.Graph().call_function(operator.pos, (constant,)).args
    assert argument(held) == expected_argument(constant)


@pytest.mark.parametrize(
    ("constant", "text"),
    [
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        (1 - 2j, "(1-2j)"),
        (slice(None, 2, None), "slice(None, 2, None)"),
        (..., "Ellipsis"),
        (b"\x00", "b'\\x00'"),
        ({1: "a", (2,): [None]}, "{1: 'a', (2,): [None]}"),
        (torch.ops.aten.mm, "aten.mm"),
        (math.ceil, "math.ceil"),
        (object(), "object"),
        (torch.Generator(), "torch._C.Generator"),
    ],
)
def test_other_constants_are_text(constant: Any, text: str) -> None:
    kind = "operator" if constant is torch.ops.aten.mm else "opaque"
    assert argument(constant) == (kind, text)


def test_slice_names_its_nodes() -> None:
    node = fx.Graph().placeholder("n")
    assert argument(slice(node, None, node)) == ("opaque", "slice(n, None, n)")


def test_empty_containers_keep_their_kind() -> None:
    assert argument([()]) == ("list", [("tuple", [])])
    assert argument([{}, OrderedDict()]) == ("list", [("map", []), ("map", [])])
    assert value(((),)) == ("list", [("list", [])])


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (torch.ops.aten.add.Tensor, "aten.add.Tensor"),
        (torch.ops.higher_order.cond, "higher_order.cond"),
        (operator.getitem, "operator.getitem"),
        (operator.floordiv, "operator.floordiv"),
        (math.ceil, "math.ceil"),
        (max, "max"),
        (torch.sym_max, "torch.sym_max"),
        (torch.sin, "torch.sin"),
        (torch.Tensor.add, "TensorBase.add"),
        ("x", "x"),
    ],
)
def test_target_text(target: Any, text: str) -> None:
    assert target_text(target) == text


class Symbols:
    """A shape environment with a backed size `s` of hint 6, and an unbacked one."""

    def __init__(self) -> None:
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env)
        sizes = [DimDynamic.DYNAMIC, DimDynamic.STATIC]
        context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(dynamic_sizes=sizes)
        self.tensor = self.mode.from_tensor(torch.ones(6, 4), symbolic_context=context)
        # `Any`: torch declares sizes and what is computed of them as int.
        self.size: Any = self.tensor.shape[0]
        self.unbacked: Any = self.env.create_unbacked_symint()
        self.name = str(self.size)


def test_symbolic_value_has_text_and_hint() -> None:
    symbols = Symbols()
    size, name = symbols.size, symbols.name
    assert value(size * 2 + 1) == ("sym_int", (f"2*{name} + 1", 13))
    assert value(size > 4) == ("sym_bool", (f"{name} > 4", True))
    assert value(size > 8) == ("sym_bool", (f"{name} > 8", False))
    assert value(size.__sym_float__() / 4) == ("sym_float", (str(size.__sym_float__() / 4), 1.5))
    assert value(symbols.unbacked) == ("sym_int", ("u0", None))
    assert value(symbols.unbacked + size) == ("sym_int", (str(symbols.unbacked + size), None))
    assert value(size * 2**60) == ("sym_int", (f"{2**60}*{name}", 6 * 2**60))
    assert value(size * 2**62) == ("sym_int", (f"{2**62}*{name}", None))


def bounds(value: Any, ranges: dict[sympy.Symbol, Any]) -> tuple[int | None, int | None]:
    tables = Tables(ranges)
    tables.expression(value)
    (entry,) = tables.take().expressions
    return (
        entry.lower if entry.HasField("lower") else None,
        entry.upper if entry.HasField("upper") else None,
    )


def test_bounds_follow_the_constraints_of_the_program() -> None:
    symbols = Symbols()
    size, symbol = symbols.size, symbols.size.node.expr
    finite = {symbol: ValueRanges(2, 64)}
    assert bounds(size, finite) == (2, 64)
    assert bounds(size * 3 + 1, finite) == (7, 193)
    assert bounds(size // 4, finite) == (0, 16)
    assert bounds(size * 2**58, finite) == (2**59, None)
    assert bounds(size, {symbol: ValueRanges(2, sympy.oo)}) == (2, None)
    assert bounds(size, {symbol: ValueRanges.unknown_int()}) == (None, None)
    assert bounds(size, {}) == (None, None)
    assert bounds(size > 4, finite) == (None, None)
    assert bounds(size.__sym_float__(), finite) == (None, None)


def test_replaced_symbol_is_written_as_its_replacement_and_nothing_is_shortened() -> None:
    symbols = Symbols()
    first, second, third = (symbols.env.create_unbacked_symint() for _ in range(3))
    a, b, c = (symint.node.expr for symint in (first, second, third))
    # Made before there are replacements: adding makes torch shorten their chains.
    total = first + symbols.size
    symbols.env.replacements.update({a: b + 1, b: c * 2, c: symbols.size.node.expr})
    symbols.env._replacements_version_counter += 1
    replacements, version = dict(symbols.env.replacements), symbols.env._version_counter
    written = value(total)
    assert symbols.env.replacements == replacements
    assert symbols.env._version_counter == version
    assert written == ("sym_int", (f"3*{symbols.name} + 1", 19))
    assert str(total) == f"3*{symbols.name} + 1"


def test_equal_expressions_share_an_entry() -> None:
    size = Symbols().size
    tables = Tables({})
    assert tables.expression(size + 1) == tables.expression(1 + size)
    assert tables.expression(size + 1) != tables.expression(size)
    assert len(tables.take().expressions) == 2


def test_tensor_with_symbolic_sizes_strides_and_offset() -> None:
    symbols = Symbols()
    base, size, name = symbols.tensor, symbols.size, symbols.name
    view = base.as_strided((4, size), (1, size), size * 2)
    assert value(view) == ("tensor", expected_tensor(view))
    described = value(view)[1]
    assert described["shape"] == [4, (name, 6)]
    assert described["storage_offset"] == (f"2*{name}", 12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones((), dtype=torch.bfloat16),
        lambda: torch.ones(2, 3, requires_grad=True),
        lambda: torch.ones(4, 6)[1:, ::2].t(),
        lambda: torch.ones(2, 3, dtype=torch.complex64),
        lambda: torch.ones(2, 3, device="cuda"),
        lambda: torch.ones(2, 3, device="meta"),
        lambda: torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 3)),
        lambda: torch.zeros(0, 5, dtype=torch.uint8),
    ],
)
def test_tensor_without_symbols(make: Any) -> None:
    with FakeTensorMode():
        tensor = make()
    assert value(tensor) == ("tensor", expected_tensor(tensor))


def test_layout_without_strides_has_neither_strides_nor_offset() -> None:
    with FakeTensorMode():
        tensor = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (2, 3))
    described = value(tensor)[1]
    assert (described["layout"], described["strides"], described["storage_offset"]) == ("sparse_coo", [], None)


def test_tensors_share_an_entry_when_and_only_when_all_is_equal() -> None:
    with FakeTensorMode():
        same = [torch.ones(2, 3), torch.zeros(2, 3)]
        others = [
            torch.ones(3, 2),
            torch.ones(3, 2).t(),
            torch.ones(2, 3, dtype=torch.int32),
            torch.ones(2, 3, requires_grad=True),
            torch.ones(2, 3, device="meta"),
            torch.ones(3, 3)[1:],
        ]
    tables = Tables({})
    assert len({tables.tensor(tensor) for tensor in same}) == 1
    assert len({tables.tensor(tensor) for tensor in same + others}) == 1 + len(others)


def test_nested_results_keep_their_nest_and_their_nones() -> None:
    with FakeTensorMode():
        tensor = torch.ones(2)
    described = ("tensor", expected_tensor(tensor))
    assert value((tensor, [None, (tensor,)], None)) == (
        "list",
        [described, ("list", [("none",), ("list", [described])]), ("none",)],
    )


def test_objects_are_named_and_never_printed() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("printed")

    script = FakeScriptObject(object(), "__torch__.torch.classes.lib.Queue", None)
    assert values([CustomObjArgument("q", "lib.Queue"), script, 2**70, 1j, torch.float32, Loud()]) == [
        ("opaque", "lib.Queue"),
        ("opaque", "__torch__.torch.classes.lib.Queue"),
        ("opaque", str(2**70)),
        ("opaque", "1j"),
        ("opaque", "torch.float32"),
        ("opaque", f"{__name__}.{Loud.__qualname__}"),
    ]
