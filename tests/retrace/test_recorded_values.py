"""Recorded values are compared with what their nodes compute, never mutated, and carry no gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.export import Dim, ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ProxyValue
from tests.support.case import ProgramCase, of_sizes
from tests.support.compare import (
    assert_equivalent,
    assert_same_results,
    assert_shape_env_unchanged,
    fake_mode_of,
    shape_env_snapshot,
    validate,
)
from tests.support.describe import alias_sets, describe_program, values
from tests.support.models import by_name

aten = torch.ops.aten


class Small(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu() + 1, x.transpose(0, 1).contiguous()


SMALL = ProgramCase("small", Small, of_sizes(lambda n: ((torch.randn(n, 8),), {}), (4,), (6,)), ({0: Dim("n", min=2, max=9)},))


def with_value(name: str, change: Any) -> ExportedProgram:
    """The small program with another recorded value at one node."""
    program = SMALL.build()
    node = next(node for node in program.graph.nodes if node.name == name)
    mode = fake_mode_of(program)
    assert mode is not None
    with mode:
        node.meta["val"] = change(node.meta["val"])
    return program


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.to(torch.float64), "recorded dtype torch.float64, executed again it gives torch.float32"),
        (lambda v: v[:, :4], r"recorded shape \(s77, 4\), executed again it gives \(s77, 8\)"),
        (lambda v: v[0], r"recorded shape \(8\), executed again it gives \(s77, 8\)"),
        (lambda v: v.to("meta"), "recorded device meta, executed again it gives cpu"),
        (lambda v: torch.empty(4, 8, layout=torch.sparse_coo), "recorded layout torch.sparse_coo"),
        (lambda v: 3, "recorded 3, executed again it gives a tensor"),
        (lambda v: (v, v), "recorded 2 values, executed again it gives a tensor"),
    ],
    ids=["dtype", "size", "rank", "device", "layout", "number", "tuple"],
)
def test_recorded_value_that_is_not_what_the_node_computes_is_an_error(change: Any, message: str) -> None:
    program = with_value("relu", change)
    before = shape_env_snapshot(program)
    with pytest.raises(RetracedError, match=message) as failure:
        run_pipeline(program, "retrace", mode="full")
    assert failure.value.reason is Reason.PASS_FAILED
    assert failure.value.metadata["node"] == "relu"
    assert "test_recorded_values.py" in failure.value.metadata["source"]
    assert_shape_env_unchanged(before, program)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda v: v.as_strided(v.shape, (1, v.shape[0])), "stride"),
        (lambda v: torch.empty_strided((v.shape[0] + 1, 8), (8, 1), dtype=v.dtype)[1:], "storage offset"),
    ],
    ids=["stride", "offset"],
)
def test_other_strides_and_offsets_are_remarks(change: Any, kind: str) -> None:
    program = with_value("relu", change)
    result = run_pipeline(program, "retrace", mode="full")
    assert result.program is program
    (remark,) = result.reports[0].remarks
    assert kind in remark
    assert "relu" in remark


def test_untouched_nodes_keep_their_value_objects_beside_rewritten_ones() -> None:
    class Rewrites(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is aten.relu.default:
                return super().call_operator(aten.clamp_min.default, (args[0], 0), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    program = run_pipeline(SMALL.program, [Rewrites()]).program
    old = {node.name: node for node in SMALL.program.graph.nodes}
    for node in program.graph.nodes:
        assert node.meta.get("val") is old[node.name].meta.get("val"), node.name
        if node.name != "relu":
            assert node.meta.keys() == old[node.name].meta.keys()
            assert all(value is old[node.name].meta[key] for key, value in node.meta.items())


class ClonesEverything(ExportPass):
    """Clones the first operand of every operator, so that each is executed anew on other values."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        if args and isinstance(args[0], ProxyValue) and args[0].is_tensor() and not op._schema.is_mutable:
            args = (super().call_operator(aten.alias.default, args[:1], {}, meta), *args[1:])
        return super().call_operator(op, args, kwargs, meta)


def test_executing_writes_never_touches_recorded_values(in_place_case: ProgramCase) -> None:
    program = in_place_case.program
    before, aliases = describe_program(program), alias_sets(program)
    versions = {name: leaf._version for name, leaf in values(program) if isinstance(leaf, torch.Tensor)}
    for pass_type in (ExportPass, ClonesEverything):
        result = run_pipeline(program, [pass_type()])
        validate(result.program)
        assert_same_results(program, result.program, in_place_case.inputs())
    assert describe_program(program) == before
    assert alias_sets(program) == aliases
    assert {name: leaf._version for name, leaf in values(program) if isinstance(leaf, torch.Tensor)} == versions


class ChangesShapesInPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone()
        y.unsqueeze_(0)
        y.transpose_(1, 2)
        z = y.sum(1)
        y.squeeze_(0)
        return y + 1, z


IN_PLACE_VIEWS = ProgramCase(
    "in_place_views", ChangesShapesInPlace, of_sizes(lambda n: ((torch.randn(n, 8),), {}), (4,), (5,)), ({0: Dim.DYNAMIC},)
)


@pytest.mark.parametrize("pass_type", [ExportPass, ClonesEverything])
def test_operators_after_a_shape_changed_in_place_see_it(pass_type: type[ExportPass]) -> None:
    before = describe_program(IN_PLACE_VIEWS.program)
    program = run_pipeline(IN_PLACE_VIEWS.program, [pass_type()]).program
    assert describe_program(IN_PLACE_VIEWS.program) == before
    assert_equivalent(IN_PLACE_VIEWS, program)


@pytest.mark.parametrize("name", ["bert", "everything", "residual_net", "tied_weights", "while_loop"])
def test_values_of_new_nodes_carry_no_gradients(name: str) -> None:
    case = by_name(name)
    with torch.enable_grad():
        program = run_pipeline(case.program, [ClonesEverything()]).program
    fakes = [(where, leaf) for where, leaf in values(program) if isinstance(leaf, FakeTensor)]
    assert any("alias" in where for where, _ in fakes)
    for where, leaf in fakes:
        assert leaf.grad_fn is None, where


def test_operator_that_returns_its_argument_gives_a_value_of_its_own() -> None:
    class AddsContiguous(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            if op is aten.relu.default:
                return super().call_operator(aten.contiguous.default, (value,), {}, meta)
            return value

    program = run_pipeline(SMALL.program, [AddsContiguous()], mode="full").program
    vals = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    assert len({id(val) for val in vals}) == len(vals)
    assert_equivalent(SMALL, program)
