"""Templates that processes share give the programs that traces of their own give, and depend on nothing but their keys."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.call_codec import is_usual
from retraced_server.passes.decompose.make_template import make_template
from retraced_server.passes.decompose.shared_templates import SHARED
from retraced_server.passes.decompose.templates import Templates
from retraced_server.program import read_program
from tests.program.archives import saved
from tests.support.case import ProgramCase
from tests.support.describe import describe_program
from tests.support.models import by_name
from tests.support.tables import registered_table

aten = torch.ops.aten
_PROGRAMS = ("bert", "llama", "vit", "t5", "gpt2", "residual_net", "everything", "cond")


@pytest.fixture(autouse=True)
def _nothing_shared() -> Iterator[None]:
    yield
    SHARED.replace([])
    SHARED.take_missed()
    SHARED.collects = False


def _read(archive: bytes) -> ExportedProgram:
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        return read_program(file).program


def _missed(program: ExportedProgram, pipeline: str = "decompose") -> tuple[bytes, ...]:
    SHARED.collects = True
    run_pipeline(program, pipeline)
    return SHARED.take_missed()


def _share(program: ExportedProgram, pipeline: str = "decompose") -> int:
    """Have the templates that a program misses; return how many there are."""
    made = [(key, template) for key in _missed(program, pipeline) if (template := make_template(key))]
    SHARED.replace(made)
    return len(made)


@pytest.mark.parametrize("name", _PROGRAMS)
def test_program_is_the_same_with_templates_of_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case: ProgramCase = by_name(name)
    alone = run_pipeline(_read(case.archive), "decompose")
    assert _share(_read(case.archive)) > 0
    traced: list[object] = []
    trace = Templates._traced

    def noted(self: Templates, target: Any, *call: Any) -> Any:
        traced.append(target)
        return trace(self, target, *call)

    monkeypatch.setattr(Templates, "_traced", noted)
    shared = run_pipeline(_read(case.archive), "decompose")
    assert describe_program(shared.program) == describe_program(alone.program)
    assert shared.reports[0].remarks == alone.reports[0].remarks
    # What is not shared holds constants, or writes.
    assert len(traced) <= 8


class Layer(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(size, size), nn.LayerNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.gelu(self.linear(x)))


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.other = Layer()

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.other(given)


def _program(module: nn.Module, rows: int = 5, dynamic: Dim | None = None) -> ExportedProgram:
    shapes = None if dynamic is None else ({0: dynamic},)
    return _read(saved(torch.export.export(module.eval(), (torch.randn(rows, 8),), dynamic_shapes=shapes)))


def test_keys_are_the_same_whatever_names_weights_and_hints_are() -> None:
    one = _missed(_program(Layer(), 5, Dim("batch", max=64)))
    other = _missed(_program(Renamed(), 9, Dim("rows", max=64)))
    assert one == other != ()


def test_keys_differ_by_sizes_ranges_and_table() -> None:
    program = _program(Layer(), 5, Dim("batch", max=64))
    keys = [
        _missed(program),
        _missed(_program(Layer(), 5, Dim("batch", max=32))),
        _missed(_program(Layer(), 5)),
        _missed(_program(Layer(), 6)),
        _missed(program, "decompose{table=aten}"),
        _missed(program, "decompose{preserve=aten.gelu.default}"),
    ]
    assert len({frozenset(each) for each in keys}) == len(keys)


def _by_size(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    return x * 2 if x.shape[0] > 60 else x * 3


def _by_hint(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    size = x.shape[0]
    return x * (size if isinstance(size, int) else size.node.hint)


def _by_order(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    rows, columns = x.shape
    return x * (2 if rows.node.hint < columns.node.hint else 3)  # type: ignore[attr-defined]  # they are symbolic


@pytest.fixture(scope="module", autouse=True)
def _tables() -> Iterator[None]:
    with ExitStack() as tables:
        for name, function in (("by-size", _by_size), ("by-hint", _by_hint), ("by-order", _by_order)):
            tables.enter_context(registered_table(f"shared-{name}", aten.gelu.default, function))
        yield


@pytest.mark.parametrize("largest", [3, 4, 13, 80, 159, 949, None])
def test_template_that_depends_on_a_hint_is_not_shared_whatever_the_bounds_of_the_size(largest: int | None) -> None:
    program = _program(Layer(), 3, Dim("batch", min=2, max=largest))
    keys = _missed(program, "decompose{table=shared-by-hint,only=aten.gelu.default}")
    assert [make_template(key) for key in keys if b"aten.gelu.default" in key] == [b""]


class Outer(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.unsqueeze(1) * y.unsqueeze(0)).reshape(-1, 8)


def test_program_with_a_derived_size_is_the_same_with_templates_of_others() -> None:
    size = Dim("size", max=40)
    inputs = torch.randn(7, 8), torch.randn(6, 8)
    archive = saved(torch.export.export(Outer(), inputs, dynamic_shapes=({0: size + 1}, {0: size})))
    alone = run_pipeline(_read(archive), "decompose").program
    assert _share(_read(archive)) > 0
    assert describe_program(run_pipeline(_read(archive), "decompose").program) == describe_program(alone)


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x)


@pytest.mark.parametrize("largest", [64, 90, None])
def test_template_that_depends_on_which_size_is_the_larger_is_not_shared(largest: int | None) -> None:
    sizes = {0: Dim("rows", max=largest), 1: Dim("columns", max=largest)}
    program = _read(saved(torch.export.export(Gelu(), (torch.randn(5, 9),), dynamic_shapes=(sizes,))))
    (key,) = _missed(program, "decompose{table=shared-by-order}")
    assert make_template(key) == b""


@pytest.mark.parametrize("table", ["shared-by-size", "shared-by-hint"])
def test_template_that_depends_on_what_a_size_was_at_export_is_not_shared(table: str) -> None:
    keys = _missed(_program(Layer(), 5, Dim("batch", max=64)), f"decompose{{table={table}}}")
    (gelu,) = [key for key in keys if b"aten.gelu.default" in key]
    assert make_template(gelu) == b""
    # With sizes that are known it depends on its key alone.
    (static,) = [key for key in _missed(_program(Layer()), f"decompose{{table={table}}}") if b"aten.gelu.default" in key]
    assert make_template(static) != b""


def test_call_of_whose_sizes_more_is_known_than_their_ranges_is_not_shared() -> None:
    program = _program(Layer(), 5, Dim("batch", max=64))
    assert any(b"aten.layer_norm.default" in key for key in _missed(program))
    # Now the size is at most 60 for what comes after the call that asked.
    keys = _missed(program, "decompose{table=shared-by-size}")
    assert any(b"aten.linear.default" in key for key in keys)
    assert not any(b"aten.layer_norm.default" in key for key in keys)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"calls":[],"gives":[],"results":{"type":"placed","at":99},"is_identity":false}',
        b'{"calls":[{"target":"torch.ops.aten.from_file.default","args":["/etc/passwd"],"kwargs":{}}],"gives":[null],'
        b'"results":{"type":"placed","at":1},"is_identity":false}',
        b'{"calls":[{"target":"os.system","args":["true"],"kwargs":{}}],"gives":[null],"results":null,"is_identity":false}',
        b'{"calls":[],"gives":[null],"results":{"type":"placed","at":0},"is_identity":false}',
        b'{"calls":[],"gives":[],"results":{"type":"named","kind":"dtype","name":"load"},"is_identity":false}',
        b'{"calls":[],"gives":[],"results":{"type":"symbolic","kind":"int","text":"Symbol(\'s9\', integer=True)"},"is_identity":false}',
    ],
)
def test_template_that_is_none_is_made_anew(rubbish: bytes) -> None:
    program = _program(Layer(), 5, Dim("batch", max=64))
    alone = run_pipeline(program, "decompose").program
    SHARED.replace([(key, rubbish) for key in _missed(program)])
    assert describe_program(run_pipeline(program, "decompose").program) == describe_program(alone)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rsub(x, x.shape[0] * self.factor)


@pytest.mark.parametrize(("factor", "is_shared"), [(0.123456789, False), (987654321, False), (0.5, True)])
def test_call_is_not_shared_whose_symbolic_number_holds_one_of_the_program(factor: float, is_shared: bool) -> None:
    assert bool(_missed(_program(Scaled(factor), 5, Dim("batch", max=64)))) == is_shared


@pytest.mark.parametrize(
    "number", [0, 1, -1, 0.5, 64, 1 / 8, 8**-0.5, 1e-5, 1e-12, float("-inf"), torch.finfo(torch.float32).min, -65504.0]
)
def test_numbers_that_many_programs_have_are_shared(number: float) -> None:
    assert is_usual(number)


@given(st.floats(0.01, 100).map(lambda value: round(value, 9)))
def test_numbers_of_many_digits_are_not_shared(number: float) -> None:
    squares = (number, number**2, 1 / number, 1 / number**2)
    is_root = any(abs(value - round(value)) <= 1e-9 * value for value in squares)
    assert is_usual(number) == (is_root or float(f"{number:.1e}") == number)


def test_tensors_that_are_given_by_name_are_the_same_in_a_key_whatever_their_order() -> None:
    class Difference(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.rsub(x, y)

    program = torch.export.export(Difference(), (torch.ones(3), torch.zeros(3)))
    (node,) = program.graph.find_nodes(op="call_function", target=aten.rsub.Tensor)
    node.args, node.kwargs = (), {"self": node.args[0], "other": node.args[1]}
    assert _share(program) == 1
    result = run_pipeline(program, "decompose").program
    torch.testing.assert_close(result.module()(torch.ones(3), torch.zeros(3)), -torch.ones(3))
