"""`decompose` takes each call by itself: writes and sizes come out right, and what it cannot do so is left to torch with a remark."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from retraced_server.analysis.equivalence import differences
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.by_torch import decompose_by_torch
from retraced_server.passes.decompose.stated_differences import unexplained
from tests.passes.support import Function, export, targets
from tests.program.archives import read_bytes, saved
from tests.support.compare import assert_same_results, validate
from tests.support.growth import calls
from tests.support.large_graphs import as_program, layers
from tests.support.models import by_name

aten = torch.ops.aten


class _Cache(nn.Module):
    """A cache that is written to at a place, read as a whole, and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: torch.Tensor
        self.register_buffer("cache", torch.zeros(2, 6, 4))

    def forward(self, x: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.cache.index_copy_(1, place, x)
        self.cache[:, 0].add_(1)
        return self.cache.sum(1), self.cache


class _Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu_()


def _written_through_views(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = x * 2
    row, flat = y[0], y.view(-1)
    row.add_(1)
    before = flat.clone()
    flat[1:3] = 7
    y.t().mul_(3)
    return before, row, y.sum(0), flat[:2]


def _swapped(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kept = x.clone()
    x.copy_(y)
    y.copy_(kept)
    return x, y + x


def _written_item(x: torch.Tensor) -> torch.Tensor:
    first, second = (x + 1).split(2)
    first.add_(second)
    return torch.cat([first, second]).softmax(0)


_WRITES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "cache": (_Cache(), (torch.randn(2, 2, 4), torch.tensor([1, 3]))),
    "batch norm": (_Normalised(), (torch.randn(2, 3, 5, 5),)),
    "views": (_written_through_views, (torch.randn(3, 4),)),
    "inputs": (_swapped, (torch.randn(3), torch.randn(3))),
    "items": (_written_item, (torch.randn(4, 2),)),
    "fill": (lambda x: (x.fill_(2.0).exp(), x.zero_()), (torch.randn(3),)),
}


@pytest.mark.parametrize("name", _WRITES)
def test_writes_become_functional_call_by_call(name: str) -> None:
    function, inputs = _WRITES[name]
    program = export(function, *inputs)
    result = run_pipeline(program, "decompose")
    assert not result.reports[0].remarks
    validate(result.program)
    assert unexplained(differences(result.program, export(function, *inputs).run_decompositions())) == []
    again = tuple(torch.randn_like(value) if value.is_floating_point() else value for value in inputs)
    assert_same_results(program, result.program, [((*inputs,), {}), (again, {})])
    assert run_pipeline(result.program, "decompose").program is result.program


def test_input_that_is_written_to_and_returned_is_the_value_that_is_returned() -> None:
    program = export(_swapped, torch.randn(3), torch.randn(3))
    result = run_pipeline(program, "decompose").program
    mutated = {
        spec.target: spec.arg.name
        for spec in result.graph_signature.output_specs
        if spec.kind is OutputKind.USER_INPUT_MUTATION
    }
    first, _ = (spec.arg.name for spec in result.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT)
    assert first == mutated[program.graph_signature.user_inputs[0]]


@pytest.mark.parametrize("name", ["autocast", "custom_ops"])
def test_what_needs_the_whole_program_is_left_to_torch_with_a_remark(name: str) -> None:
    remark, *_ = run_pipeline(by_name(name).program, "decompose").reports[0].remarks
    assert remark.startswith("decomposed by torch: it calls ")


def _cond_on_written(p: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x.exp()
    y[0].add_(1)
    return torch.cond(p, lambda y: y.sin(), lambda y: y + 1, (y,)), y


def _cond_on_view_of_written(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    row = y[0]
    y.add_(1)
    return torch.cond(p, lambda row: row.sin(), lambda row: row + 1, (row,))


def _cond_on_written_input(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x[0].add_(1)
    return torch.cond(p, lambda x: x.sin(), lambda x: x + 1, (x,))


def _loop_on_written(p: torch.Tensor, x: torch.Tensor) -> Any:
    y = x.exp()
    y[0].add_(1)
    return torch._higher_order_ops.while_loop(lambda i, z: i < 3, lambda i, z: (i + 1, z.sin()), (torch.tensor(0), y))


@pytest.mark.parametrize("function", [_cond_on_written, _cond_on_view_of_written, _cond_on_written_input, _loop_on_written])
def test_higher_order_operators_are_given_what_values_are_by_then(function: Callable[..., Any]) -> None:
    inputs = torch.tensor(True), torch.randn(4, 6)
    program = export(function, *inputs)
    result = run_pipeline(program, "decompose")
    assert not result.reports[0].remarks
    assert_same_results(program, result.program, [((torch.tensor(flag), torch.randn(4, 6)), {}) for flag in (True, False)])


def _written_results_of_region(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        y = torch.zeros(4, 6)
        row = y[0]
    row.add_(1)
    return y + x.softmax(0), row


def test_results_of_a_region_without_gradients_that_are_one_storage_stay_so() -> None:
    program = export(_written_results_of_region, torch.randn(4, 6))
    assert_same_results(program, run_pipeline(program, "decompose").program, [((torch.randn(4, 6),), {})])


def _written_maximum(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    values, places = torch.max(x.softmax(0), 0)
    return values.mul_(2), values + 1, places


def test_item_that_is_taken_twice_is_one_value() -> None:
    program = export(_written_maximum, torch.randn(4, 6))
    graph = program.graph
    (item,) = (node for node in graph.nodes if node.target is operator.getitem and node.args[1] == 0)
    with graph.inserting_after(item):
        again = graph.call_function(operator.getitem, item.args)
        again.meta = dict(item.meta)
    (add,) = graph.find_nodes(op="call_function", target=aten.add.Tensor)
    add.replace_input_with(item, again)
    program.graph_module.recompile()
    assert_same_results(program, run_pipeline(program, "decompose").program, [((torch.randn(4, 6),), {})])


def test_assertion_that_two_sizes_are_one_is_left_to_be_checked() -> None:
    def function(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        found = a.nonzero()
        torch._check(found.shape[0] == x.shape[0])
        return x.softmax(0) + found[:, :1]

    inputs = torch.randn(4, 6), torch.tensor([1, 1, 1, 0, 1])
    program = torch.export.export(Function(function), inputs, dynamic_shapes=(({0: Dim("rows", max=5)}, None),))
    result = run_pipeline(program, "decompose").program
    assert_same_results(program, result, [(inputs, {})])
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        result.module()(torch.randn(4, 6), torch.tensor([1, 0, 0, 0, 0]))


def test_subgraph_with_nothing_to_decompose_is_left_as_it_is() -> None:
    program = export(
        lambda p, x: (torch.cond(p, lambda x: x.sin(), lambda x: x.cos(), (x,)), x.softmax(0)),
        torch.tensor(True),
        torch.randn(4),
    )
    branch: Any = program.graph_module.true_graph_0
    (sine,) = branch.graph.find_nodes(op="call_function", target=aten.sin.default)
    with branch.graph.inserting_before(sine):
        branch.graph.call_function(aten.exp.default, sine.args).meta.update(sine.meta)
    before = str(branch.graph)
    assert run_pipeline(program, "decompose").modified
    assert str(branch.graph) == before


def test_conjugated_values_of_a_program_that_was_read_are_left_to_torch(tmp_path: Path) -> None:
    exported = export(lambda x: torch.view_as_complex(x.view(4, 3, 2)).conj().real.softmax(0), torch.randn(4, 6))
    program = read_bytes(saved(exported), tmp_path).program
    result = run_pipeline(program, "decompose")
    assert "complex" in result.reports[0].remarks[0]
    assert_same_results(exported, result.program, [((torch.randn(4, 6),), {})])


def test_calls_that_are_alike_are_traced_once() -> None:
    few, many = (_work(number) for number in (2, 8))
    assert many < 2.5 * few


def _work(number: int) -> int:
    program = as_program(layers(number))
    return calls(lambda: run_pipeline(program, "decompose"))


class _Sized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x.flatten(0, 1).softmax(-1)
        return torch.cat([a, x.flatten(0, 1)], 1).view(x.shape[0], x.shape[1], -1)


def test_each_size_is_computed_once() -> None:
    program = torch.export.export(_Sized(), (torch.randn(3, 5, 4),), dynamic_shapes={"x": {0: Dim("a"), 1: Dim("b")}})
    result = run_pipeline(program, "decompose").program
    expressions = [str(node.meta["val"]) for node in result.graph.nodes if isinstance(node.meta.get("val"), torch.SymInt)]
    assert len(set(expressions)) == len(expressions)
    assert unexplained(differences(result, program.run_decompositions())) == []


# -- options --------------------------------------------------------------------------------------------------------------------------


class _Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(9, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        projected = self.linear(x)
        return torch.nn.functional.pad(y, (0, 0, 1, 1))[:, : projected.shape[1]] + projected * self.scale


def test_size_that_export_has_found_to_be_static_is_a_number() -> None:
    inputs = (torch.randn(3, 9, 4), torch.randn(3, 9, 4))
    program = torch.export.export(
        _Fixed(), inputs, dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.AUTO}, {0: Dim.DYNAMIC, 1: Dim.AUTO})
    )
    result = run_pipeline(program, "decompose").program

    def sizes(of: ExportedProgram) -> int:
        return sum(node.target is torch.ops.aten.sym_size.int for node in of.graph.nodes)

    assert sizes(result) == sizes(program.run_decompositions())
    torch.testing.assert_close(result.module()(*inputs), program.module()(*inputs))


class _Asserted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = x.nonzero()
        torch._check(found.shape[0] >= 3)
        return torch.cat([found, found, found[1:]]).reshape(-1).float().sin()


def test_sizes_of_what_is_read_are_computed_beside_assertions_of_them() -> None:
    program = export(_Asserted(), torch.ones(4, 2))
    result = run_pipeline(program, "decompose{by=local}")
    assert not any("decomposed by torch" in remark for report in result.reports for remark in report.remarks)
    torch.testing.assert_close(result.program.module()(torch.ones(4, 2)), program.module()(torch.ones(4, 2)))


def _activated() -> ExportedProgram:
    return export(nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.LayerNorm(4)), torch.randn(2, 4))


@pytest.mark.parametrize("by", ["local", "torch"])
def test_operators_that_are_preserved_stay_as_they_are(by: str) -> None:
    text = f'decompose{{preserve="aten.linear.default aten.silu.default",by={by}}}'
    found = targets(run_pipeline(_activated(), text).program)
    assert found["aten.linear"] == found["aten.silu"] == 1
    assert not found["aten.layer_norm"]


@pytest.mark.parametrize("by", ["local", "torch"])
def test_only_the_operators_that_are_named_are_rewritten(by: str) -> None:
    found = targets(run_pipeline(_activated(), f"decompose{{only=aten.silu.default,by={by}}}").program)
    assert found["aten.linear"] == found["aten.layer_norm"] == found["aten.sigmoid"] == 1
    assert not found["aten.silu"]


def test_operator_that_there_is_not_is_refused() -> None:
    with pytest.raises(RetracedError, match=r"no operator `aten.linear`; .* `aten.linear.default`") as caught:
        run_pipeline(_activated(), "decompose{preserve=aten.linear}")
    assert caught.value.reason is Reason.OPTION_INVALID


def test_both_ways_are_compared_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_pipeline(_activated(), "decompose{by=check}").modified
    another = export(nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.SiLU()), torch.randn(2, 4))
    monkeypatch.setattr(
        "retraced_server.passes.decompose.decompose.decompose_by_torch",
        lambda _program, *rest: decompose_by_torch(another, *rest),
    )
    with pytest.raises(RetracedError, match="torch decomposes the program otherwise than call by call") as caught:
        run_pipeline(_activated(), "decompose{by=check}")
    assert caught.value.reason is Reason.PASS_FAILED
